"""cpprb's PrioritizedReplayBuffer on the work of replay.py."""

import numpy as np
from cpprb import PrioritizedReplayBuffer
from replay_work import ALPHA, BATCH, BETA, COLUMNS, EPS, ITEMS, NEW_PRIORITIES, PRIORITIES, measure

columns = {
    name: {"shape": column.shape[1:] or 1, "dtype": column.dtype}
    for name, column in COLUMNS.items()
}
buffer = PrioritizedReplayBuffer(ITEMS, columns, alpha=ALPHA, eps=EPS)
buffer.add(**COLUMNS, priorities=PRIORITIES)


def draw() -> tuple[np.ndarray, np.ndarray]:
    """A batch of 64."""
    batch = buffer.sample(BATCH, beta=BETA)
    return batch["indexes"], batch["weights"]


measure(draw, buffer.update_priorities, NEW_PRIORITIES)
