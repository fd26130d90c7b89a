"""TD targets: the policy by which the next state is valued, and the bounds of returns."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor
from torch.nn import functional

from dqn_runner.learning.learner import Network, NextState
from dqn_runner.learning.optimizers import Hyper
from dqn_runner.types import Batch, Outputs, Progress, at_action


def best_action(
    batch: Batch, target_network: Network, online_network: Network, hyper: Hyper
) -> NextState:
    """The action that the target network prefers (Mnih et al. 2015, eq. 1)."""
    outputs = target_network(batch.next_obs)
    return by_action(batch, outputs, greedy(batch, outputs))


def selected_action(
    batch: Batch, target_network: Network, online_network: Network, hyper: Hyper
) -> NextState:
    """Double Q-learning: the action that the online network prefers (van Hasselt 2016, eq. 4).

    The target network still values it.
    """
    action = greedy(batch, online_network(batch.next_obs))
    return by_action(batch, target_network(batch.next_obs), action)


def greedy(batch: Batch, outputs: Outputs) -> Tensor:
    """The allowed action [B] of highest value in the next state."""
    if batch.next_mask is None:
        return outputs.q_values.argmax(dim=1)
    return outputs.q_values.where(batch.next_mask, -math.inf).argmax(dim=1)


def taken_action(
    batch: Batch, target_network: Network, online_network: Network, hyper: Hyper
) -> NextState:
    """The action that was really taken next (SARSA, Rummery and Niranjan 1994)."""
    assert batch.next_action is not None
    return by_action(batch, target_network(batch.next_obs), batch.next_action)


def by_action(batch: Batch, outputs: Outputs, action: Tensor) -> NextState:
    """The next state valued by one `action` [B]."""
    average = functools.partial(at_action, action=action)
    return NextState(batch.reward, batch.discount, outputs, average)


def munchausen(
    batch: Batch, target_network: Network, online_network: Network, hyper: Hyper
) -> NextState:
    """The softmax of the values over τ, with Munchausen's bonus (Vieillard et al. 2020, eq. 1).

    The reward grows by α·τ·log π(a|s), clipped from below, and the next state's value by the
    entropy of its policy times τ. Both policies are the target network's.
    """
    alpha, temperature = hyper["munchausen_alpha"], hyper["munchausen_temperature"]
    outputs = target_network(batch.next_obs)
    next_log_policy = functional.log_softmax(outputs.q_values / temperature, dim=1)
    next_policy = next_log_policy.exp()
    entropy = -(next_policy * next_log_policy).sum(dim=1)
    q_values = target_network(batch.obs).q_values
    log_policy = at_action(functional.log_softmax(q_values / temperature, dim=1), batch.action)
    # Clipping from above at 0 takes place by itself: it is the logarithm of a probability.
    bonus = alpha * torch.maximum(temperature * log_policy, hyper["munchausen_clip"])
    reward = batch.reward + bonus + batch.discount * temperature * entropy

    def average(values: Tensor) -> Tensor:
        weights = next_policy.reshape(*next_policy.shape, *[1] * (values.dim() - 2))
        return (weights * values).sum(dim=1)

    return NextState(reward, batch.discount, outputs, average)


def likely_returns(progress: Progress, gamma: float) -> tuple[float, float]:
    """A guess of the lowest and the highest return, from the rewards seen so far.

    low  = horizon · mean of the rewards below 0 + the lowest reward
    high = horizon · sqrt(mean of the rewards above 0 · the highest of them) + the highest reward

    A better policy gets rewards above 0 more often than now, and at most at each step; the square
    root is the geometric mean of the two. Rewards that end an episode, which come only once, are in
    the last terms alone. (0, 0) if no reward was seen.
    """
    steps, seen = horizon(gamma, progress), max(progress.env_steps, 1)
    gain = math.sqrt(progress.sum_of_gains / seen * progress.highest_gain)
    low = steps * progress.sum_of_costs / seen + min(progress.lowest_reward, 0.0)
    high = steps * gain + max(progress.highest_reward, 0.0)
    return low, high


def horizon(gamma: float, progress: Progress | None = None) -> float:
    """The env steps that count for a return, "for ever": 1/(1-γ).

    With `gamma` 1 the mean length of an episode so far; without `progress` infinite.
    """
    if gamma < 1.0:
        return 1.0 / (1.0 - gamma)
    return progress.env_steps / max(progress.episodes, 1) if progress else math.inf


def return_bounds(lowest_reward: float, highest_reward: float, gamma: float) -> tuple[float, float]:
    """The lowest and the highest discounted return if rewards stay between these, for any length.

    Infinite if `gamma` is 1; (0, 0) if no reward was seen.
    """
    steps = horizon(gamma)
    low = steps * lowest_reward if lowest_reward < 0.0 else 0.0
    high = steps * highest_reward if highest_reward > 0.0 else 0.0
    return low, high
