"""How the next state is valued, and the bounds of returns: against loops, NumPy and by hand."""

import math

import numpy as np
import pytest
import torch

from dqn_runner.agents.c51 import CategoricalReturn
from dqn_runner.agents.dqn import DQNSpec, ScalarReturn
from dqn_runner.agents.hl_gauss import HistogramReturn
from dqn_runner.agents.qr_dqn import QuantileReturn
from dqn_runner.agents.targets import (
    best_action,
    munchausen,
    return_bounds,
    selected_action,
    taken_action,
)
from dqn_runner.types import Batch, Outputs, Progress

B, A = 64, 5
ALPHA, TAU, CLIP = 0.9, 0.03, -1.0
HYPER = {
    "munchausen_alpha": torch.tensor(ALPHA, dtype=torch.float64),
    "munchausen_temperature": torch.tensor(TAU, dtype=torch.float64),
    "munchausen_clip": torch.tensor(CLIP, dtype=torch.float64),
}


class Case:
    """A batch, and networks that say something of its observations, which are 0, and of the next.

    Values are so close that a softmax of temperature `TAU` prefers no action by much, but for some
    that are far below the others.
    """

    def __init__(self, seed, make_outputs=Outputs):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        def values():
            far = torch.rand(B, A, generator=generator) < 0.2
            return 0.05 * normal(B, A) - far * 5.0

        def outputs():
            return make_outputs(values())

        self.batch = Batch(
            obs=torch.zeros(1),
            action=torch.randint(A, (B,), generator=generator),
            reward=normal(B),
            discount=normal(B).abs() * (torch.rand(B, generator=generator) < 0.8),
            next_obs=torch.ones(1),
            next_action=torch.randint(A, (B,), generator=generator),
        )
        self.here, self.next, self.online_next = outputs(), outputs(), outputs()

    def target_network(self, obs):
        return self.next if obs is self.batch.next_obs else self.here

    def online_network(self, obs):
        assert obs is self.batch.next_obs
        return self.online_next

    def next_state(self, rule):
        return rule(self.batch, self.target_network, self.online_network, HYPER)


def by_loop(case, action):
    """r + γ·Q(s', a') of each row, for its next `action`."""
    rows = zip(
        case.batch.reward.tolist(), case.batch.discount.tolist(), case.next.q_values.tolist(),
        action, strict=True,
    )  # fmt: skip
    return [reward + discount * values[a] for reward, discount, values, a in rows]


def first_of_highest(row):
    return row.index(max(row))


def test_plain_q_learning_takes_the_action_that_the_target_network_prefers():
    case = Case(2)
    target = case.next_state(best_action).expected_return
    assert target.shape == (B,)
    best = [first_of_highest(row) for row in case.next.q_values.tolist()]
    assert target.tolist() == by_loop(case, best)


def test_double_q_learning_takes_the_action_that_the_online_network_prefers():
    case = Case(3)
    target = case.next_state(selected_action).expected_return
    selected = [first_of_highest(row) for row in case.online_next.q_values.tolist()]
    assert target.tolist() == by_loop(case, selected)
    assert selected != [first_of_highest(row) for row in case.next.q_values.tolist()]


def test_sarsa_takes_the_action_taken_next():
    case = Case(5)
    target = case.next_state(taken_action).expected_return
    assert case.batch.next_action is not None
    assert target.tolist() == by_loop(case, case.batch.next_action.tolist())


def munchausen_in_numpy(case):
    """Vieillard et al. 2020, equation 1, with the clipping of section 4 and as it stands there."""
    q, next_q = case.here.q_values.numpy(), case.next.q_values.numpy()
    pi = np.exp(q / TAU) / np.exp(q / TAU).sum(axis=1, keepdims=True)
    next_pi = np.exp(next_q / TAU) / np.exp(next_q / TAU).sum(axis=1, keepdims=True)
    log_pi = np.log(pi[np.arange(B), case.batch.action.numpy()])
    bonus = ALPHA * np.clip(TAU * log_pi, CLIP, 0.0)
    soft_value = (next_pi * (next_q - TAU * np.log(next_pi))).sum(axis=1)
    return case.batch.reward.numpy() + bonus + case.batch.discount.numpy() * soft_value


