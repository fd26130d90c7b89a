"""TD targets and losses against loops over the batch."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from dqn_runner.agents.targets import next_state_value, return_bounds, td_loss, td_target


def random_batch(seed, size=64, num_actions=5):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return normal(size), normal(size).abs(), normal(size, num_actions), normal(size, num_actions)


def test_td_target_is_reward_plus_discounted_value():
    reward, discount, target_q, _ = random_batch(0)
    target = td_target(reward, discount, target_q[:, 0])
    assert target.shape == (64,)
    for b in range(64):
        assert target[b].item() == reward[b].item() + discount[b].item() * target_q[b, 0].item()


def test_discount_zero_leaves_the_reward_alone():
    reward, _, target_q, _ = random_batch(1)
    assert torch.equal(td_target(reward, torch.zeros(64), target_q[:, 0]), reward)


def test_plain_q_learning_takes_the_targets_own_maximum():
    _, _, target_q, _ = random_batch(2)
    value = next_state_value(target_q, None)
    assert value.tolist() == [max(row) for row in target_q.tolist()]


def test_double_q_learning_selects_with_online_and_evaluates_with_target():
    _, _, target_q, online_q = random_batch(3)
    value = next_state_value(target_q, online_q)
    assert value.shape == (64,)
    for b in range(64):
        online_row = online_q[b].tolist()
        assert value[b].item() == target_q[b, online_row.index(max(online_row))].item()


def test_double_q_learning_where_the_two_networks_disagree():
    target_q = torch.tensor([[10.0, -3.0], [1.0, 2.0]])
    online_q = torch.tensor([[0.0, 1.0], [5.0, 4.0]])
    assert next_state_value(target_q, online_q).tolist() == [-3.0, 1.0]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("rewards", [(1.0, 1.0), (-1.0, -1.0), (-100.0, 10.0), (0.0, 2.0)])
def test_return_bounds_hold_for_every_sequence_of_such_rewards(gamma, rewards):
    """The extremes over episodes of any length, each reward at an end of its range."""
    low, high = return_bounds(*rewards, gamma)
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


def test_sarsa_takes_the_targets_value_of_the_action_taken_next():
    _, _, target_q, _ = random_batch(5)
    next_action = torch.from_numpy(np.random.default_rng(0).integers(5, size=64))
    value = next_state_value(target_q, None, next_action)
    assert value.tolist() == [row[a] for row, a in zip(target_q.tolist(), next_action, strict=True)]


def test_mse_is_the_square_without_a_half():
    td_error = torch.tensor([-3.0, -0.5, 0.0, 0.5, 2.0])
    assert td_loss("mse", td_error).tolist() == [9.0, 0.25, 0.0, 0.25, 4.0]
    zeros = torch.zeros(5)
    assert torch.equal(
        td_loss("mse", td_error), functional.mse_loss(td_error, zeros, reduction="none")
    )


def test_huber_is_quadratic_up_to_one_and_linear_beyond():
    td_error = torch.tensor([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 100.0])
    assert td_loss("huber", td_error).tolist() == [2.5, 0.5, 0.125, 0.0, 0.125, 0.5, 99.5]


def test_huber_equals_smooth_l1_of_prediction_and_target():
    prediction, target, _, _ = random_batch(4)
    prediction = 3 * prediction
    expected = functional.smooth_l1_loss(prediction, target, beta=1.0, reduction="none")
    assert torch.allclose(td_loss("huber", target - prediction), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "slope"), [("mse", lambda x: 2 * x), ("huber", lambda x: max(-1.0, min(1.0, x)))]
)
def test_gradient_of_each_loss(kind, slope):
    td_error = torch.tensor([-4.0, -0.3, 0.0, 0.2, 7.0], requires_grad=True)
    td_loss(kind, td_error).sum().backward()
    assert td_error.grad.tolist() == pytest.approx([slope(x) for x in td_error.tolist()])
