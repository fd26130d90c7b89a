"""Uniform sampling from replay (Lin 1992; Mnih et al. 2015)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dqn_runner.buffers.rows import RowStorage
from dqn_runner.spec import PositiveInt, Spec


class UniformSpec(Spec):
    """Every stored transition is equally likely; the newest replaces the oldest."""

    # With a default: the config.yaml of older runs has no name.
    name: Literal["uniform"] = "uniform"
    """How transitions are drawn."""
    capacity: PositiveInt
    """Transitions that are kept; the oldest makes room for the newest."""
    # Older runs lack it, and have kept rows.
    storage: Literal["auto", "rows", "frames"] = "rows"
    """Whether each frame is kept once, or both images of each transition; auto: once, if images."""

    def sampler(self, storage: RowStorage) -> UniformSampler:
        """What draws from `storage`."""
        return UniformSampler(storage)

    @property
    def sampler_bytes(self) -> int:
        """Memory that the sampler takes, in bytes: none."""
        return 0


class UniformSampler:
    """Draws transitions of `storage` with equal probability, with replacement."""

    def __init__(self, storage: RowStorage) -> None:
        self._storage = storage
        self._batch_size, self._weights = 0, torch.ones(0, device=storage.device)

    def anneal(self, env_steps: int) -> None:
        """Adapt to `env_steps`; here nothing depends on them."""

    def draw(self, batch_size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Indices [batch_size] into the storage, and their importance weights: all 1."""
        if self._batch_size != batch_size:
            self._batch_size = batch_size
            self._weights = torch.ones(batch_size, device=self._storage.device)
        # A third of the time of rng.integers; no index is likelier by more than size/2^53.
        drawn = (rng.random(batch_size) * self._storage.size).astype(np.int64)
        return self._storage.on_device(drawn), self._weights

    def update(self, indices: Tensor, priorities: Tensor) -> None:
        """Take note of the priorities [B] that an update found; uniform sampling has none."""

    def get_state(self) -> dict[str, Any]:
        """What drawing depends on beside the storage: nothing."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from there."""
