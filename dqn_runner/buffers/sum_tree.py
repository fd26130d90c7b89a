"""A tree of sums over priorities, for drawing in proportion to them (Schaul et al. 2016, B.2.1)."""

from __future__ import annotations

import numpy as np
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

    def set(self, indices: Integers, priorities: Floats | float) -> None:
        """Set the `priorities` [B] at `indices` [B], or one at all; of equal indices the last wins.

        None may be negative, and the sum of all must be finite.
        """
        self._levels[0][indices] = priorities
        for children, sums in zip(self._nodes, self._levels[1:], strict=True):
            indices = indices // FAN_OUT
            sums[indices] = children.take(indices, axis=0).sum(axis=1)

    def find(self, prefix_sums: Floats) -> Integers:
        """The first index [B] up to which the priorities add up to more than each prefix sum [B].

        One that reaches the total, as rounding may let it, counts as just below. So an index with
        priority 0 is never found; some priority must be positive.
        """
        ends = _running_sums(self._levels[-1])
        rest = np.minimum(prefix_sums, np.nextafter(ends[-1], 0.0))
        found: Integers = ends[1:].searchsorted(rest, side="right")
        child, row = found, np.zeros(1, np.int64)  # `row`: where each node begins in `ends`
        for children in reversed(self._nodes):
            rest = rest - ends.take(row + child)
            ends = _running_sums(children.take(found, axis=0))  # [B, FAN_OUT + 1]
            rest = np.minimum(rest, np.nextafter(ends[:, -1], 0.0))
            child = (ends[:, 1:] > rest[:, None]).argmax(axis=1)
            row = np.arange(0, ends.size, FAN_OUT + 1)
            found = found * FAN_OUT + child
        return found


def _running_sums(values: Floats) -> Floats:
    """0, and the running sums of `values` [..., n] along the last axis: [..., n + 1]."""
    sums = np.zeros((*values.shape[:-1], values.shape[-1] + 1))
    np.add.accumulate(values, axis=-1, out=sums[..., 1:])  # np.cumsum costs 2 µs more a call
    return sums
