"""The points of a metric in bounded memory, against all of them."""

import tracemalloc

import numpy as np
import pytest

from dqn_runner.analysis.groups import Curve
from dqn_runner.board.points import MOST_POINTS, Points


def points_of(steps: np.ndarray, values: np.ndarray, size: int) -> Points:
    """Points appended in pieces of `size`, as a growing run logs them."""
    points = Points()
    for i in range(0, len(steps), size):
        stop = i + size
        new = zip(steps[i:stop], values[i:stop], steps[i:stop] / 100, strict=True)
        points.append([(float(s), float(v), float(t)) for s, v, t in new])
    return points


@pytest.mark.parametrize("size", [1, 700, 10_000])
def test_few_points_are_all_kept(size):
    steps, values = np.arange(MOST_POINTS) * 7, np.random.default_rng(0).normal(size=MOST_POINTS)
    points = points_of(steps, values, size)
    np.testing.assert_array_equal(points.shown(), np.column_stack([steps, values, steps / 100]))
    curve = points.curve()
    np.testing.assert_array_equal(curve.env_steps, steps)
    np.testing.assert_array_equal(curve.values, values)
    assert points.last == (steps[-1], values[-1], steps[-1] / 100)


@pytest.mark.parametrize("size", [999, 50_000])
def test_of_many_points_the_extremes_are_shown_and_the_means_compared(size):
    rng, number = np.random.default_rng(1), 50_000
    steps, values = np.cumsum(rng.integers(1, 40, size=number)), rng.normal(5.0, size=number)
    values[[1234, 40_000]] = 90.0, -90.0
    points = points_of(steps, values, size)
    shown = points.shown()
    assert len(shown) <= MOST_POINTS
    assert set(map(tuple, shown[:, :2])) <= set(zip(steps, values, strict=True))
    assert (shown[:, 1].max(), shown[:, 1].min()) == (90.0, -90.0)
    assert len(points.shown(50)) <= 50

    curve = points.curve()
    assert len(curve.values) <= MOST_POINTS
    assert curve.values.std() < 0.5 * values.std()  # extremes would have more than the values
    for low, high in ((0, steps[-1] // 2), (steps[-1] // 2, steps[-1])):
        inside = (steps >= low) & (steps <= high)
        means = curve.values[(curve.env_steps >= low) & (curve.env_steps <= high)]
        assert means.mean() == pytest.approx(values[inside].mean(), abs=0.05)


def test_a_curve_becomes_points_without_what_is_missing():
    points = Points.of(Curve(np.array([1, 2, 3]), np.array([np.nan, 5.0, 6.0])), 60.0)
    assert points.shown().tolist() == [[2, 5.0, 60.0], [3, 6.0, 60.0]]


def test_memory_does_not_grow_with_the_run():
    chunk = [(float(i), 1.0, 0.0) for i in range(5000)]
    points = Points()
    points.append(chunk)
    tracemalloc.start()
    for _ in range(50):
        points.append(chunk)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000
