"""Observations as rows of storage, and actions counted from 0."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete

from dqn_runner.types import Array, ObsSpec

Env = gym.Env[Any, Any]


class ObsEncoder:
    """Turns raw observations into rows of storage: Box as float32 (uint8 stays), Discrete one-hot.

    A Box keeps its shape, as convolutional networks need it; an MLP flattens it itself. A Box of
    shape () becomes one of shape (1,).
    """

    def __init__(self, space: gym.Space[Any]) -> None:
        self._space = space
        if isinstance(space, Discrete):
            self.spec = ObsSpec((int(space.n),), np.dtype(np.float32))
        else:
            assert isinstance(space, Box)
            dtype = np.uint8 if space.dtype == np.uint8 else np.float32
            self.spec = ObsSpec(tuple(space.shape) or (1,), np.dtype(dtype))

    def write(self, obs: Any, row: Array) -> None:
        """Encode one observation into `row` [*obs_shape].

        Raises ValueError if the shape is wrong, a Discrete observation is outside of its space, or
        a number is not finite.
        """
        if isinstance(self._space, Discrete):
            index, first, n = int(scalar(obs)), int(self._space.start), int(self._space.n)
            if index != obs or not first <= index < first + n:
                raise ValueError(f"an observation of {obs}, not from {first} to {first + n - 1}")
            row[:] = 0.0
            row[index - first] = 1.0
            return
        if np.shape(obs) != self._space.shape:
            raise ValueError(f"an observation of shape {np.shape(obs)}, not {self._space.shape}")
        row[...] = obs
        if row.dtype == np.float32 and not _is_finite(row):
            raise ValueError("an observation that is not finite")

    def batch(self, observations: Any) -> Array:
        """Encode a sequence of N observations into [N, *obs_shape]."""
        rows = np.empty((len(observations), *self.spec.shape), self.spec.dtype)
        for row, obs in zip(rows, observations, strict=True):
            self.write(obs, row)
        return rows


def _is_finite(row: Array) -> bool:
    if row.size > 100:
        return bool(np.isfinite(row).all())
    # For few numbers a sum is six times faster; one of float32 cannot overflow Python's float.
    return math.isfinite(sum(row.ravel().tolist()))


def scalar(value: Any) -> Any:
    """`value` as a Python number, if it is a NumPy number or an array with one element."""
    return value.item() if hasattr(value, "item") else value


def num_actions(env: Env) -> int:
    """How many actions `env` has."""
    return int(env.action_space.n)  # type: ignore[attr-defined]  # make_env checks for Discrete


def action_offset(env: Env) -> int:
    """What the environment calls our action 0: a Discrete space may start at another number."""
    assert isinstance(env.action_space, Discrete)
    return int(env.action_space.start)
