"""Noise on weights: its distribution in closed form, and where it is drawn and where not."""

import math

import numpy as np
import pytest
import torch
from building import HEADS, build, mlp
from torch import nn

from dqn_runner.learning.learner import Learner
from dqn_runner.networks.flat import FlatNetwork
from dqn_runner.networks.init import NormalInit, initialize
from dqn_runner.networks.noisy import NoisyLinear
from dqn_runner.policy import load_policy
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.seeding import get_state, random_streams

NOISY = (
    *("network.noisy=0.5", "epsilon=fixed", "epsilon.value=0", "network.hidden_sizes=[8,7]"),
    *("total_timesteps=120", "eval.final_episodes=1"),
)


def noisy_layer(num_in, num_out, sigma_0=0.5, seed=0):
    """A layer whose σ differ from weight to weight."""
    build = lambda: NoisyLinear(nn.Linear(num_in, num_out), sigma_0)  # noqa: E731
    layer = initialize(build, seed).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for sigma in (layer.weight_sigma, layer.bias_sigma):
        sigma.mul_(0.5 + torch.rand(sigma.shape, generator=generator))
    return layer


def test_outputs_are_those_of_the_papers_sums():
    """y_j = Σ_i (μ_ij + σ_ij·f(ε_i)·f(ε_j))·x_i + μ_j + σ_j·f(ε_j) (eqs. 9 to 11)."""
    layer, rng = noisy_layer(4, 3), np.random.default_rng(1)
    x, normals = rng.normal(size=4), rng.normal(size=7)
    mean, sigma = layer.weight.double().numpy(), layer.weight_sigma.double().numpy()
    bias, bias_sigma = layer.bias.double().numpy(), layer.bias_sigma.double().numpy()

    def f(number):
        return math.copysign(math.sqrt(abs(number)), number)

    actual = layer(torch.tensor(x, dtype=torch.float32), torch.tensor(normals, dtype=torch.float32))
    for j in range(3):
        e_out = f(normals[4 + j])
        expected = bias[j] + bias_sigma[j] * e_out
        for i in range(4):
            expected += (mean[j, i] + sigma[j, i] * f(normals[i]) * e_out) * x[i]
        assert actual[j].item() == pytest.approx(expected, rel=1e-5)


def test_mean_and_variance_of_the_outputs_are_the_closed_form():
    """With m = E[f(ε)²] = E|ε| = √(2/π): Var y_j = m²·Σ_i σ_ij²·x_i² + m·σ_j²; no covariance.

    The noise of a weight so has the variance σ²·m². Bounds are five standard errors.
    """
    layer, count = noisy_layer(5, 3), 200_000
    x = torch.tensor([0.3, -1.2, 2.0, 0.0, 0.7])
    normals = np.random.default_rng(0).standard_normal((count, 8), np.float32)
    drawn = torch.vmap(lambda noise: layer(x, noise))(torch.from_numpy(normals))
    noise = drawn.double().numpy() - layer(x).double().numpy()
    m = math.sqrt(2 / math.pi)
    weight_sigma, bias_sigma = layer.weight_sigma.double().numpy(), layer.bias_sigma.numpy()
    variance = (
        m**2 * (weight_sigma**2 @ x.double().numpy() ** 2) + m * bias_sigma.astype(float) ** 2
    )
    assert np.all(np.abs(noise.mean(axis=0)) < 5 * np.sqrt(variance / count))
    error = (noise**2).std(axis=0) / math.sqrt(count)
    assert np.all(np.abs((noise**2).mean(axis=0) - variance) < 5 * error)
    assert np.all(error < 0.02 * variance)  # so that a wrong formula shows
    for j, k in ((0, 1), (0, 2), (1, 2)):
        products = noise[:, j] * noise[:, k]
        assert abs(products.mean()) < 5 * products.std() / math.sqrt(count)


def test_noise_begins_as_in_the_paper():
    """σ = σ₀/√p and means uniform in ±1/√p, with p inputs (section 3.2)."""
    layer = initialize(lambda: NoisyLinear(nn.Linear(400, 30), 0.4), 0)
    assert torch.all(layer.weight_sigma == torch.tensor(0.4 / 20))
    assert torch.all(layer.bias_sigma == torch.tensor(0.4 / 20))
    for mean in (layer.weight, layer.bias):
        assert mean.abs().max() <= 1 / 20
    assert layer.weight.std().item() == pytest.approx(1 / 20 / math.sqrt(3), rel=0.03)


def test_init_draws_the_means_of_noisy_layers_and_leaves_their_noise():
    build = lambda: mlp((4,), 3, [16, 8], init=NormalInit(name="normal", std=7.0), noisy=0.5)  # noqa: E731
    layers = [layer for layer in initialize(build, 0).modules() if isinstance(layer, NoisyLinear)]
    assert [layer.weight.shape for layer in layers] == [(8, 16), (3, 8)]
    for layer, sigma in zip(layers, (0.5 / 4, 0.5 / math.sqrt(8)), strict=True):
        assert layer.weight.abs().mean() > 3
        assert torch.all(layer.weight_sigma == torch.tensor(sigma))


@pytest.mark.parametrize("head", HEADS)
def test_without_noise_outputs_are_those_of_the_means(head):
    """A network with noise, told of none, and one without that has its means."""
    noisy = initialize(lambda: mlp((4,), 3, [16, 8], noisy=0.5, head=head), 0)
    plain = initialize(lambda: mlp((4,), 3, [16, 8], head=head), 1)
    means = {name: p for name, p in noisy.state_dict().items() if not name.endswith("_sigma")}
    plain.load_state_dict(means)
    obs = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(noisy(obs).q_values, plain(obs).q_values)


