"""C51's projection and loss against the paper's algorithm, and how its range is found."""

import numpy as np
import pytest
import torch
from building import build
from rich.console import Console

from dqn_runner.agents.c51 import CategoricalReturn, CategoricalSpec, cross_entropy, projected
from dqn_runner.agents.hl_gauss import HLGaussSpec
from dqn_runner.agents.targets import by_action, munchausen
from dqn_runner.config.build import check, resolve_agent
from dqn_runner.envs.make import make_env
from dqn_runner.errors import ConfigError, RunError
from dqn_runner.learning.learner import Learner
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.runs.lifecycle import resume, run
from dqn_runner.types import Batch, Outputs, Progress

B, A, K = 64, 4, 11


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def by_algorithm_1(probabilities, places, atoms):
    """Bellemare et al. 2017, algorithm 1, row by row and atom by atom.

    A place on an atom has the same atom below and above; the algorithm as printed loses its mass.
    """
    low, high, last = atoms[0].item(), atoms[-1].item(), len(atoms) - 1
    result = np.zeros((len(places), len(atoms)))
    for row, (chances, moved) in enumerate(
        zip(probabilities.tolist(), places.tolist(), strict=True)
    ):
        for chance, place in zip(chances, moved, strict=True):
            b = (min(max(place, low), high) - low) / ((high - low) / last)
            below, above = int(np.floor(b)), int(np.ceil(b))
            if below == above:
                result[row, below] += chance
            else:
                result[row, below] += chance * (above - b)
                result[row, above] += chance * (b - below)
    return result


@pytest.mark.parametrize(("low", "high"), [(-3.0, 7.0), (0.0, 100.0), (-1.3, 0.1)])
@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0])
def test_the_projection_is_that_of_the_papers_loop(low, high, spread):
    """Rewards take places beyond both ends, discounts of 0 put all of them onto one."""
    generator = torch.Generator().manual_seed(0)
    atoms = torch.linspace(low, high, K, dtype=torch.float64)
    probabilities = normal(generator, B, K).softmax(dim=1)
    reward = spread * (high - low) * normal(generator, B, 1)
    discount = torch.rand(B, 1, generator=generator, dtype=torch.float64)
    places = reward + discount * (torch.rand(B, 1, generator=generator) < 0.8) * atoms
    shares = projected(probabilities, places, atoms)
    assert shares.numpy() == pytest.approx(by_algorithm_1(probabilities, places, atoms), abs=1e-12)
    assert shares.sum(dim=1).numpy() == pytest.approx(1.0, abs=1e-12)
    assert (shares >= 0).all()


def test_a_projection_by_hand():
    """By r = 0.5 and γ = 0.5 the atoms 0, 1, 2 move to 0.5, 1 and 1.5."""
    atoms = torch.tensor([0.0, 1.0, 2.0])
    probabilities = torch.tensor([[0.5, 0.25, 0.25]])
    shares = projected(probabilities, 0.5 + 0.5 * atoms.unsqueeze(0), atoms)
    assert shares.tolist() == [[0.25, 0.625, 0.125]]


def test_mass_on_an_atom_stays_there_and_mass_beyond_an_end_goes_to_it():
    atoms = torch.linspace(-2.0, 2.0, 5)
    probabilities = torch.tensor([[0.5, 0.25, 0.125, 0.0625, 0.0625]]).expand(5, 5)
    places = [atoms, atoms + 1, atoms - 9, atoms + 9, torch.full((5,), 2.0)]
    shares = projected(probabilities, torch.stack(places), atoms)
    assert shares.tolist() == [
        [0.5, 0.25, 0.125, 0.0625, 0.0625],
        [0.0, 0.5, 0.25, 0.125, 0.125],
        [1.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0, 1.0],
        [0.0, 0.0, 0.0, 0.0, 1.0],
    ]