def test_munchausens_target_is_that_of_the_paper():
    case = Case(7)
    target = case.next_state(munchausen).expected_return
    expected = munchausen_in_numpy(case)
    assert target.numpy() == pytest.approx(expected, rel=1e-12)
    log_policy = torch.log_softmax(case.here.q_values / TAU, dim=1)
    taken = TAU * log_policy[torch.arange(B), case.batch.action]
    assert (taken < CLIP).any()  # some are clipped
    assert ((taken > CLIP) & (taken < -1e-3)).any()  # and some count as they are


def with_atoms(values, atoms):
    """Distributions over `atoms` with these means: all of the mass on the two beside each."""
    width = atoms[1] - atoms[0]
    mass = (1 - (values.unsqueeze(-1) - atoms).abs() / width).clamp(min=0)
    return Outputs(values, mass.log(), atoms)


def with_quantiles(values):
    """Quantiles with these means."""
    spread = torch.linspace(-2, 2, 8, dtype=torch.float64)
    return Outputs(values, values.unsqueeze(-1) + spread, (torch.arange(8) + 0.5) / 8)


RULES = [best_action, selected_action, taken_action, munchausen]


@pytest.mark.parametrize("rule", RULES)
def test_the_mean_of_the_target_distribution_is_the_target_of_values(rule):
    """By atoms within their range, by quantiles at fixed fractions or, as for iqn, at any."""
    atoms = torch.linspace(-40, 40, 81, dtype=torch.float64)
    case = Case(11, lambda values: with_atoms(values, atoms))
    expected = case.next_state(rule).expected_return
    probabilities = CategoricalReturn().target(case.next_state(rule), HYPER)
    assert probabilities.sum(dim=1).numpy() == pytest.approx(1.0)
    assert (probabilities @ atoms).numpy() == pytest.approx(expected.numpy())

    case = Case(11, with_quantiles)
    expected = case.next_state(rule).expected_return
    quantiles = QuantileReturn(1.0).target(case.next_state(rule), HYPER)
    assert quantiles.shape == (B, 8)
    assert quantiles.mean(dim=1).numpy() == pytest.approx(expected.numpy())


