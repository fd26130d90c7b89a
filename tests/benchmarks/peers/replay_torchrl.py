"""torchrl's PrioritizedSampler on the work of replay.py."""

import torch
from replay_work import ALPHA, BATCH, BETA, COLUMNS, EPS, ITEMS, NEW_PRIORITIES, PRIORITIES, measure
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, PrioritizedSampler, ReplayBuffer

torch.set_num_threads(1)
buffer = ReplayBuffer(
    storage=LazyTensorStorage(ITEMS),
    sampler=PrioritizedSampler(ITEMS, alpha=ALPHA, beta=BETA, eps=EPS),
    batch_size=BATCH,
)
columns = {name: torch.from_numpy(column) for name, column in COLUMNS.items()}
buffer.extend(TensorDict(columns, batch_size=[ITEMS]))
buffer.update_priority(torch.arange(ITEMS), torch.from_numpy(PRIORITIES))


def draw() -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of 64."""
    _, info = buffer.sample(return_info=True)
    weights = info["_weight"] if "_weight" in info else info["priority_weight"]
    return info["index"], weights


measure(draw, buffer.update_priority, [torch.from_numpy(row) for row in NEW_PRIORITIES])