def case(seed):
    """A batch, and two networks' logits: of its observations, which are 0, and of the next."""
    generator = torch.Generator().manual_seed(seed)
    atoms = torch.linspace(-3, 7, K, dtype=torch.float64)
    here, following = (
        Outputs((logits.softmax(2) * atoms).sum(2), logits, atoms)
        for logits in (normal(generator, B, A, K), normal(generator, B, A, K))
    )
    batch = Batch(
        obs=torch.zeros(1),
        action=torch.randint(A, (B,), generator=generator),
        reward=normal(generator, B),
        discount=0.9 * (torch.rand(B, generator=generator) < 0.8).double(),
        next_obs=torch.ones(1),
    )
    return batch, here, following


def test_the_target_of_an_action_is_its_distribution_moved_by_reward_and_discount():
    batch, _, following = case(1)
    target = CategoricalReturn().target(by_action(batch, following, batch.action), {})
    assert following.distribution is not None
    assert following.grid is not None
    taken = following.distribution.softmax(2)[torch.arange(B), batch.action]
    places = batch.reward[:, None] + batch.discount[:, None] * following.grid
    expected = by_algorithm_1(taken, places, following.grid)
    assert target.numpy() == pytest.approx(expected, abs=1e-12)
    ended = (batch.discount == 0).nonzero().flatten()
    assert len(ended) > 0
    assert (target[ended] > 0).sum(dim=1).max() <= 2  # the reward alone, between two atoms


def test_the_target_of_a_policy_is_the_mixture_of_its_actions():
    """Munchausen's: a softmax of the values, whose entropy and bonus move the reward."""
    batch, here, following = case(2)
    alpha, tau, clip = 0.9, 0.5, -1.0
    hyper = {"munchausen_alpha": torch.tensor(alpha), "munchausen_temperature": torch.tensor(tau),
             "munchausen_clip": torch.tensor(clip)}  # fmt: skip
    hyper = {name: value.double() for name, value in hyper.items()}
    next_state = munchausen(
        batch, lambda obs: following if obs is batch.next_obs else here, lambda obs: here, hyper
    )
    target = CategoricalReturn().target(next_state, hyper)
    assert following.distribution is not None
    assert following.grid is not None
    probabilities = following.distribution.softmax(2)
    expected = np.zeros((B, K))
    for b in range(B):
        pi = (following.q_values[b] / 0.5).softmax(0)
        log_pi = (here.q_values[b] / 0.5).log_softmax(0)[batch.action[b]]
        entropy = -(pi * pi.log()).sum()
        reward = batch.reward[b] + 0.9 * max(0.5 * log_pi.item(), -1.0)
        reward = reward + batch.discount[b] * 0.5 * entropy
        places = (reward + batch.discount[b] * following.grid).unsqueeze(0)
        for a in range(A):
            of_action = by_algorithm_1(probabilities[b, a].unsqueeze(0), places, following.grid)
            expected[b] += pi[a].item() * of_action[0]
    assert target.numpy() == pytest.approx(expected, abs=1e-6)


def test_the_loss_is_the_cross_entropy_and_its_gradient_the_difference_of_probabilities():
    batch, here, _ = case(3)
    assert here.distribution is not None
    assert here.grid is not None
    logits = here.distribution.clone().requires_grad_()
    target = normal(torch.Generator().manual_seed(4), B, K).softmax(1)
    outputs = Outputs(here.q_values, logits, here.grid)
    loss, priority, q_value = cross_entropy(outputs, batch.action, target)
    rows = torch.arange(B)
    probabilities = logits.detach().softmax(2)[rows, batch.action]
    expected = [
        -sum(m * np.log(p) for m, p in zip(*pair, strict=True))
        for pair in zip(target.tolist(), probabilities.tolist(), strict=True)
    ]
    assert loss.tolist() == pytest.approx(expected)
    assert torch.equal(priority, loss)
    assert not priority.requires_grad
    assert q_value.numpy() == pytest.approx((probabilities @ here.grid).numpy())
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    assert grad[rows, batch.action].numpy() == pytest.approx(
        (probabilities - target).numpy(), abs=1e-12
    )
    grad[rows, batch.action] = 0.0
    assert not grad.any()


