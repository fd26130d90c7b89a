"""A ring of rows in columns that are allocated once; the newest row replaces the oldest."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dqn_runner.allocation import Allocate, own_memory
from dqn_runner.errors import RunError
from dqn_runner.types import Array

Column = tuple[tuple[int, ...], torch.dtype]  # shape of one row, type


def bytes_of(columns: Iterable[Column]) -> int:
    """Bytes that one row takes."""
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in columns)


class Ring:
    """A ring of `capacity` rows on a device, numbered in the order they came.

    On a CPU, rows take memory only when they are written.
    """

    def __init__(
        self,
        capacity: int,
        columns: Sequence[Column],
        device: torch.device,
        memory: Allocate = own_memory,
    ) -> None:
        self.columns: tuple[Tensor, ...] = tuple(
            memory((capacity, *shape), dtype, device) for shape, dtype in columns
        )
        # On a CPU rows are written through NumPy views, which cost a tenth of a torch call.
        self.device, self._on_cpu = device, device.type == "cpu"
        self._views: list[Any] = [c.numpy() if self._on_cpu else c for c in self.columns]
        self.capacity, self.size, self._write_head = capacity, 0, 0
        self.num_added = 0  # ever; it numbers the rows
        self.row_bytes = bytes_of(columns)

    def __len__(self) -> int:
        return self.size

    def write(self, row: Sequence[Any]) -> int:
        """Store one row, a value for each column; returns its place."""
        place = self._write_head
        for column, value in zip(self._views, row, strict=False):
            if self._on_cpu or not isinstance(value, np.ndarray):
                column[place] = value
            else:
                column[place] = self.on_device(value)
        self._write_head = (place + 1) % self.capacity
        self.size = min(self.size + 1, self.capacity)
        self.num_added += 1
        return place

    def get_state(self) -> dict[str, Any]:
        """Where the ring stands; `rows` gives the rows themselves."""
        return {
            "capacity": self.capacity,
            "size": self.size,
            "write_head": self._write_head,
            "num_added": self.num_added,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Put the ring back to where it stood; raises RunError for a state of another capacity."""
        fits = 0 <= state["size"] <= min(self.capacity, state["num_added"])
        same = state.get("capacity", self.capacity) == self.capacity  # older runs lack it
        if not (fits and same and 0 <= state["write_head"] < self.capacity):
            raise RunError(
                f"buffer.capacity: the checkpoint has another; this run keeps {self.capacity:,} "
                "rows"
            )
        self.size, self._write_head = state["size"], state["write_head"]
        self.num_added = state["num_added"]

    def rows(self, first: int, last: int) -> list[Tensor]:
        """Columns of the rows number `first` to `last` (excluded), all still stored."""
        places = torch.from_numpy(self.places(first, last)).to(self.device)
        # Of bytes, this copies thirty times as fast as column[places].
        return [column.index_select(0, places).cpu() for column in self.columns]

    def set_rows(self, first: int, last: int, columns: list[Tensor]) -> None:
        """Put what `rows` gave back into its place."""
        places = torch.from_numpy(self.places(first, last)).to(self.device)
        for column, values in zip(self.columns, columns, strict=True):
            column.index_copy_(0, places, values.to(column.device))

    def places(self, first: int, last: int) -> Array:
        """The indices of the rows number `first` to `last` (excluded), all still stored."""
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
        if self._on_cpu:
            return tensor
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)
