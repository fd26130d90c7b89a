"""Storage that keeps each transition as a row, in columns allocated once (Mnih et al. 2015)."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dqn_runner.allocation import Allocate, own_memory
from dqn_runner.buffers.ring import Column, Ring, bytes_of
from dqn_runner.errors import RunError
from dqn_runner.types import Batch, EnvStep, ObsSpec, Transition

Gather = Callable[[Sequence[Tensor], Tensor], Batch]  # (tensors of a storage, indices [B])


class Layout(NamedTuple):
    """What is stored of a transition beside what all have."""

    next_action: bool = False  # SARSA's target asks for it
    masked_actions: int = 0  # how many actions the next state allows or forbids; 0: allows all

    def columns(self, obs_spec: ObsSpec) -> dict[str, Column]:
        """The columns by the fields of `Batch`, in its order."""
        obs = (obs_spec.shape, getattr(torch, obs_spec.dtype.name))
        integer, real = ((), torch.int64), ((), torch.float32)
        columns: dict[str, Column] = {
            "obs": obs, "action": integer, "reward": real, "discount": real, "next_obs": obs
        }  # fmt: skip
        if self.next_action:
            columns["next_action"] = integer
        if self.masked_actions:
            columns["next_mask"] = ((self.masked_actions,), torch.bool)
        return columns


COMMON = Layout()


def row_bytes(obs_spec: ObsSpec, layout: Layout = COMMON) -> int:
    """Bytes that one transition takes."""
    return bytes_of(layout.columns(obs_spec).values())


def gather(
    tensors: Sequence[Tensor], indices: Tensor, fields: Sequence[str] = Batch._fields
) -> Batch:
    """The rows `indices` [B] of a storage's `tensors`, which are those fields of a batch.

    It is pure, so that it can be compiled.
    """
    pairs = zip(fields, tensors, strict=False)
    return Batch(**{field: column[indices] for field, column in pairs})


class RowStorage(Ring):
    """A ring of `capacity` transitions on the learner's device; the newest replaces the oldest.

    With `keep_all` nothing is replaced: a transition that does not fit raises RunError.
    """

    def __init__(
        self,
        capacity: int,
        obs_spec: ObsSpec,
        device: torch.device,
        *,
        layout: Layout = COMMON,
        keep_all: bool = False,
        memory: Allocate = own_memory,
    ) -> None:
        columns = layout.columns(obs_spec)
        super().__init__(capacity, [*columns.values()], device, memory)
        self._fields, self._keep_all = tuple(columns), keep_all
        self._of_transition = operator.attrgetter(*columns)
        # All that is stored, by the folder in which checkpoints keep it.
        self.rings: dict[str, Ring] = {"replay": self}

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What `gather` makes batches of."""
        return self.columns

    @property
    def gather(self) -> Gather:
        """The function (tensors, indices [B]) -> Batch; pure, so that it can be compiled."""
        return functools.partial(gather, fields=self._fields)

    @property
    def num_bytes(self) -> int:
        """Memory that a full storage takes, in bytes."""
        return sum(ring.capacity * ring.row_bytes for ring in self.rings.values())

    def keep(self, step: EnvStep) -> EnvStep:
        """The step as its transitions are to be stored: here as it is."""
        return step

    def forget(self, i: int) -> None:
        """Take note that environment `i` has left its episode."""

    def add(self, transition: Transition) -> None:
        """Store one transition; raises RunError if it does not fit and all must be kept."""
        if self._keep_all and self.size == self.capacity:
            raise RunError(
                f"buffer.capacity={self.capacity}: the transitions of a phase do not fit; collect "
                f"fewer phase.episodes or allow more, at {self.row_bytes} bytes a transition"
            )
        self.write(self._of_transition(transition))

    def clear(self) -> None:
        """Forget every transition."""
        self.size = self._write_head = 0