@pytest.mark.parametrize("head", HEADS)
def test_an_update_draws_three_noises_that_are_new_each_time(head):
    network = FlatNetwork(initialize(lambda: mlp((4,), 3, [16, 8], noisy=0.5, head=head), 0))
    num_outputs = 3 * {"categorical": 11, "quantile": 9}.get(head, 1)
    rng, num_normals = np.random.default_rng(0), (16 + 8) + (8 + num_outputs)
    uniforms = (5 * 4, 5 * 5, 0) if head == "implicit quantile" else (0, 0, 0)
    drawn = []
    for _ in range(2):
        noises = network.split_noise(network.draw_noise(rng, 5), 5)
        assert [len(noise) for noise in noises] == [num_normals + count for count in uniforms]
        drawn += [noise.tolist() for noise in noises]
        assert all(0 <= u < 1 for noise in noises for u in noise[num_normals:])
        assert any(x < 0 for x in noises[0][:num_normals])
    numbers = [number for noise in drawn for number in noise]
    assert len(set(numbers)) == len(numbers)


def test_online_target_and_selecting_network_get_noise_of_their_own(train, monkeypatch):
    """As a training calls them; all of them with all their numbers."""
    real_call, real_update = FlatNetwork.__call__, Learner.update
    calls, given = [], []

    def call(self, params, buffers, obs, noise=None):
        calls.append((obs, noise.clone()))
        return real_call(self, params, buffers, obs, noise)

    def update(self, storage, indices, weights, noise=None):
        given.append(noise.clone())
        return real_update(self, storage, indices, weights, noise)

    monkeypatch.setattr(FlatNetwork, "__call__", call)
    monkeypatch.setattr(Learner, "update", update)
    train("run", *NOISY, "agent.double=true")
    assert len(given) > 5
    assert len(calls) == 3 * len(given)
    noises = [noise.tolist() for _, noise in calls]
    assert len(set(map(tuple, noises))) == len(noises)
    for i, noise in enumerate(given):
        of_update = sorted(number for used in noises[3 * i : 3 * i + 3] for number in used)
        assert of_update == sorted(noise.tolist())


def parts_of(config, tmp_path):
    (tmp_path / "run").mkdir()
    return build(config, RunDirectory(tmp_path / "run"))[1]


@pytest.mark.parametrize("num_envs", [1, 8])
@pytest.mark.parametrize("agent", ["dqn", "iqn"])
def test_acting_draws_one_noise_a_step_for_all_environments(compose, tmp_path, agent, num_envs):
    config = compose(*NOISY, f"agent={agent}", f"num_envs={num_envs}", "agent.behaviour=greedy")
    agent = parts_of(config, tmp_path).agent
    rng = random_streams(config.seed).noise
    obs = np.tile(np.array([0.1, -0.2, 0.3, 0.4], np.float32), (num_envs, 1))
    chosen = set()
    for _ in range(200):
        actions = agent.act(obs, 0.0)
        assert len(set(actions)) == 1  # the same observation under the same noise
        chosen |= set(actions)
        rng.standard_normal((8 + 7) + (7 + 2), np.float32)
        assert agent.get_state()["noise"] == get_state(rng)
    assert chosen == {0, 1}  # another noise at another step


def test_the_learned_policy_has_no_noise_and_draws_none(compose, tmp_path):
    agent = parts_of(compose(*NOISY), tmp_path).agent
    before = agent.get_state()["noise"]
    obs = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    first = agent.policy(obs)
    assert np.array_equal(agent.policy(obs), first)
    assert agent.get_state()["noise"] == before
    assert any(agent.act(obs, 0.0) != first.tolist() for _ in range(5))


@pytest.mark.parametrize("num_envs", [1, 8])
def test_evaluations_do_not_move_the_noise(train, num_envs):
    settings = (*NOISY, f"num_envs={num_envs}", "agent=c51")
    runs = [train(f"run{n}", *settings, f"eval.num_episodes={n}") for n in (1, 9)]
    states = [torch.load(run / "checkpoints/last.pt", weights_only=True)["agent"] for run in runs]
    assert states[0]["noise"] == states[1]["noise"]
    assert torch.equal(states[0]["params"], states[1]["params"])
    assert states[0]["noise"] != get_state(random_streams(0).noise)


@pytest.mark.parametrize("agent", ["c51", "iqn"])
def test_a_loaded_policy_is_that_of_the_mean_weights(train, agent):
    run = train("run", *NOISY, f"agent={agent}", "network.dueling=true")
    policy = load_policy(run)
    obs = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    first = policy.on_rows(obs)
    assert np.array_equal(policy.on_rows(obs), first)
    assert np.array_equal(np.concatenate([policy.on_rows(row[None]) for row in obs]), first)


LINE = (
    "network.noisy=0.5: explores by itself, and epsilon={} explores too; rainbow uses "
    "epsilon=fixed epsilon.value=0"
)


@pytest.mark.parametrize(
    ("settings", "schedule"),
    [
        (["epsilon=fixed", "epsilon.value=0.1"], "fixed"),
        (["epsilon=exponential"], "exponential"),
        (["epsilon=linear", "epsilon.start=0", "epsilon.end=0.01"], "linear"),
        (["epsilon=multiplicative", "epsilon.end=0"], "multiplicative"),
        (["epsilon=fixed", "epsilon.value=0"], None),
        (["epsilon=linear", "epsilon.start=0", "epsilon.end=0"], None),
        (["epsilon=exponential", "network.noisy=null"], None),
    ],
)
def test_noise_beside_random_actions_gets_one_line(compose, tmp_path, caplog, settings, schedule):
    parts_of(compose("network.noisy=0.5", *settings), tmp_path)
    lines = [r.getMessage() for r in caplog.records if "explores" in r.getMessage()]
    assert lines == ([] if schedule is None else [LINE.format(schedule)])
