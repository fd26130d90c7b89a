"""Temporal-difference targets and losses, all on [B]."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Loss = Literal["mse", "huber"]


def td_target(reward: Tensor, discount: Tensor, next_value: Tensor) -> Tensor:
    """reward + discount · value of the successor, each [B].

    `discount` is γ^k·(1 - terminated): it is what makes truncation bootstrap and termination not.
    """
    return reward + discount * next_value


def return_bounds(lowest_reward: float, highest_reward: float, gamma: float) -> tuple[float, float]:
    """The lowest and the highest discounted return of rewards between these, for ever or for less.

    Infinite where `gamma` is 1; (0, 0) where no reward was seen.
    """
    horizon = 1.0 / (1.0 - gamma) if gamma < 1.0 else math.inf
    low = horizon * lowest_reward if lowest_reward < 0.0 else 0.0
    high = horizon * highest_reward if highest_reward > 0.0 else 0.0
    return low, high


def next_state_value(
    target_q: Tensor, online_q: Tensor | None = None, next_action: Tensor | None = None
) -> Tensor:
    """Value [B] of the successor from the target network's `target_q` [B, A].

    Its own maximum (Mnih et al. 2015, eq. 1) or, where `online_q` [B, A] is given, its value of
    the action that the online network prefers (double Q-learning, van Hasselt et al. 2016, eq. 4)
    or, where `next_action` [B] is, of the action really taken next (SARSA, Rummery and Niranjan
    1994).
    """
    if next_action is None:
        if online_q is None:
            return target_q.amax(dim=1)
        next_action = online_q.argmax(dim=1)
    return target_q.gather(1, next_action.unsqueeze(1)).squeeze(1)


def td_loss(kind: Loss, td_error: Tensor) -> Tensor:
    """Loss [B] of each TD error [B]: its square, or Huber's with δ = 1."""
    if kind == "mse":
        return td_error.square()
    return functional.huber_loss(td_error, torch.zeros_like(td_error), reduction="none")
