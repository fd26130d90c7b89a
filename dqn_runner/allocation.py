"""Memory for the tensors of a run: of its own, or side by side with those of other runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

# (shape, type, device) -> a tensor whose values are not set yet
Allocate = Callable[[tuple[int, ...], torch.dtype, torch.device], Tensor]


def own_memory(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor by itself; on a CPU it takes memory only where it is written."""
    # A CUDA update is tried on rows of a replay buffer before they are written.
    allocate = torch.empty if device.type == "cpu" else torch.zeros
    return allocate(shape, dtype=dtype, device=device)


class Stack:
    """Memory of up to R runs: what they ask for is a row each of one tensor [R, ...].

    All runs must ask for the same, in the same order.
    """

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows
        self._wholes: list[Tensor] = []
        self._whole_of: dict[int, tuple[Tensor, Tensor]] = {}  # by id of the row, which is kept

    def memory_of(self, run: int) -> Allocate:
        """How the run of that number asks for its tensors."""
        order = itertools.count()

        def allocate(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
            i = next(order)
            if i == len(self._wholes):
                self._wholes.append(_zeros((self.num_rows, *shape), dtype, device))
            whole = self._wholes[i]
            if (tuple(whole.shape[1:]), whole.dtype, whole.device) != (shape, dtype, device):
                raise ValueError(f"a run asks for {shape} where another has {whole.shape[1:]}")
            row = whole[run]
            self._whole_of[id(row)] = row, whole
            return row

        return allocate

    def whole(self, row: Tensor) -> Tensor:
        """The tensor [R, ...] that `row` was asked for from."""
        return self._whole_of[id(row)][1]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros, for rows of runs that are over are looked at; on a CPU by NumPy, which is lazy."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(shape, torch.empty(0, dtype=dtype).numpy().dtype))
