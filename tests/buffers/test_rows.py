"""The ring of rows against a deque."""

from collections import deque

import numpy as np
import pytest
import torch

from dqn_runner.buffers.rows import Layout, RowStorage, gather, row_bytes
from dqn_runner.errors import RunError
from dqn_runner.types import ObsSpec, Transition

CPU = torch.device("cpu")
BOX = ObsSpec((3,), np.dtype(np.float32))
PIXELS = ObsSpec((2, 4), np.dtype(np.uint8))


def random_transition(rng, spec):
    def obs():
        if spec.dtype == np.uint8:
            return rng.integers(256, size=spec.shape, dtype=np.uint8)
        return rng.normal(size=spec.shape).astype(spec.dtype)

    return Transition(obs(), int(rng.integers(5)), rng.normal(), float(rng.random()), obs())


@pytest.mark.parametrize("spec", [BOX, PIXELS], ids=["box", "uint8"])
@pytest.mark.parametrize("capacity", [1, 7, 16])
def test_the_ring_holds_what_a_bounded_deque_holds(spec, capacity):
    """After each of several rounds the stored rows are the latest ones, byte for byte."""
    rng = np.random.default_rng(capacity)
    storage = RowStorage(capacity, spec, CPU)
    reference: deque[Transition] = deque(maxlen=capacity)
    for added in range(1, 4 * capacity + 3):
        transition = random_transition(rng, spec)
        storage.add(transition)
        reference.append(transition)
        assert len(storage) == storage.size == len(reference)
        oldest = added % capacity if added > capacity else 0
        for age, expected in enumerate(reference):
            row = (oldest + age) % capacity
            stored = [column[row].numpy() for column in storage.tensors]
            for value, expected_value in zip(stored, expected[:5], strict=True):
                # Float columns are single precision.
                assert np.array_equal(value, np.asarray(expected_value).astype(value.dtype))


def test_what_was_stored_does_not_follow_the_array_it_came_from():
    storage = RowStorage(4, BOX, CPU)
    obs = np.ones(3, np.float32)
    storage.add(Transition(obs, 0, 1.0, 0.9, obs))
    obs += 5
    assert storage.tensors[0][0].tolist() == [1.0, 1.0, 1.0]
    assert storage.tensors[4][0].tolist() == [1.0, 1.0, 1.0]


def test_pixels_stay_bytes_in_storage():
    obs, action, reward, discount, next_obs = RowStorage(4, PIXELS, CPU).tensors
    assert obs.dtype == next_obs.dtype == torch.uint8
    assert action.dtype == torch.int64
    assert reward.dtype == discount.dtype == torch.float32


@pytest.mark.parametrize(("spec", "obs_bytes"), [(BOX, 12), (PIXELS, 8)])
def test_num_bytes_is_the_sum_over_the_columns_full_or_not(spec, obs_bytes):
    storage = RowStorage(100, spec, CPU)
    expected = 100 * (2 * obs_bytes + 8 + 4 + 4)
    assert storage.num_bytes == expected == 100 * row_bytes(spec)
    storage.add(random_transition(np.random.default_rng(0), spec))
    assert storage.num_bytes == expected


def test_a_batch_of_rows_is_those_rows_of_each_column():
    rng = np.random.default_rng(5)
    storage = RowStorage(8, BOX, CPU)
    added = [random_transition(rng, BOX) for _ in range(8)]
    for transition in added:
        storage.add(transition)
    batch = gather(storage.tensors, torch.tensor([6, 0, 6]))
    for b, row in enumerate([6, 0, 6]):
        assert np.array_equal(batch.obs[b].numpy(), added[row].obs)
        assert int(batch.action[b]) == added[row].action
        assert float(batch.reward[b]) == np.float32(added[row].reward)
        assert float(batch.discount[b]) == np.float32(added[row].discount)
        assert np.array_equal(batch.next_obs[b].numpy(), added[row].next_obs)


def test_next_actions_have_a_column_if_they_are_asked_for():
    without, storage = (
        RowStorage(4, BOX, CPU),
        RowStorage(4, BOX, CPU, layout=Layout(next_action=True)),
    )
    assert gather(without.tensors, torch.arange(4)).next_action is None
    assert storage.num_bytes == without.num_bytes + 4 * 8
    rng = np.random.default_rng(6)
    for next_action in (3, 0, 2):
        storage.add(random_transition(rng, BOX)._replace(next_action=next_action))
    batch = gather(storage.tensors, torch.tensor([2, 0, 1]))
    assert batch.next_action is not None
    assert batch.next_action.tolist() == [2, 3, 0]
    assert batch.next_action.dtype == torch.int64


def test_a_storage_that_keeps_all_refuses_what_exceeds_its_limit_and_is_empty_after_clearing():
    rng = np.random.default_rng(7)
    storage = RowStorage(5, BOX, CPU, keep_all=True)
    for _ in range(2):
        added = [random_transition(rng, BOX) for _ in range(5)]
        for transition in added:
            storage.add(transition)
        kept = [column.clone() for column in storage.tensors]
        line = r"buffer\.capacity=5: .* do not fit; .*phase\.episodes .* 40 bytes a transition"
        with pytest.raises(RunError, match=line):
            storage.add(random_transition(rng, BOX))
        assert len(storage) == 5
        for column, before in zip(storage.tensors, kept, strict=True):
            assert torch.equal(column, before)
        assert storage.tensors[2].tolist() == [np.float32(t.reward) for t in added]
        storage.clear()
        assert len(storage) == 0
    storage.add(random_transition(rng, BOX))
    assert len(storage) == 1
