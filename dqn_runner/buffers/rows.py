"""Storage that keeps each transition as a row, in columns allocated once (Mnih et al. 2015)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from dqn_runner.buffers.ring import Column, Ring, bytes_of
from dqn_runner.errors import RunError
from dqn_runner.types import Batch, EnvStep, ObsSpec, Transition

Gather = Callable[[Sequence[Tensor], Tensor], Batch]  # (tensors of a storage, indices [B])


def columns_of(obs_spec: ObsSpec, next_actions: bool = False) -> list[Column]:
    """The columns of a `Batch`, in its order; the last one only if the target asks for it."""
    obs = (obs_spec.shape, torch.from_numpy(np.empty(0, obs_spec.dtype)).dtype)
    integer, real = ((), torch.int64), ((), torch.float32)
    return [obs, integer, real, real, obs, *([integer] if next_actions else [])]


def row_bytes(obs_spec: ObsSpec, next_actions: bool = False) -> int:
    """Bytes that one transition takes."""
    return bytes_of(columns_of(obs_spec, next_actions))


def gather(tensors: Sequence[Tensor], indices: Tensor) -> Batch:
    """The rows `indices` [B] of a storage's `tensors`; pure, so that it can be compiled."""
    return Batch(*(column[indices] for column in tensors))


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
        next_actions: bool = False,
        keep_all: bool = False,
    ) -> None:
        super().__init__(capacity, columns_of(obs_spec, next_actions), device)
        self._keep_all = keep_all

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What `gather` makes batches of."""
        return self.columns

    @property
    def gather(self) -> Gather:
        """The function (tensors, indices [B]) -> Batch; pure, so that it can be compiled."""
        return gather

    @property
    def rings(self) -> dict[str, Ring]:
        """All that is stored, by the folder in which checkpoints keep it."""
        return {"replay": self}

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
        self.write(transition)

    def clear(self) -> None:
        """Forget every transition."""
        self.size = self._write_head = 0
