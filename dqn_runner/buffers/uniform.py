"""Replay memory with uniform sampling (Lin 1992; Mnih et al. 2015)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dqn_runner.errors import RunError
from dqn_runner.spec import PositiveInt, Spec
from dqn_runner.types import Array, Batch, ObsSpec, Transition


class UniformSpec(Spec):
    """Every stored transition is equally likely; the oldest makes room for the newest."""

    capacity: PositiveInt
    """Transitions that are kept; the oldest makes room for the newest."""


class UniformBuffer:
    """A ring of `capacity` transitions in columns allocated once on the learner's device.

    The learner gathers its batch from `storage` by the indices drawn here, so that gathering is
    part of the one function it compiles. On a CPU, rows take memory only once they are written.
    """

    def __init__(
        self, capacity: int, obs_spec: ObsSpec, device: torch.device, next_actions: bool = False
    ) -> None:
        obs_dtype = torch.from_numpy(np.empty(0, obs_spec.dtype)).dtype
        # The update that is captured for CUDA is tried on row 0 before that is written.
        allocate = torch.empty if device.type == "cpu" else torch.zeros

        def column(dtype: torch.dtype, *shape: int) -> Tensor:
            return allocate(capacity, *shape, dtype=dtype, device=device)

        self.storage = Batch(
            obs=column(obs_dtype, *obs_spec.shape),
            action=column(torch.int64),
            reward=column(torch.float32),
            discount=column(torch.float32),
            next_obs=column(obs_dtype, *obs_spec.shape),
            next_action=column(torch.int64) if next_actions else None,
        )
        # On a CPU rows are written through NumPy views, which cost a tenth of a torch call.
        self._device, self._on_cpu = device, device.type == "cpu"
        self._columns: list[Any] = [c.numpy() if self._on_cpu else c for c in self.storage.columns]
        self.capacity, self.size, self._write_head = capacity, 0, 0
        self.num_added = 0  # ever, which numbers the transitions

    def __len__(self) -> int:
        return self.size

    @property
    def num_bytes(self) -> int:
        """Memory that the columns take when they are full, in bytes."""
        return sum(column.nbytes for column in self.storage.columns)

    def add(self, transition: Transition) -> None:
        """Store one transition, over the oldest where the buffer is full."""
        for column, value in zip(self._columns, transition, strict=False):
            row = self._on_device(value) if isinstance(value, np.ndarray) else value
            column[self._write_head] = row
        self._write_head = (self._write_head + 1) % self.capacity
        self.size = min(self.size + 1, self.capacity)
        self.num_added += 1

    def clear(self) -> None:
        """Forget every transition."""
        self.size = self._write_head = 0

    def sample(self, batch_size: int, rng: np.random.Generator) -> Tensor:
        """Indices [batch_size] into `storage`, uniform and with replacement."""
        # A third of the time of rng.integers; no index is likelier by more than size/2^53.
        drawn = (rng.random(batch_size) * self.size).astype(np.int64)
        indices: Tensor = torch.from_numpy(drawn) if self._on_cpu else self._on_device(drawn)
        return indices

    def get_state(self) -> dict[str, int]:
        """Where the ring stands; the transitions themselves are had by `rows`."""
        return {"size": self.size, "write_head": self._write_head, "num_added": self.num_added}

    def set_state(self, state: dict[str, int]) -> None:
        """Take up the ring where it stood; raises RunError for one of another capacity."""
        fits = 0 <= state["size"] <= min(self.capacity, state["num_added"])
        if not fits or not 0 <= state["write_head"] < self.capacity:
            raise RunError(f"buffer.capacity={self.capacity}: the checkpoint has another")
        self.size, self._write_head = state["size"], state["write_head"]
        self.num_added = state["num_added"]

    def rows(self, first: int, last: int) -> list[Tensor]:
        """Columns of the transitions number `first` to `last`, which must still be stored."""
        return [column[self._places(first, last)].cpu() for column in self.storage.columns]

    def set_rows(self, first: int, last: int, columns: list[Tensor]) -> None:
        """Put what `rows` gave back in its place."""
        for column, values in zip(self.storage.columns, columns, strict=True):
            column[self._places(first, last)] = values.to(column.device)

    def _places(self, first: int, last: int) -> Tensor:
        numbers = torch.arange(first, last, device=self._device)
        return (numbers - self.num_added + self._write_head) % self.capacity

    def _on_device(self, values: Array) -> Any:
        """`values` where the columns are, without waiting for a copy to end."""
        if self._on_cpu:
            return values
        tensor = torch.from_numpy(values)
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)


class PhaseBuffer(UniformBuffer):
    """Holds all of one phase's transitions: `capacity` is a limit, and none makes room for another.

    Allocated at its limit, for a compiled update works on storage that stays where it is.
    """

    def add(self, transition: Transition) -> None:
        """Store one transition; raises RunError where the limit would be exceeded."""
        if self.size == self.capacity:
            raise RunError(
                f"buffer.capacity={self.capacity}: the transitions of a phase do not fit; collect "
                f"fewer phase.episodes or allow more, at {self.num_bytes // self.capacity} bytes a "
                "transition"
            )
        super().add(transition)
