"""A tree of sums over priorities, for drawing in proportion to them (Schaul et al. 2016, B.2.1)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Measured with batches of 64: a NumPy call costs a microsecond or two, and a running sum 4 ns for
# each number. So few levels of wide nodes are faster than a binary tree.
FAN_OUT = 32
WIDEST_TOP = 2048  # the sums that no level above adds up; one running sum goes over all of them


def level_sizes(capacity: int) -> list[int]:
    """How many numbers each level holds, from the leaves to the top."""
    sizes = [capacity]
    while sizes[-1] > WIDEST_TOP:
        nodes = -(-sizes[-1] // FAN_OUT)
        sizes[-1:] = [nodes * FAN_OUT, nodes]
    return sizes


def tree_bytes(capacity: int) -> int:
    """The memory of a tree over `capacity` priorities."""
    return sum(level_sizes(capacity)) * np.dtype(np.float64).itemsize


class SumTree:
    """Priorities by index, all 0 at first, and the sums of groups of them, level by level.

    A sum is always added up from the numbers below it, so that no rounding errors pile up and
    equal priorities give equal sums, in whatever order they were set.
    """

    def __init__(self, capacity: int) -> None:
        self._levels = [np.zeros(size) for size in level_sizes(capacity)]
        self._nodes = [level.reshape(-1, FAN_OUT) for level in self._levels[:-1]]
        self.capacity = capacity

    @property
    def priorities(self) -> Floats:
        """All priorities [capacity]; to be read, not written."""
        return self._levels[0][: self.capacity]

    @property
    def total(self) -> float:
        """The sum of all priorities."""
        return float(self._levels[-1].sum())

    def set(self, indices: Integers, priorities: Floats) -> None:
        """Set the `priorities` [B] at `indices` [B]; of equal indices the last wins.

        None may be negative, and the sum of all must be finite.
        """
        self._levels[0][indices] = priorities
        for children, sums in zip(self._nodes, self._levels[1:], strict=True):
            indices = indices // FAN_OUT
            sums[indices] = np.add.reduce(children.take(indices, axis=0), axis=1)

    def fill(self, start: int, stop: int, priority: float) -> None:
        """Set one priority at all indices from `start` to `stop` (excluded)."""
        self._levels[0][start:stop] = priority
        for children, sums in zip(self._nodes, self._levels[1:], strict=True):
            start, stop = start // FAN_OUT, -(-stop // FAN_OUT)
            sums[start:stop] = np.add.reduce(children[start:stop], axis=1)

    def find(self, prefix_sums: Floats) -> Integers:
        """The first index [B] up to which the priorities add up to more than each prefix sum [B].

        One that reaches the total, as rounding may let it, counts as just below. So an index with
        priority 0 is never found; some priority must be positive.
        """
        sums = self._levels[-1]
        ends = _running_sums(sums)
        rest = np.minimum(prefix_sums, np.nextafter(ends[-1], 0.0))
        found: Integers = ends.searchsorted(rest, side="right")
        place = found
        for children in reversed(self._nodes):
            rest = np.maximum(rest - (ends.take(place) - sums.take(place)), 0.0)
            sums = children.take(found, axis=0)  # [B, FAN_OUT]
            ends = _running_sums(sums)
            rest = np.minimum(rest, np.nextafter(ends[:, -1], 0.0))
            child = (ends > rest[:, None]).argmax(axis=1)
            place = np.arange(0, ends.size, FAN_OUT) + child
            found = found * FAN_OUT + child
        return found


def _running_sums(values: Floats) -> Floats:
    """The running sums of `values` [..., n] along the last axis; PyTorch's take half the time."""
    ends: Floats = torch.from_numpy(values).cumsum(-1).numpy()
    return ends