RANGES = [
    (["agent=c51", "env=cartpole"], (0.0, 100.0)),
    (["agent=c51", "env=cartpole", "agent.gamma=0.9"], (0.0, 10.0)),
    (["agent=c51", "env=acrobot"], (-100.0, 0.0)),
    (["agent=c51", "env=mountaincar", "agent.gamma=0.98"], (-50.0, 0.0)),
    (["agent=c51", "env.return_range=[-300,200]"], (-300.0, 200.0)),
    (["agent=c51", "env=cartpole", "agent.v_max=60"], (0.0, 60.0)),
    (["agent=c51", "env=cartpole", "agent.v_min=-7", "agent.v_max=60"], (-7.0, 60.0)),
    # A tenth more on each side.
    (["agent=hl_gauss", "env=cartpole"], (-10.0, 110.0)),
    (["agent=hl_gauss", "env=acrobot", "agent.v_max=5"], (-110.0, 5.0)),
    # 1/(1-γ) times the scaled reward, with Munchausen's bonus: 0.03·log 2 at each step.
    (["agent=c51", "env=cartpole", "agent.reward_scale=0.1"], (0.0, 10.0)),
    (
        ["agent=c51", "env=cartpole", "agent.td_target=munchausen", "agent.double=false"],
        (-0.9 - 90 * 0.03 * np.log(2), 100 + 3 * np.log(2)),
    ),
]


@pytest.mark.parametrize(("overrides", "expected"), RANGES)
def test_the_range_follows_from_what_is_known_of_the_environments_returns(
    compose, overrides, expected
):
    config = compose(*overrides)
    agent = resolve_agent(config, make_env(config.env))
    assert isinstance(agent, CategoricalSpec)
    assert (agent.v_min, agent.v_max) == pytest.approx(expected)
    half_a_bin = 0.0
    if isinstance(agent, HLGaussSpec):
        half_a_bin = (expected[1] - expected[0]) / agent.num_bins / 2
    assert agent.atoms[0].item() == pytest.approx(expected[0] + half_a_bin, abs=1e-4)
    assert agent.atoms[-1].item() == pytest.approx(expected[1] - half_a_bin, abs=1e-4)
    assert agent.atoms.diff().numpy() == pytest.approx(agent.atoms.diff().mean().item(), rel=1e-4)


def test_ends_that_are_no_range_are_refused(compose, command):
    outcome = command("agent=c51", "agent.v_min=5", "agent.v_max=5")
    assert outcome.code == 2
    assert "agent" in outcome.err
    assert "must be less than v_max=5" in outcome.err
    assert len(outcome.err.splitlines()) == 1
    with pytest.raises(ConfigError, match=r"env\.return_range makes that 200 to 100"):
        check(compose("agent=c51", "env=cartpole", "agent.v_min=200"))


def progress_of(rewards, episodes=0, last=None):
    """After these rewards; the one that is `last` ended its episode."""
    progress = Progress(episodes=episodes)
    for reward in rewards:
        progress.see([reward], [reward == last])
        progress.env_steps += 1
    return progress


@pytest.mark.parametrize(
    ("rewards", "gamma", "episodes", "expected"),
    [
        ([1.0, 1.0, 1.0, 1.0], 0.9, 0, (0.0, 10.0 + 1.0)),
        ([-1.0, 0.0, -1.0, 0.0], 0.9, 0, (-5.0 - 1.0, 0.0)),
        ([-2.0, 4.0, 0.0, 0.0], 0.5, 0, (-1.0 - 2.0, 4.0 + 4.0)),
        ([1.0, 0.0, 0.0, 0.0], 0.9, 0, (0.0, 5.0 + 1.0)),
        ([4.0, 0.0, 0.0, 0.0], 1.0, 2, (0.0, 4.0 + 4.0)),  # episodes of two steps
    ],
)
def test_a_found_range_has_room_for_rewards_that_come_more_often(
    compose, rewards, gamma, episodes, expected
):
    spec = compose("agent=c51", "env.return_range=null", f"agent.gamma={gamma}").agent
    assert spec.is_open
    found = spec.settled(progress_of(rewards, episodes), 2)
    assert (found.v_min, found.v_max) == pytest.approx(expected)
    low, high = expected
    with_margin = compose("agent=hl_gauss", "env.return_range=null", f"agent.gamma={gamma}").agent
    found = with_margin.settled(progress_of(rewards, episodes), 2)
    tenth = 0.1 * (high - low)
    assert (found.v_min, found.v_max) == pytest.approx((low - tenth, high + tenth))


