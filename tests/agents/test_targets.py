"""The action by which the next state is valued, and the bounds of returns, by loops and by hand."""

import numpy as np
import pytest
import torch

from dqn_runner.agents.targets import greedy_action, return_bounds, taken_action
from dqn_runner.types import Batch


def random_values(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 64, 5, generator=generator, dtype=torch.float64)


def batch_of(next_action=None):
    empty = torch.empty(0)
    return Batch(empty, empty, empty, empty, empty, next_action)


def first_of_highest(row):
    return row.index(max(row))


def test_plain_q_learning_takes_the_action_that_the_target_network_prefers():
    target_q, _ = random_values(2)
    action = greedy_action(target_q, None, batch_of())
    assert action.tolist() == [first_of_highest(row) for row in target_q.tolist()]


def test_double_q_learning_takes_the_action_that_the_online_network_prefers():
    target_q, online_q = random_values(3)
    action = greedy_action(target_q, online_q, batch_of())
    assert action.tolist() == [first_of_highest(row) for row in online_q.tolist()]
    assert action.tolist() != [first_of_highest(row) for row in target_q.tolist()]


def test_sarsa_takes_the_action_taken_next():
    target_q, _ = random_values(5)
    taken = torch.from_numpy(np.random.default_rng(0).integers(5, size=64))
    assert torch.equal(taken_action(target_q, None, batch_of(taken)), taken)


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
