"""Prioritized experience replay, the proportional variant (Schaul et al. 2016)."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from dqn_runner.buffers.rows import RowStorage
from dqn_runner.buffers.sum_tree import SumTree, tree_bytes
from dqn_runner.spec import PositiveInt, Probability, Spec

FIRST_PRIORITY = 1.0  # of transitions that come before the first update (algorithm 1, line 2)


class PrioritizedSpec(Spec):
    """Transitions whose loss was large are likelier; the newest replaces the oldest."""

    name: Literal["prioritized"] = "prioritized"
    """How transitions are drawn."""
    capacity: PositiveInt
    """Transitions that are kept; the oldest makes room for the newest."""
    # Older runs lack it, and have kept rows.
    storage: Literal["auto", "rows", "frames"] = "rows"
    """Whether each frame is kept once, or both images of each transition; auto: once, if images."""
    alpha: Probability
    """How much priorities count: 0 draws all alike, 1 in proportion to their TD error or loss."""
    beta_start: Probability
    """Strength of the importance weights at first; 1 corrects the whole bias of the drawing."""
    beta_steps: PositiveInt | None
    """Env steps until the importance weights have full strength; null for the budget."""
    # The bounds keep the sum over all transitions positive and finite.
    eps: Annotated[float, Field(ge=1e-12, le=1e6)]
    """Added to each TD error or loss, so that every transition can be drawn again."""

    def sampler(self, storage: RowStorage) -> PrioritizedSampler:
        """What draws from `storage`."""
        return PrioritizedSampler(storage, self)

    @property
    def sampler_bytes(self) -> int:
        """Memory that the priorities take, in bytes."""
        return tree_bytes(self.capacity)

    def beta(self, env_steps: int) -> float:
        """β after `env_steps`: from `beta_start` to 1 over `beta_steps` (section 3.4)."""
        if self.beta_steps is None:
            return self.beta_start
        progress = min(env_steps / self.beta_steps, 1.0)
        return self.beta_start + (1.0 - self.beta_start) * progress


class PrioritizedSampler:
    """Draws transitions of `storage` in proportion to p = (priority + eps)^alpha (eq. 1).

    A new transition has the largest p that there has been (algorithm 1, line 6), until an update
    tells more about it. The sampler notices new ones by itself, when something is drawn.
    """

    def __init__(self, storage: RowStorage, spec: PrioritizedSpec) -> None:
        self._storage, self._spec = storage, spec
        self._tree = SumTree(storage.capacity)
        self._beta, self._largest = spec.beta_start, FIRST_PRIORITY
        self._seen = 0  # how many of the transitions ever added are in the tree, or were

    def anneal(self, env_steps: int) -> None:
        """Set β to its value after `env_steps`."""
        self._beta = self._spec.beta(env_steps)

    def draw(self, batch_size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Indices [batch_size] into the storage, and their importance weights.

        The sum of all p is cut into equal ranges, and one number is drawn from each (B.2.1). Of
        the weights (N·P(i))^-β divided by the largest one in the batch (section 3.4), N and the
        sum of all p cancel out. The largest in the batch, not in the buffer: one transition that
        is hardly ever drawn would otherwise make all updates smaller.
        """
        self._notice_new_transitions()
        numbers = np.arange(batch_size) + rng.random(batch_size)
        indices = self._tree.find(numbers * (self._tree.total / batch_size))
        p = self._tree.priorities.take(indices)
        weights = ((p.min() / p) ** self._beta).astype(np.float32)
        return self._storage.on_device(indices), self._storage.on_device(weights)

    def update(self, indices: Tensor, priorities: Tensor) -> None:
        """Take note of the priorities [B], at least 0, that an update found at `indices` [B].

        Those that are not finite are passed over: learning has diverged, which training tells.
        """
        self._notice_new_transitions()  # which must not come later, over what is set here
        rows = indices.cpu().numpy()
        p = (priorities.cpu().numpy().astype(np.float64) + self._spec.eps) ** self._spec.alpha
        largest = float(p.max())
        if not math.isfinite(largest):
            finite = np.isfinite(p)
            rows, p = rows[finite], p[finite]
            largest = float(p.max(initial=0.0))
        self._largest = max(self._largest, largest)
        self._tree.set(rows, p)

    def _notice_new_transitions(self) -> None:
        """Give those that came since, in whose places others may have been, the largest p."""
        added = self._storage.num_added
        if added > self._seen:
            first = max(self._seen, added - self._storage.size)
            for start, stop in self._storage.stretches(first, added):
                self._tree.fill(start, stop, self._largest)
            self._seen = added

    def get_state(self) -> dict[str, Any]:
        """The p of each place of the storage that is filled, and the largest ever."""
        self._notice_new_transitions()
        p = self._tree.priorities[: self._storage.size]
        largest = torch.tensor(self._largest, dtype=torch.float64)
        return {"priorities": torch.from_numpy(p.copy()), "largest": largest}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from there, with a storage that is filled already; raises ValueError for others."""
        p, largest = state["priorities"].numpy(), state["largest"].item()
        if p.shape != (self._storage.size,) or p.dtype != np.float64:
            raise ValueError(f"priorities have shape {p.shape} and type {p.dtype}")
        if not (p.min(initial=largest) > 0.0 and math.isfinite(largest + p.sum())):
            raise ValueError("priorities must be positive and finite")
        self._tree.set(np.arange(len(p)), p)
        self._largest, self._seen = largest, self._storage.num_added
