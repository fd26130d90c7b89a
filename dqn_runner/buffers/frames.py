"""Storage of images that keeps each frame once; transitions hold the numbers of their frames.

An image of k stacked frames shares k - 1 of them with the one before it, and is the next
observation of one transition and the observation of another: stored as rows, each frame would be
there 2k times.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dqn_runner.allocation import Allocate, own_memory
from dqn_runner.buffers.ring import Ring
from dqn_runner.buffers.rows import COMMON, Gather, Layout, RowStorage, gather, row_bytes
from dqn_runner.errors import ConfigError, RunError
from dqn_runner.types import Array, Batch, EnvStep, ObsSpec

Storage = Literal["rows", "frames"]

# Of truncated episodes the final frame is stored too, so that there are more frames than
# transitions; there is room for a fiftieth more of large frames, and for twice as many small ones.
FEWEST_SPARE = 50
SPARE_BYTES = 64_000_000


def choose_storage(
    asked: Literal["auto", "rows", "frames"], obs_spec: ObsSpec, *, in_phases: bool
) -> Storage:
    """How observations are kept; raises ConfigError where frames are asked for without images."""
    is_image = obs_spec.dtype in (np.uint8, np.bool_) and len(obs_spec.shape) >= 2
    if asked == "frames" and not is_image:
        shape = "x".join(map(str, obs_spec.shape))
        raise ConfigError(
            f"buffer.storage=frames: is for images of uint8 or bool, and observations are {shape} "
            f"{obs_spec.dtype}; use rows"
        )
    return "frames" if asked != "rows" and is_image and not in_phases else "rows"


def frame_storage_bytes(
    capacity: int, obs_spec: ObsSpec, num_envs: int, n_step: int, layout: Layout = COMMON
) -> int:
    """Bytes that a full FrameStorage takes."""
    frames = num_slots(capacity, obs_spec, num_envs, n_step) * frame_bytes(obs_spec)
    return frames + capacity * row_bytes(_slots_spec(obs_spec), layout)


def frame_bytes(obs_spec: ObsSpec) -> int:
    """Bytes that one frame takes; eight bools are packed into one."""
    numbers = math.prod(obs_spec.frame_shape)
    return -(-numbers // 8) if obs_spec.dtype == np.bool_ else numbers


def num_slots(capacity: int, obs_spec: ObsSpec, num_envs: int, n_step: int) -> int:
    """How many frames are kept for `capacity` transitions."""
    spare = max(capacity // FEWEST_SPARE, min(capacity, SPARE_BYTES // frame_bytes(obs_spec)))
    return capacity + spare + _newest(obs_spec, num_envs, n_step)


def _newest(obs_spec: ObsSpec, num_envs: int, n_step: int) -> int:
    """At most so many of the newest frames belong to transitions that are not complete yet.

    A SARSA transition waits a step longer; an episode's last step brings two frames.
    """
    return 2 * num_envs * (obs_spec.stack + n_step + 1)


def _slots_spec(obs_spec: ObsSpec) -> ObsSpec:
    return ObsSpec((obs_spec.stack,), np.dtype(np.int32))


def gather_frames(
    obs_spec: ObsSpec, fields: Sequence[str], tensors: Sequence[Tensor], indices: Tensor
) -> Batch:
    """The transitions `indices` [B] with observations [B, *obs_shape] put together of frames.

    Those of bool are float32, 0 or 1.
    """
    frames, *columns = tensors
    batch = gather(columns, indices, fields)
    slots = torch.cat([batch.obs, batch.next_obs], dim=1)  # [B, 2k]
    # A copy for each place of the stacks: compiled, these stay apart from the network's first
    # layer. As a part of it they look up the frame at each pixel, and take ten times as long.
    copies = [_unpacked(obs_spec, frames.index_select(0, column)) for column in slots.unbind(1)]
    stack = obs_spec.stack
    if stack == 1:
        obs, next_obs = torch.stack(copies).unbind()
    else:
        obs, next_obs = torch.stack(copies[:stack], 1), torch.stack(copies[stack:], 1)
    shape = (len(indices), *obs_spec.shape)
    return batch._replace(obs=obs.reshape(shape), next_obs=next_obs.reshape(shape))


def _unpacked(obs_spec: ObsSpec, found: Tensor) -> Tensor:
    """The frames whose bytes are `found` [B, bytes of a frame].

    Those of uint8 are [B, *frame_shape]. Those of bool are float32 [B, numbers of a frame], flat
    and floating-point on purpose: torch.compile makes other ones a part of the network's first
    layer, or chooses an order in memory that is slow to read.
    """
    if obs_spec.dtype == np.uint8:
        return found.reshape(len(found), *obs_spec.frame_shape)
    places = torch.arange(7, -1, -1, dtype=torch.uint8, device=found.device)
    bits = (found.unsqueeze(2) >> places) & 1  # the first bit is the highest, as in NumPy
    return bits.flatten(1)[:, : math.prod(obs_spec.frame_shape)].float()


class FrameRing(Ring):
    """A ring of frames, and which of them each environment shows: its stack, or None before it.

    The number of a frame modulo `capacity` is the slot it lies in.
    """

    def __init__(
        self,
        capacity: int,
        obs_spec: ObsSpec,
        device: torch.device,
        num_envs: int,
        memory: Allocate = own_memory,
    ) -> None:
        super().__init__(capacity, [((frame_bytes(obs_spec),), torch.uint8)], device, memory)
        self._spec = obs_spec
        self.stacks: list[list[int] | None] = [None] * num_envs

    def store(self, obs: Array) -> int:
        """Store the newest frame of `obs` [*obs_shape]; returns its slot."""
        frame = obs[-1] if self._spec.stack > 1 else obs
        flat = np.packbits(frame) if self._spec.dtype == np.bool_ else frame.reshape(-1)
        return self.write((flat,))

    def age(self, slots: Array) -> int:
        """How many of the newest frames reach back to the oldest one in `slots`; 0 for none."""
        ages = (self._write_head - 1 - slots) % self.capacity
        return int(ages.max(initial=-1)) + 1

    def get_state(self) -> dict[str, Any]:
        """Where the ring stands, and the stacks."""
        return {**super().get_state(), "stacks": list(self.stacks)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Put the ring back to where it stood; raises RunError for a state of another capacity."""
        super().set_state(state)
        stacks = list(state["stacks"])
        if len(stacks) != len(self.stacks):
            raise ValueError(f"it has the stacks of {len(stacks)} environments")
        for stack in filter(None, stacks):
            self.check(torch.tensor(stack))
        self.stacks = stacks

    def check(self, slots: Tensor) -> None:
        """Raise ValueError if there are no such slots."""
        if not bool(((slots >= 0) & (slots < self.capacity)).all()):
            raise ValueError("its frames are not among those that are stored")


