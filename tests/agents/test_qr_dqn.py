"""The quantile Huber loss against loops, autograd, sample quantiles and sb3-contrib."""

import numpy as np
import pytest
import torch
from building import agent_of, learn, mlp, numbers_of, rule_for
from torch import nn

from dqn_runner.agents.qr_dqn import QuantileReturn, quantile_huber
from dqn_runner.agents.targets import by_action
from dqn_runner.learning.learner import Learner
from dqn_runner.networks.flat import FlatNetwork
from dqn_runner.networks.heads import midpoints
from dqn_runner.types import Batch, Outputs

B, K, L = 16, 5, 7
KAPPAS = [0.0, 0.3, 1.0, 2.5]


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def case(seed, per_row=False):
    """Quantiles [B, K], fractions [K] or [B, K], and targets [B, L]."""
    generator = torch.Generator().manual_seed(seed)
    taus = midpoints(K).double()
    if per_row:
        taus = torch.rand(B, K, generator=generator, dtype=torch.float64)
    return 2 * normal(generator, B, K), taus, 2 * normal(generator, B, L)


def by_loop(quantiles, taus, target, kappa):
    """Dabney et al. 2018a, equations 9 and 10, and 2018b, equation 3, pair by pair."""
    losses = []
    for b in range(len(quantiles)):
        total = 0.0
        for i in range(quantiles.shape[1]):
            tau = (taus if taus.dim() == 1 else taus[b])[i].item()
            for j in range(target.shape[1]):
                u = target[b, j].item() - quantiles[b, i].item()
                weight = abs(tau - (1.0 if u < 0 else 0.0))
                if kappa == 0.0:
                    total += weight * abs(u) / target.shape[1]
                    continue
                huber = 0.5 * u**2 if abs(u) <= kappa else kappa * (abs(u) - 0.5 * kappa)
                total += weight * huber / kappa / target.shape[1]
        losses.append(total)
    return losses


@pytest.mark.parametrize("per_row", [False, True], ids=["taus [K]", "taus [B, K]"])
@pytest.mark.parametrize("kappa", KAPPAS)
def test_the_loss_is_that_of_a_loop_over_all_pairs(kappa, per_row):
    quantiles, taus, target = case(0, per_row)
    loss = quantile_huber(quantiles, taus, target, kappa)
    assert loss.tolist() == pytest.approx(by_loop(quantiles, taus, target, kappa), rel=1e-12)


def plainly(quantiles, taus, target, kappa):
    """The formula as the papers have it, for autograd to derive."""
    error = target.unsqueeze(1) - quantiles.unsqueeze(2)
    size = error.abs()
    huber = torch.where(size <= kappa, 0.5 * error.square(), kappa * (size - 0.5 * kappa)) / kappa
    weight = (taus.unsqueeze(-1) - (error.detach() < 0).double()).abs()
    return (weight * huber).mean(2).sum(1)