def test_a_reward_that_ends_an_episode_counts_once(compose):
    """A goal alone, and a crash and a landing among small rewards."""
    spec = compose("agent=c51", "env.return_range=null", "agent.gamma=0.9").agent
    found = spec.settled(progress_of([0.0, 0.0, 0.0, 1.0], 1, last=1.0), 2)
    assert (found.v_min, found.v_max) == (0.0, 1.0)
    found = spec.settled(progress_of([1.0, -1.0, 0.0, -100.0], 1, last=-100.0), 2)
    assert (found.v_min, found.v_max) == pytest.approx((-2.5 - 100.0, 5.0 + 1.0))


def test_without_a_reward_a_line_says_which_range_is_assumed(compose, caplog):
    spec = compose("agent=c51", "env.return_range=null").agent
    found = spec.settled(progress_of([0.0] * 7), 2)
    assert (found.v_min, found.v_max) == (-1.0, 1.0)
    (line,) = (record.message for record in caplog.records if record.levelname == "WARNING")
    assert "no reward in 7 env steps" in line
    with pytest.raises(RunError, match="set both"):
        compose("agent=c51", "env.return_range=null", "agent.v_max=-9").agent.settled(
            progress_of([1.0]), 2
        )


class Killed(BaseException):
    """Stands for SIGKILL: nothing handles it."""


@pytest.fixture
def supports(monkeypatch):
    """The support at each update of the runs of a test; the run is killed at number 100."""
    seen: list[torch.Tensor] = []
    update = Learner.update

    def noting(self, *arguments):
        seen.append(self.buffers[0].clone())
        if len(seen) == 100:
            raise Killed
        return update(self, *arguments)

    monkeypatch.setattr(Learner, "update", noting)
    return seen


def first_rewards(config, path):
    """The rewards of the env steps before the first update, and those that ended no episode."""
    _, parts = build(config, RunDirectory(path))
    rewards, repeated = [], []
    for env_steps in range(config.learning_starts):
        epsilon = parts.epsilon(env_steps, 0)
        step = parts.envs.step(parts.agent.act(parts.envs.obs, epsilon))
        rewards += step.reward
        repeated += [0.0] if step.terminated[0] else step.reward
    parts.envs.close()
    return rewards, repeated


@pytest.mark.parametrize("agent", ["c51", "hl_gauss"])
def test_an_open_range_is_found_before_the_first_update_and_kept(
    compose, supports, tmp_path, agent
):
    """From the rewards of the steps before it; also where the run is killed and resumed."""
    config = compose(
        f"agent={agent}", "env=lunarlander", "env.return_range=null", "total_timesteps=200"
    )
    with pytest.raises(Killed):
        run(config, tmp_path / "run", Console(quiet=True))
    resume(tmp_path / "run", {}, Console(quiet=True))
    first, *others = supports
    assert len(others) > 140
    assert all(torch.equal(first, other) for other in others)
    rewards, repeated = first_rewards(config, tmp_path / "other")
    low = 100 * np.minimum(repeated, 0.0).mean() + min(rewards)
    gain = np.sqrt(np.maximum(repeated, 0.0).mean() * max(repeated))
    high = 100 * gain + max(rewards)
    assert low < 0.0 < high
    expected = config.agent.covering(low, high).atoms
    assert first.numpy() == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-3)
