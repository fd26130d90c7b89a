"""The sum tree against a running sum over all priorities."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dqn_runner.buffers import sum_tree
from dqn_runner.buffers.sum_tree import SumTree, tree_bytes


def naive_find(priorities: np.ndarray, prefix_sums: np.ndarray) -> np.ndarray:
    """The same in O(n): the first index up to which more than the prefix sum has been added."""
    return np.searchsorted(np.cumsum(priorities), prefix_sums, side="right")


@pytest.fixture(params=[(2, 1), (3, 2), (32, 2048)], ids=["binary", "ternary", "as shipped"])
def shape(request, monkeypatch):
    """Narrow trees are deep even if they are small."""
    fan_out, widest_top = request.param
    monkeypatch.setattr(sum_tree, "FAN_OUT", fan_out)
    monkeypatch.setattr(sum_tree, "WIDEST_TOP", widest_top)


@pytest.mark.usefixtures("shape")
@pytest.mark.parametrize("capacity", [1, 2, 3, 31, 32, 33, 1000, 5000])
def test_it_finds_what_a_running_sum_over_all_finds(capacity):
    rng = np.random.default_rng(capacity)
    tree, priorities = SumTree(capacity), np.zeros(capacity)
    for _ in range(5):
        indices = rng.integers(capacity, size=64)
        values = rng.exponential(size=64) * (rng.random(64) < 0.8)
        values[0] = 1.0
        for index, value in zip(indices, values, strict=True):
            priorities[index] = value
        tree.set(indices, values)
        assert np.array_equal(tree.priorities, priorities)
        assert tree.total == pytest.approx(priorities.sum(), rel=1e-12)
        if priorities.any():
            prefix_sums = rng.random(200) * priorities.sum() * (1 - 1e-12)
            assert np.array_equal(tree.find(prefix_sums), naive_find(priorities, prefix_sums))


def test_a_million_priorities_are_found_as_a_running_sum_finds_them():
    rng = np.random.default_rng(0)
    priorities = rng.exponential(size=1_000_000)
    tree = SumTree(1_000_000)
    tree.set(np.arange(1_000_000), priorities)
    # In the middle of its range, where rounding cannot let a neighbor be found.
    indices = rng.integers(1_000_000, size=2000)
    middles = np.cumsum(priorities)[indices] - priorities[indices] / 2
    sure = priorities[indices] > 1e-6
    assert np.array_equal(tree.find(middles)[sure], indices[sure])


# Whole numbers add up without rounding, in any order: then every prefix sum has one answer.
whole = st.integers(0, 2**20).map(float)


@st.composite
def changes(draw):
    capacity = draw(st.integers(1, 40))
    change = st.tuples(st.integers(0, capacity - 1), whole)
    return capacity, draw(st.lists(st.lists(change, min_size=1, max_size=8), max_size=8))


@settings(max_examples=200, deadline=None)
@given(changes(), st.sampled_from([(2, 1), (3, 2), (4, 4)]), st.data())
def test_any_changes_leave_a_tree_of_the_last_priorities(capacity_and_changes, shape, data):
    capacity, batches = capacity_and_changes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sum_tree, "FAN_OUT", shape[0])
        patch.setattr(sum_tree, "WIDEST_TOP", shape[1])
        tree, last = SumTree(capacity), dict.fromkeys(range(capacity), 0.0)
        for batch in batches:
            tree.set(np.array([i for i, _ in batch]), np.array([p for _, p in batch]))
            last.update(batch)
        priorities = np.array(list(last.values()))
        assert tree.total == priorities.sum()
        if not priorities.any():
            return
        most = int(priorities.sum()) - 1
        prefix_sums = np.array(data.draw(st.lists(st.integers(0, most), min_size=1)), float)
        assert np.array_equal(tree.find(prefix_sums), naive_find(priorities, prefix_sums))


@pytest.mark.usefixtures("shape")
def test_priority_0_is_never_found_not_even_at_the_ends():
    rng = np.random.default_rng(1)
    for _ in range(50):
        tree = SumTree(700)
        positive = rng.choice(700, size=rng.integers(1, 60), replace=False)
        tree.set(positive, 10.0 ** rng.uniform(-12, 12, size=len(positive)))
        edges = np.cumsum(tree.priorities)
        near = np.concatenate([edges, np.nextafter(edges, 0), np.nextafter(edges, np.inf)])
        beyond = tree.total * np.array([0.0, 1.0, 1.5, np.inf])
        assert np.isin(tree.find(np.concatenate([near, beyond])), positive).all()


@pytest.mark.usefixtures("shape")
def test_sums_do_not_depend_on_what_was_before():
    """No rounding errors pile up: after any history a tree equals one that was set at once."""
    rng = np.random.default_rng(2)
    tree, fresh = SumTree(3000), SumTree(3000)
    for _ in range(300):
        count = rng.integers(1, 65)
        tree.set(rng.integers(3000, size=count), 10.0 ** rng.uniform(-9, 9, size=count))
    fresh.set(np.arange(3000), tree.priorities)
    assert fresh.total == tree.total
    for ours, theirs in zip(tree._levels, fresh._levels, strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.usefixtures("shape")
@pytest.mark.parametrize(("start", "stop"), [(0, 1), (31, 33), (64, 128), (700, 3000)])
def test_filling_a_stretch_is_setting_each_of_its_indices(start, stop):
    rng = np.random.default_rng(start)
    filled, one_by_one = SumTree(3000), SumTree(3000)
    for tree in (filled, one_by_one):
        tree.set(np.arange(3000), np.linspace(1.0, 2.0, 3000))
    filled.fill(start, stop, 0.1)
    one_by_one.set(rng.permutation(np.arange(start, stop)), np.full(stop - start, 0.1))
    for ours, theirs in zip(filled._levels, one_by_one._levels, strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("capacity", [1, 2048, 2049, 100_000, 1_000_000])
def test_its_memory_is_known_before_it_is_made(capacity):
    tree = SumTree(capacity)
    assert tree_bytes(capacity) == sum(level.nbytes for level in tree._levels)
    assert 8 * capacity <= tree_bytes(capacity) < 8 * (1.04 * capacity + 70)
