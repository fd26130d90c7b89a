"""Uniform sampling: every stored row is as likely as any other."""

import numpy as np
import pytest
import torch
from scipy import stats

from dqn_runner.buffers.rows import RowStorage
from dqn_runner.buffers.uniform import UniformSampler
from dqn_runner.types import ObsSpec, Transition


def filled_sampler(capacity: int, added: int) -> UniformSampler:
    """A sampler over a storage to which so many transitions were added."""
    storage = RowStorage(capacity, ObsSpec((1,), np.dtype(np.float32)), torch.device("cpu"))
    obs = np.zeros(1, np.float32)
    for _ in range(added):
        storage.add(Transition(obs, 0, 0.0, 0.9, obs))
    return UniformSampler(storage)


@pytest.mark.parametrize("filled", [1, 13, 20, 47])
def test_every_filled_row_is_equally_likely_and_no_other_is_drawn(filled):
    rng = np.random.default_rng(3)
    sampler = filled_sampler(20, filled)
    rows = min(filled, 20)
    drawn = torch.cat([sampler.draw(50, rng)[0] for _ in range(400)])
    assert drawn.dtype == torch.int64
    counts = np.bincount(drawn.numpy(), minlength=20)
    assert counts[rows:].sum() == 0
    if rows > 1:
        assert stats.chisquare(counts[:rows]).pvalue > 1e-3


def test_draws_of_one_batch_are_independent():
    """With replacement: pairs of places in a batch are uniform over all pairs of rows."""
    rng = np.random.default_rng(4)
    sampler = filled_sampler(4, 4)
    batches = np.stack([sampler.draw(2, rng)[0].numpy() for _ in range(8000)])
    pairs = np.bincount(batches[:, 0] * 4 + batches[:, 1], minlength=16)
    assert stats.chisquare(pairs).pvalue > 1e-3


def test_sampling_depends_on_the_given_generator_alone():
    sampler = filled_sampler(20, 20)
    first = sampler.draw(32, np.random.default_rng(9))[0]
    np.random.seed(1)
    torch.manual_seed(1)
    assert torch.equal(first, sampler.draw(32, np.random.default_rng(9))[0])


def test_all_rows_count_the_same_in_the_loss():
    sampler, rng = filled_sampler(20, 20), np.random.default_rng(0)
    for batch_size in (5, 7):
        _, weights = sampler.draw(batch_size, rng)
        assert weights.tolist() == [1.0] * batch_size