@pytest.mark.parametrize("rule", RULES)
def test_a_histogram_is_around_the_target_of_values(rule):
    atoms = torch.linspace(-40, 40, 81, dtype=torch.float64)
    case = Case(13, lambda values: with_atoms(values, atoms))
    shares = HistogramReturn(0.75).target(case.next_state(rule), HYPER)
    expected = case.next_state(rule).expected_return
    assert (shares @ atoms).numpy() == pytest.approx(expected.numpy(), abs=1e-2)
    assert torch.equal(ScalarReturn("mse").target(case.next_state(rule), HYPER), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("rewards", [(1.0, 1.0), (-1.0, -1.0), (-100.0, 10.0), (0.0, 2.0)])
def test_return_bounds_hold_for_every_sequence_of_such_rewards(gamma, rewards):
    """The extremes over episodes of any length, each reward at an end of its range."""
    low, high = return_bounds(rewards[0], rewards[1], gamma)
    returns = [
        sum(reward * gamma**k for k in range(length))
        for reward in rewards
        for length in (0, 1, 10, 5000)
    ]
    assert low == pytest.approx(min(returns), abs=1e-9)
    assert high == pytest.approx(max(returns), abs=1e-9)


def test_returns_without_discount_have_no_bounds_and_those_without_rewards_are_zero():
    assert return_bounds(-1.0, 2.0, 1.0) == (-np.inf, np.inf)
    assert return_bounds(0.0, 0.0, 1.0) == (0.0, 0.0)
    assert return_bounds(np.inf, -np.inf, 0.9) == (0.0, 0.0)  # none seen yet


def spec_of(**settings):
    """An agent's settings with Munchausen's target."""
    return DQNSpec.model_validate(
        {"lr": 1e-3, "gamma": 0.9, "n_step": 1, "double": False, "loss": "mse",
         "max_grad_norm": None, "max_grad_value": None, "optimizer": {"name": "adam"},
         "td_target": "munchausen", **settings}
    )  # fmt: skip


@pytest.mark.parametrize("temperature", [0.03, 0.5, 20.0])
@pytest.mark.parametrize("rewards", [(0.0, 1.0), (-1.0, 0.0)])
def test_bounds_of_returns_hold_with_munchausens_bonus(temperature, rewards):
    """All values that value iteration by the paper's formula passes in random small MDPs."""
    spec = spec_of(munchausen={"alpha": ALPHA, "temperature": temperature, "clip": CLIP})
    progress = Progress()
    progress.see(list(rewards), [False, False])
    low, high = spec.return_bounds(progress, A)
    rng, states, passed = np.random.default_rng(0), 6, []
    for _ in range(20):
        following = rng.dirichlet(np.full(states, 0.3), size=(states, A))
        reward = rng.choice(rewards, size=(states, A))
        q = np.zeros((states, A))
        for _ in range(150):
            scaled = q / temperature - (q / temperature).max(axis=1, keepdims=True)
            log_pi = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
            soft_value = (np.exp(log_pi) * (q - temperature * log_pi)).sum(axis=1)
            bonus = ALPHA * np.clip(temperature * log_pi, CLIP, 0.0)
            q = reward + bonus + 0.9 * following @ soft_value
            passed += [q.min(), q.max()]
    assert low <= min(passed)
    assert max(passed) <= high
    without = return_bounds(min(rewards), max(rewards), 0.9)
    assert min(passed) < without[0] or max(passed) > without[1]


def test_bounds_of_returns_with_munchausens_bonus_follow_from_its_numbers():
    progress = Progress()
    progress.see([0.0, 1.0], [False, True])
    low, high = spec_of().return_bounds(progress, 2)
    step = 0.03 * math.log(2)
    assert low == pytest.approx(-10 * 0.9 * step - 0.9)
    assert high == pytest.approx(10 * (1 + step))
    clipped = spec_of(munchausen={"alpha": 0.5, "temperature": 100.0, "clip": -2.0})
    assert clipped.return_bounds(progress, 2)[0] == pytest.approx(-10 * 0.5 * 2 - 1.0)
    without = spec_of(munchausen={"alpha": 0.0}, gamma=1.0)
    assert without.return_bounds(progress, 2) == (-np.inf, np.inf)
    assert spec_of(td_target="max").return_bounds(progress, 2) == (0.0, pytest.approx(10.0))
    numbers = spec_of(clip_target=True).moving_hyperparameters(progress, 2)
    assert (numbers["return_low"], numbers["return_high"]) == (low, high)


@pytest.mark.parametrize("rule", [best_action, selected_action])
def test_the_next_state_is_valued_by_an_allowed_action(rule):
    case = Case(11)
    mask = torch.rand(B, A, generator=torch.Generator().manual_seed(1)) < 0.4
    mask[:, 2] = True
    batch = case.batch._replace(next_mask=mask)
    next_state = rule(batch, case.target_network, case.online_network, HYPER)
    choosing = case.online_next if rule is selected_action else case.next
    for b in range(B):
        allowed = [a for a in range(A) if mask[b, a]]
        action = max(allowed, key=lambda a: float(choosing.q_values[b, a]))
        expected = batch.reward[b] + batch.discount[b] * case.next.q_values[b, action]
        assert float(next_state.expected_return[b]) == pytest.approx(float(expected), rel=1e-12)
