"""Our prioritized replay on the work of replay.py."""

import numpy as np
import torch
from replay_work import ALPHA, BATCH, BETA, COLUMNS, EPS, ITEMS, NEW_PRIORITIES, PRIORITIES, measure

from dqn_runner.buffers.prioritized import PrioritizedSpec
from dqn_runner.buffers.rows import RowStorage, gather
from dqn_runner.types import ObsSpec

torch.set_num_threads(1)
storage = RowStorage(ITEMS, ObsSpec((4,), np.dtype(np.float32)), torch.device("cpu"))
storage.set_state({"size": ITEMS, "write_head": 0, "num_added": ITEMS})
storage.set_rows(0, ITEMS, [torch.from_numpy(column) for column in COLUMNS.values()])
spec = PrioritizedSpec(capacity=ITEMS, alpha=ALPHA, beta_start=BETA, beta_steps=None, eps=EPS)
sampler, rng = spec.sampler(storage), np.random.default_rng(1)
sampler.update(torch.arange(ITEMS), torch.from_numpy(PRIORITIES))


def draw() -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of 64."""
    indices, weights = sampler.draw(BATCH, rng)
    gather(storage.tensors, indices)
    return indices, weights


measure(draw, sampler.update, [torch.from_numpy(row) for row in NEW_PRIORITIES])