class FrameStorage(RowStorage):
    """A ring of transitions whose observations are slots of a ring of frames beside it.

    A step's new frames are stored by `keep`, and its observations become the slots [N, k] of their
    frames, the oldest first. A stack begins with the first frame of its episode, k times. The frame
    after a termination is not stored: discount 0 hides the one before, which is in its place.
    """

    def __init__(
        self,
        capacity: int,
        obs_spec: ObsSpec,
        device: torch.device,
        *,
        num_envs: int,
        n_step: int,
        layout: Layout = COMMON,
        memory: Allocate = own_memory,
    ) -> None:
        super().__init__(capacity, _slots_spec(obs_spec), device, layout=layout, memory=memory)
        slots = num_slots(capacity, obs_spec, num_envs, n_step)
        self._spec, self._newest = obs_spec, _newest(obs_spec, num_envs, n_step)
        self._frames = FrameRing(slots, obs_spec, device, num_envs, memory)
        self.rings["frames"] = self._frames
        self._free = slots  # frames that may come before one is replaced that may still be needed

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The frames, and the columns of the transitions."""
        return *self._frames.columns, *self.columns

    @property
    def gather(self) -> Gather:
        """The function (tensors, indices [B]) -> Batch; pure, so that it can be compiled."""
        return functools.partial(gather_frames, self._spec, self._fields)

    def keep(self, step: EnvStep) -> EnvStep:
        """Store the frames that are new in `step`; returns it with slots [N, k] of frames.

        Raises RunError if a frame would be replaced that a transition still needs.
        """
        stacks, stack, obs_slots, next_slots = self._frames.stacks, self._spec.stack, [], []
        for i, terminated in enumerate(step.terminated):
            slots = stacks[i] or [self._store(step.obs[i])] * stack
            following = slots if terminated else [*slots[1:], self._store(step.next_obs[i])]
            stacks[i] = None if terminated or step.truncated[i] else following
            obs_slots.append(slots)
            next_slots.append(following)
        return step._replace(
            obs=np.array(obs_slots, np.int32), next_obs=np.array(next_slots, np.int32)
        )

    def forget(self, i: int) -> None:
        """Take note that environment `i` has left its episode."""
        self._frames.stacks[i] = None

    def set_state(self, state: dict[str, Any]) -> None:
        """Put the ring of transitions back to where it stood; raises RunError as Ring does."""
        super().set_state(state)
        self._free = 0

    def set_rows(self, first: int, last: int, columns: list[Tensor]) -> None:
        """Put what `rows` gave back into its place; raises ValueError for slots there are not."""
        obs_slots, _, _, _, next_slots, *_ = columns
        self._frames.check(obs_slots)
        self._frames.check(next_slots)
        super().set_rows(first, last, columns)

    def _store(self, obs: Array) -> int:
        if self._free == 0:
            self._free = self._count_free()
        self._free -= 1
        return self._frames.store(obs)

    def _count_free(self) -> int:
        """How many frames may come before one is replaced that a transition needs.

        Looking at all transitions is slow; but rarely is there less than the spare room.
        """
        oldest = self.columns[0][: self.size, 0].cpu().numpy()  # of the frames of each transition
        free = self._frames.capacity - max(self._frames.age(oldest), self._newest)
        if free <= 0:
            raise RunError(
                "buffer.storage=frames: episodes are truncated too often for the room there is for "
                "their final frames; buffer.storage=rows needs none"
            )
        return free
