"""Replay memory with uniform sampling (Lin 1992; Mnih et al. 2015)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dqn_runner.types import Array, Batch, ObsSpec, PositiveInt, Spec, Transition


class UniformSpec(Spec):
    """Every stored transition is equally likely; the oldest makes room for the newest."""

    capacity: PositiveInt


class UniformBuffer:
    """A ring of `capacity` transitions in columns allocated once on the learner's device.

    The learner gathers its batch from `storage` by the indices drawn here, so that gathering is
    part of the one function it compiles.
    """

    def __init__(self, capacity: int, obs_spec: ObsSpec, device: torch.device) -> None:
        obs_dtype = torch.from_numpy(np.empty(0, obs_spec.dtype)).dtype
        self.storage = Batch(
            obs=torch.zeros(capacity, *obs_spec.shape, dtype=obs_dtype, device=device),
            action=torch.zeros(capacity, dtype=torch.int64, device=device),
            reward=torch.zeros(capacity, device=device),
            discount=torch.zeros(capacity, device=device),
            next_obs=torch.zeros(capacity, *obs_spec.shape, dtype=obs_dtype, device=device),
        )
        # On a CPU rows are written through NumPy views, which cost a tenth of a torch call.
        self._device, self._on_cpu = device, device.type == "cpu"
        self._columns: list[Any] = [c.numpy() if self._on_cpu else c for c in self.storage]
        self.capacity, self.size, self._write_head = capacity, 0, 0

    def __len__(self) -> int:
        return self.size

    @property
    def num_bytes(self) -> int:
        """Memory that the columns take, in bytes, full or not."""
        return sum(column.nbytes for column in self.storage)

    def add(self, transition: Transition) -> None:
        """Store one transition, over the oldest where the buffer is full."""
        for column, value in zip(self._columns, transition, strict=True):
            row = self._on_device(value) if isinstance(value, np.ndarray) else value
            column[self._write_head] = row
        self._write_head = (self._write_head + 1) % self.capacity
        self.size = min(self.size + 1, self.capacity)

    def sample(self, batch_size: int, rng: np.random.Generator) -> Tensor:
        """Indices [batch_size] into `storage`, uniform and with replacement."""
        # A third of the time of rng.integers; no index is likelier by more than size/2^53.
        drawn = (rng.random(batch_size) * self.size).astype(np.int64)
        indices: Tensor = torch.from_numpy(drawn) if self._on_cpu else self._on_device(drawn)
        return indices

    def _on_device(self, values: Array) -> Any:
        """`values` where the columns are, without waiting for a copy to end."""
        if self._on_cpu:
            return values
        tensor = torch.from_numpy(values)
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)
