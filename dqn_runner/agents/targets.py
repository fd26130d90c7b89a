"""TD targets: the action by which the next state is valued, and the bounds of returns."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from dqn_runner.types import Batch

# (target network's values [B, A], online network's or None, batch) -> action [B]
NextAction = Callable[[Tensor, Tensor | None, Batch], Tensor]


def greedy_action(target_q: Tensor, online_q: Tensor | None, batch: Batch) -> Tensor:
    """The action [B] that the target network's values [B, A] prefer (Mnih et al. 2015, eq. 1).

    With `online_q` [B, A] the one that the online network prefers, while the target network still
    values it (double Q-learning, van Hasselt et al. 2016, eq. 4).
    """
    return (target_q if online_q is None else online_q).argmax(dim=1)


def taken_action(target_q: Tensor, online_q: Tensor | None, batch: Batch) -> Tensor:
    """The action [B] that was really taken next (SARSA, Rummery and Niranjan 1994)."""
    assert batch.next_action is not None
    return batch.next_action


def return_bounds(lowest_reward: float, highest_reward: float, gamma: float) -> tuple[float, float]:
    """The lowest and the highest discounted return if rewards stay between these, for any length.

    Infinite if `gamma` is 1; (0, 0) if no reward was seen.
    """
    horizon = 1.0 / (1.0 - gamma) if gamma < 1.0 else math.inf
    low = horizon * lowest_reward if lowest_reward < 0.0 else 0.0
    high = horizon * highest_reward if highest_reward > 0.0 else 0.0
    return low, high