@pytest.mark.parametrize("per_row", [False, True], ids=["taus [K]", "taus [B, K]"])
@pytest.mark.parametrize("kappa", KAPPAS[1:])
def test_the_gradient_is_what_autograd_derives_of_the_plain_formula(kappa, per_row):
    quantiles, taus, target = case(1, per_row)
    weights = torch.linspace(0.1, 2.0, B, dtype=torch.float64)
    grads = []
    for loss in (quantile_huber, plainly):
        leaf = quantiles.clone().requires_grad_()
        (grad,) = torch.autograd.grad((weights * loss(leaf, taus, target, kappa)).sum(), leaf)
        grads.append(grad)
    assert grads[0].numpy() == pytest.approx(grads[1].numpy(), rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("kappa", KAPPAS)
def test_the_gradient_is_the_slope_of_the_loss(kappa):
    """By central differences; no pair is so close that a kink lies between."""
    quantiles, taus, target = case(2)
    leaf = quantiles.clone().requires_grad_()
    (grad,) = torch.autograd.grad(quantile_huber(leaf, taus, target, kappa).sum(), leaf)
    step = 1e-6
    for i in range(K):
        moved = torch.zeros(K, dtype=torch.float64)
        moved[i] = step
        above, below = (
            quantile_huber(quantiles + sign * moved, taus, target, kappa) for sign in (1, -1)
        )
        slope = (above - below) / (2 * step)
        assert grad[:, i].numpy() == pytest.approx(slope.numpy(), abs=1e-6)


@pytest.mark.parametrize("distribution", ["normal", "exponential", "two points"])
def test_the_quantiles_of_least_loss_are_those_of_the_sample(distribution):
    """With κ = 0, by gradient descent with steps that shrink."""
    rng = np.random.default_rng(0)
    draw = {
        "normal": lambda: rng.normal(3.0, 2.0, 999),
        "exponential": lambda: rng.exponential(2.0, 999),
        "two points": lambda: np.where(rng.random(999) < 0.34, -1.0, 4.0),
    }[distribution]
    sample = draw()
    target = torch.from_numpy(sample).unsqueeze(0)
    taus = midpoints(K).double()
    quantiles = torch.zeros(1, K, dtype=torch.float64)
    for step in range(3000):
        leaf = quantiles.clone().requires_grad_()
        (grad,) = torch.autograd.grad(quantile_huber(leaf, taus, target, 0.0).sum(), leaf)
        quantiles = quantiles - 0.5 * 0.997**step * grad
    expected = np.quantile(sample, taus.numpy(), method="inverted_cdf")
    assert quantiles[0].numpy() == pytest.approx(expected, abs=0.05)


def test_the_target_is_each_quantile_moved_by_reward_and_discount():
    generator = torch.Generator().manual_seed(4)
    quantiles = normal(generator, B, 3, K)
    reward, action = normal(generator, B), torch.randint(3, (B,), generator=generator)
    discount = 0.9 * (torch.rand(B, generator=generator) < 0.7).double()
    empty = torch.empty(0)
    batch = Batch(empty, action, reward, discount, empty)
    outputs = Outputs(quantiles.mean(2), quantiles, midpoints(K))
    target = QuantileReturn(1.0).target(by_action(batch, outputs, action), {})
    for b in range(B):
        row = quantiles[b, int(action[b])].tolist()
        expected = [reward[b].item() + discount[b].item() * value for value in row]
        assert target[b].tolist() == pytest.approx(expected, abs=1e-12)


def test_the_loss_of_an_action_is_its_priority_and_its_value_the_mean():
    quantiles, taus, target = case(5)
    of_all = torch.stack([quantiles - 9, quantiles, quantiles + 9], dim=1).requires_grad_()
    outputs = Outputs(of_all.mean(2), of_all, taus)
    loss, priority, q_value = QuantileReturn(1.0).loss(
        outputs, torch.ones(B, dtype=torch.int64), target
    )
    assert loss.tolist() == pytest.approx(by_loop(quantiles, taus, target, 1.0), rel=1e-12)
    assert torch.equal(priority, loss)
    assert not priority.requires_grad
    assert q_value.tolist() == pytest.approx([np.mean(row) for row in quantiles.tolist()])
    (grad,) = torch.autograd.grad(loss.sum(), of_all)
    assert grad[:, 1].any()
    assert not grad[:, [0, 2]].any()


def test_the_loss_is_sb3_contribs():
    """Theirs is the mean over the batch, with κ = 1."""
    from sb3_contrib.common.utils import quantile_huber_loss

    for per_row in (False, True):
        quantiles, taus, target = case(6, per_row)
        theirs = quantile_huber_loss(
            quantiles, target, taus.expand(B, K).unsqueeze(2), sum_over_quantiles=True
        )
        ours = quantile_huber(quantiles, taus, target, 1.0)
        assert ours.mean().item() == pytest.approx(theirs.item(), rel=1e-12)


def test_updates_are_those_of_sb3_contribs_qr_dqn(monkeypatch):
    """Five of the same weights on the same batches, by Adam with its ε and a clipped gradient."""
    import gymnasium as gym
    from sb3_contrib import QRDQN
    from stable_baselines3.common.type_aliases import ReplayBufferSamples

    size, actions, lr = 32, 2, 5e-3
    net_arch = {"n_quantiles": K, "net_arch": [8, 6], "activation_fn": nn.ReLU}
    theirs = QRDQN(
        "MlpPolicy", gym.make("CartPole-v1"), learning_rate=lr, gamma=0.9, max_grad_norm=0.5,
        policy_kwargs=net_arch, buffer_size=10, device="cpu", seed=0,
    )  # fmt: skip

    def in_our_order(net):
        """Their last layer has the actions of each quantile, ours the quantiles of each action."""
        *hidden, weight, bias = (p.detach() for p in net.parameters())
        last = [weight.view(K, actions, -1).transpose(0, 1), bias.view(K, actions).T]
        return torch.cat([p.flatten() for p in (*hidden, *last)])

    generator = torch.Generator().manual_seed(0)
    for parameter in theirs.quantile_net_target.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    agent = agent_of("qr_dqn", lr=lr, num_quantiles=K, max_grad_norm=0.5,
                     optimizer={"name": "adam", "eps": 0.01 / size})  # fmt: skip
    network = FlatNetwork(mlp((4,), actions, [8, 6], agent=agent))
    learner = Learner(rule_for(agent, network), numbers_of(agent, actions),
                      in_our_order(theirs.quantile_net), network.buffers)  # fmt: skip
    learner.state.target_params.copy_(in_our_order(theirs.quantile_net_target))
    done = (torch.rand(size, generator=generator) < 0.3).float()
    batch = Batch(
        obs=torch.randn(size, 4, generator=generator),
        action=torch.randint(actions, (size,), generator=generator),
        reward=torch.randn(size, generator=generator),
        discount=0.9 * (1 - done),
        next_obs=torch.randn(size, 4, generator=generator),
    )
    sample = ReplayBufferSamples(
        batch.obs, batch.action[:, None], batch.next_obs, done[:, None], batch.reward[:, None]
    )
    monkeypatch.setattr(theirs.replay_buffer, "sample", lambda *_, **__: sample)
    recorded = Recorded()
    theirs.set_logger(recorded)
    before = learner.state.params.clone()
    for _ in range(5):
        theirs.train(gradient_steps=1, batch_size=size)
        learn(learner, batch, torch.arange(size))
        loss = learner.read_metrics()["train/td_loss"]
        assert loss == pytest.approx(recorded.values["train/loss"], rel=1e-5)
    expected = in_our_order(theirs.quantile_net)
    assert (expected - before).abs().max() > 0.01
    torch.testing.assert_close(learner.state.params, expected, rtol=1e-4, atol=1e-5)


class Recorded:
    """Stands for their logger."""

    def __init__(self):
        self.values = {}

    def record(self, name, value, exclude=None):
        self.values[name] = value
