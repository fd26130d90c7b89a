"""Observations as rows of storage, and actions counted from 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete

from dqn_runner.types import Array, ObsSpec

Env = gym.Env[Any, Any]

KEPT = (np.dtype(np.uint8), np.dtype(np.bool_))  # types that storage keeps; others become float32


class ObsEncoder:
    """Turns raw observations into rows of storage.

    A Box becomes float32, but one of uint8 or bool stays as it is; a Discrete is one-hot. A Box
    keeps its shape, as convolutional networks need it; an MLP flattens it itself. One of shape ()
    becomes one of shape (1,). Of a Dict the parts named `keys` are encoded, flattened and joined;
    a single one is encoded as if it were alone. `spec` describes `frame_stack` observations.
    """

    def __init__(
        self, space: gym.Space[Any], frame_stack: int = 1, keys: Sequence[str] | None = None
    ) -> None:
        self._space = space
        self._parts: dict[str, ObsEncoder] = {}
        if isinstance(space, Dict):
            assert keys
            self._parts = {key: ObsEncoder(space[key]) for key in keys}
        frame = _frame_spec(space, [part.spec for part in self._parts.values()])
        stacked = (frame_stack, *frame.shape) if frame_stack > 1 else frame.shape
        self.spec: ObsSpec = ObsSpec(stacked, frame.dtype, frame_stack)

    def write(self, obs: Any, row: Array) -> None:
        """Encode one observation into `row` [*frame_shape].

        Raises ValueError if the shape is wrong, a part is missing, a Discrete observation is
        outside of its space, or a number is not finite.
        """
        if self._parts:
            self._write_parts(obs, row)
            return
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

    def _write_parts(self, obs: Any, row: Array) -> None:
        at = 0
        for key, part in self._parts.items():
            if key not in obs:
                raise ValueError(f"an observation without {key}")
            if len(self._parts) == 1:
                part.write(obs[key], row)
                return
            size = math.prod(part.spec.shape)
            encoded = np.empty(part.spec.shape, part.spec.dtype)
            part.write(obs[key], encoded)
            row[at : at + size] = encoded.ravel()
            at += size

    def batch(self, observations: Any) -> Array:
        """Encode a sequence of N observations into [N, *frame_shape]."""
        rows = np.empty((len(observations), *self.spec.frame_shape), self.spec.dtype)
        for row, obs in zip(rows, observations, strict=True):
            self.write(obs, row)
        return rows


def _frame_spec(space: gym.Space[Any], parts: Sequence[ObsSpec]) -> ObsSpec:
    """Shape and type of one observation of `space`, or of the `parts` of a Dict."""
    if len(parts) == 1:
        return parts[0]
    if parts:
        return ObsSpec((sum(math.prod(part.shape) for part in parts),), np.dtype(np.float32))
    if isinstance(space, Discrete):
        return ObsSpec((int(space.n),), np.dtype(np.float32))
    assert isinstance(space, Box)
    dtype = space.dtype if space.dtype in KEPT else np.dtype(np.float32)
    return ObsSpec(tuple(space.shape) or (1,), np.dtype(dtype))


class FrameStack:
    """Encodes the observations of an episode, each with the ones before it.

    The first observation of an episode fills the whole stack.
    """

    def __init__(self, encoder: ObsEncoder) -> None:
        self._encoder, self.spec = encoder, encoder.spec
        self._frames = np.zeros(encoder.spec.shape, encoder.spec.dtype)  # [k, *frame_shape]

    def start(self, obs: Any, row: Array) -> None:
        """Begin with the first observation of an episode; write the stack into `row`."""
        if self.spec.stack == 1:
            self._encoder.write(obs, row)
            return
        self._encoder.write(obs, self._frames[-1])
        self._frames[:-1] = self._frames[-1]
        row[...] = self._frames

    def push(self, obs: Any, row: Array) -> None:
        """Add the next observation, and write the stack into `row` [*obs_shape]."""
        if self.spec.stack == 1:
            self._encoder.write(obs, row)
            return
        self._frames[:-1] = self._frames[1:]
        self._encoder.write(obs, self._frames[-1])
        row[...] = self._frames


def _is_finite(row: Array) -> bool:
    if row.size > 100:
        return bool(np.isfinite(row).all())
    # For few numbers a sum is six times faster; one of float32 cannot overflow Python's float.
    return math.isfinite(sum(row.ravel().tolist()))


def scalar(value: Any) -> Any:
    """`value` as a Python number, if it is a NumPy number or an array with one element."""
    return value.item() if hasattr(value, "item") else value


def num_actions(env: Env) -> int:
    """How many actions `env` has; those of a MultiDiscrete are its combinations."""
    space = env.action_space
    if isinstance(space, MultiDiscrete):
        return math.prod(space.nvec.ravel().tolist())
    assert isinstance(space, Discrete)  # make_env checks it
    return int(space.n)


def action_decoder(env: Env) -> Callable[[int], Any]:
    """What the environment calls our actions, which are counted from 0.

    A Discrete space may start at another number. The combinations of a MultiDiscrete are counted
    with its last number running fastest.
    """
    space = env.action_space
    if isinstance(space, Discrete):
        return int(space.start).__add__
    assert isinstance(space, MultiDiscrete)
    combinations = np.stack(np.unravel_index(np.arange(num_actions(env)), space.nvec.ravel()), 1)
    actions = combinations.reshape(-1, *space.nvec.shape).astype(space.dtype) + space.start
    return lambda index: actions[index].copy()
