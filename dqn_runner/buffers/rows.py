"""Storage that keeps each transition as a row, in columns allocated once (Mnih et al. 2015)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dqn_runner.errors import RunError
from dqn_runner.types import Array, Batch, ObsSpec, Transition

Column = tuple[tuple[int, ...], torch.dtype]  # shape of one row, type


def columns_of(obs_spec: ObsSpec, next_actions: bool = False) -> list[Column]:
    """The columns of a `Batch`, in its order; the last one only if the target asks for it."""
    obs = (obs_spec.shape, torch.from_numpy(np.empty(0, obs_spec.dtype)).dtype)
    integer, real = ((), torch.int64), ((), torch.float32)
    return [obs, integer, real, real, obs, *([integer] if next_actions else [])]


def row_bytes(obs_spec: ObsSpec, next_actions: bool = False) -> int:
    """Bytes that one transition takes."""
    columns = columns_of(obs_spec, next_actions)
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in columns)


def gather(tensors: Sequence[Tensor], indices: Tensor) -> Batch:
    """The rows `indices` [B] of a storage's `tensors`; pure, so that it can be compiled."""
    return Batch(*(column[indices] for column in tensors))


class RowStorage:
    """A ring of `capacity` transitions on the learner's device; the newest replaces the oldest.

    With `keep_all` nothing is replaced: a transition that does not fit raises RunError. On a CPU,
    rows take memory only when they are written.
    """

    def __init__(
        self,
        capacity: int,
        obs_spec: ObsSpec,
        device: torch.device,
        *,
        next_actions: bool = False,
        keep_all: bool = False,
    ) -> None:
        # A CUDA update is tried on row 0 before that row is written.
        allocate = torch.empty if device.type == "cpu" else torch.zeros
        self.tensors: tuple[Tensor, ...] = tuple(
            allocate(capacity, *shape, dtype=dtype, device=device)
            for shape, dtype in columns_of(obs_spec, next_actions)
        )
        # On a CPU rows are written through NumPy views, which cost a tenth of a torch call.
        self.device, self._on_cpu = device, device.type == "cpu"
        self._columns: list[Any] = [c.numpy() if self._on_cpu else c for c in self.tensors]
        self._keep_all = keep_all
        self.capacity, self.size, self._write_head = capacity, 0, 0
        self.num_added = 0  # ever; it numbers the transitions

    def __len__(self) -> int:
        return self.size

    @property
    def num_bytes(self) -> int:
        """Memory that a full storage takes, in bytes."""
        return sum(column.nbytes for column in self.tensors)

    def add(self, transition: Transition) -> None:
        """Store one transition; raises RunError if it does not fit and all must be kept."""
        if self._keep_all and self.size == self.capacity:
            raise RunError(
                f"buffer.capacity={self.capacity}: the transitions of a phase do not fit; collect "
                f"fewer phase.episodes or allow more, at {self.num_bytes // self.capacity} bytes a "
                "transition"
            )
        for column, value in zip(self._columns, transition, strict=False):
            if isinstance(value, np.ndarray) and not self._on_cpu:
                column[self._write_head] = self.on_device(value)
            else:
                column[self._write_head] = value
        self._write_head = (self._write_head + 1) % self.capacity
        self.size = min(self.size + 1, self.capacity)
        self.num_added += 1

    def clear(self) -> None:
        """Forget every transition."""
        self.size = self._write_head = 0

    def get_state(self) -> dict[str, int]:
        """Where the ring stands; `rows` gives the transitions themselves."""
        return {"size": self.size, "write_head": self._write_head, "num_added": self.num_added}

    def set_state(self, state: dict[str, int]) -> None:
        """Put the ring back to where it stood; raises RunError for a state of another capacity."""
        fits = 0 <= state["size"] <= min(self.capacity, state["num_added"])
        if not fits or not 0 <= state["write_head"] < self.capacity:
            raise RunError(f"buffer.capacity={self.capacity}: the checkpoint has another")
        self.size, self._write_head = state["size"], state["write_head"]
        self.num_added = state["num_added"]

    def rows(self, first: int, last: int) -> list[Tensor]:
        """Columns of the transitions number `first` to `last` (excluded), all still stored."""
        places = torch.from_numpy(self.places(first, last)).to(self.device)
        return [column[places].cpu() for column in self.tensors]

    def set_rows(self, first: int, last: int, columns: list[Tensor]) -> None:
        """Put what `rows` gave back into its place."""
        places = torch.from_numpy(self.places(first, last)).to(self.device)
        for column, values in zip(self.tensors, columns, strict=True):
            column[places] = values.to(column.device)

    def places(self, first: int, last: int) -> Array:
        """The indices of the transitions number `first` to `last` (excluded), all still stored."""
        ahead = self._write_head - self.num_added
        return np.arange(first + ahead, last + ahead) % self.capacity

    def stretches(self, first: int, last: int) -> list[tuple[int, int]]:
        """The same as start and stop of each run of neighbors."""
        start = (first + self._write_head - self.num_added) % self.capacity
        stop = start + last - first
        if stop <= self.capacity:
            return [(start, stop)]
        return [(start, self.capacity), (0, stop - self.capacity)]

    def on_device(self, values: Array) -> Tensor:
        """`values` on the device of the columns, without waiting for the copy to end."""
        tensor = torch.from_numpy(values)
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)
