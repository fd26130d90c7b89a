"""Targets and losses of scalar returns against loops over the batch."""

import pytest
import torch
from torch.nn import functional

from dqn_runner.agents.dqn import ScalarReturn, td_loss
from dqn_runner.agents.targets import by_action
from dqn_runner.types import Batch, Outputs


def random_batch(seed, size=64, num_actions=5):
    """Rewards, discounts, and what two networks say of the next states."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    reward, discount = normal(size), normal(size).abs()
    action = torch.randint(num_actions, (size,), generator=generator)
    empty = torch.empty(0)
    batch = Batch(empty, action, reward, discount, empty)
    return batch, Outputs(normal(size, num_actions)), Outputs(normal(size, num_actions))


def test_the_target_is_reward_plus_discounted_value_of_the_action():
    batch, following, _ = random_batch(0)
    action = torch.arange(64) % 5
    target = ScalarReturn("mse").target(by_action(batch, following, action), {})
    assert target.shape == (64,)
    for b in range(64):
        value = following.q_values[b, b % 5].item()
        assert target[b].item() == batch.reward[b].item() + batch.discount[b].item() * value


def test_discount_zero_leaves_the_reward_alone():
    batch, following, _ = random_batch(1)
    batch = batch._replace(discount=torch.zeros(64))
    target = ScalarReturn("mse").target(by_action(batch, following, batch.action), {})
    assert torch.equal(target, batch.reward)


def test_targets_are_clipped_only_if_that_is_asked_for():
    batch, following, _ = random_batch(2)
    hyper = {"return_low": torch.tensor(-0.5), "return_high": torch.tensor(0.25)}
    next_state = by_action(batch, following, batch.action)
    free = ScalarReturn("mse").target(next_state, hyper)
    clipped = ScalarReturn("mse", clip_target=True).target(next_state, hyper)
    assert free.min() < -0.5
    assert free.max() > 0.25
    assert clipped.tolist() == [min(max(y, -0.5), 0.25) for y in free.tolist()]


@pytest.mark.parametrize("kind", ["mse", "huber"])
def test_priorities_are_the_sizes_of_the_td_errors_of_the_actions_taken(kind):
    batch, _, outputs = random_batch(3)
    target = torch.linspace(-3, 3, 64, dtype=torch.float64)
    loss, priority, q_value = ScalarReturn(kind).loss(outputs, batch.action, target)
    assert loss.shape == priority.shape == (64,)
    taken = [outputs.q_values[b, int(batch.action[b])].item() for b in range(64)]
    assert q_value.tolist() == taken
    errors = [
        target[b].item() - outputs.q_values[b, int(batch.action[b])].item() for b in range(64)
    ]
    assert priority.tolist() == pytest.approx([abs(error) for error in errors], abs=1e-12)
    expected = td_loss(kind, torch.tensor(errors, dtype=torch.float64))
    assert loss.tolist() == pytest.approx(expected.tolist(), abs=1e-12)


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
    batch, _, _ = random_batch(4)
    prediction, target = 3 * batch.reward, batch.discount
    expected = functional.smooth_l1_loss(prediction, target, beta=1.0, reduction="none")
    assert torch.allclose(td_loss("huber", target - prediction), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "slope"), [("mse", lambda x: 2 * x), ("huber", lambda x: max(-1.0, min(1.0, x)))]
)
def test_gradient_of_each_loss(kind, slope):
    td_error = torch.tensor([-4.0, -0.3, 0.0, 0.2, 7.0], requires_grad=True)
    (grad,) = torch.autograd.grad(td_loss(kind, td_error).sum(), td_error)
    assert grad.tolist() == pytest.approx([slope(x) for x in td_error.tolist()])
