"""Policies over action values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dqn_runner.types import Array, QFunction


class GreedyPolicy:
    """Picks the action of highest value; ties go to the lowest index."""

    def __init__(self, q_function: QFunction) -> None:
        self._q_function = q_function

    def __call__(self, obs: Array, action_mask: Array | None = None) -> npt.NDArray[np.int64]:
        """Actions [N] for observations [N, *obs_shape], among those that `action_mask` allows."""
        return self.choose(self._q_function(obs), action_mask)

    def choose(self, q_values: Array, action_mask: Array | None = None) -> npt.NDArray[np.int64]:
        """Actions [N] by their values [N, A]."""
        action: npt.NDArray[np.int64] = allowed_values(q_values, action_mask).argmax(axis=1)
        return action

    def seeded(self, seeds: Sequence[int]) -> GreedyPolicy:
        """This policy itself: it draws nothing."""
        return self


class SoftmaxPolicy:
    """Draws action a with probability proportional to exp(Q(a) / temperature), from `rng`.

    Also called Boltzmann exploration (Sutton and Barto 1998, section 2.3).
    """

    def __init__(self, q_function: QFunction, temperature: float, rng: np.random.Generator) -> None:
        self._q_function, self._temperature, self._rng = q_function, temperature, rng

    def __call__(self, obs: Array, action_mask: Array | None = None) -> npt.NDArray[np.int64]:
        """Actions [N] for observations [N, *obs_shape], among those that `action_mask` allows."""
        return self.choose(self._q_function(obs), action_mask)

    def choose(self, q_values: Array, action_mask: Array | None = None) -> npt.NDArray[np.int64]:
        """Actions [N] by their values [N, A]."""
        q_values = allowed_values(q_values, action_mask).astype(np.float64)
        logits = (q_values - q_values.max(axis=1, keepdims=True)) / self._temperature
        # The largest of logits with Gumbel noise is distributed as their softmax (Gumbel 1954),
        # and no exponential can overflow.
        noisy = logits + self._rng.gumbel(size=logits.shape)
        action: npt.NDArray[np.int64] = noisy.argmax(axis=1)
        return action

    def seeded(self, seeds: Sequence[int]) -> SoftmaxPolicy:
        """This policy with draws that depend on `seeds` alone, the seeds of its episodes."""
        return SoftmaxPolicy(self._q_function, self._temperature, np.random.default_rng(seeds))


def allowed_values(q_values: Array, action_mask: Array | None) -> Array:
    """`q_values` [N, A], -inf where `action_mask` [N, A] forbids an action."""
    return q_values if action_mask is None else np.where(action_mask, q_values, -np.inf)


LearnedPolicy = GreedyPolicy | SoftmaxPolicy


def make_policy(
    q_function: QFunction, temperature: float | None, rng: np.random.Generator
) -> LearnedPolicy:
    """The softmax policy of a temperature, drawing from `rng`; without one the greedy policy."""
    if temperature is None:
        return GreedyPolicy(q_function)
    return SoftmaxPolicy(q_function, temperature, rng)
