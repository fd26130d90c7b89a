"""Aggregates over seeds and their intervals, against definitions written out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dqn_runner.analysis.statistics import (
    aggregate,
    band,
    iqm,
    performance_profile,
    probability_of_improvement,
    steps_to,
)


def middle_half(scores: np.ndarray) -> float:
    """rliable's interquartile mean: a quarter, rounded down, is cut from either end."""
    cut = len(scores) // 4
    return float(np.mean(sorted(scores)[cut : len(scores) - cut]))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 10, 11])
def test_iqm_is_the_mean_of_the_middle_half(count):
    scores = np.random.default_rng(count).normal(size=count)
    assert iqm(scores) == pytest.approx(middle_half(scores))
    assert aggregate([scores])["IQM"].value == pytest.approx(middle_half(scores))


def test_aggregates_take_all_tasks_together():
    tasks = [np.array([1.0, 2.0, 9.0]), np.array([4.0, 5.0, 6.0, 0.0])]
    every = np.concatenate(tasks)
    estimates = aggregate(tasks)
    assert estimates["IQM"].value == pytest.approx(middle_half(every))
    assert estimates["mean"].value == pytest.approx(every.mean())
    assert estimates["median"].value == np.median(every)


def test_the_interval_is_that_of_resampling_by_hand():
    scores = np.random.default_rng(1).gamma(2.0, size=12)
    rng = np.random.default_rng(2)
    drawn = [middle_half(rng.choice(scores, len(scores))) for _ in range(20_000)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    estimate = aggregate([scores])["IQM"]
    width = high - low
    assert estimate.low == pytest.approx(low, abs=0.06 * width)
    assert estimate.high == pytest.approx(high, abs=0.06 * width)


def test_resampling_stays_within_each_task():
    # Each task's scores agree, so that only mixing the tasks could make a difference.
    estimates = aggregate([np.full(5, 1.0), np.full(5, 100.0)])
    assert estimates["mean"] == (50.5, 50.5, 50.5)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = [aggregate([rng.normal(3.0, 1.0, 30)])["mean"] for _ in range(150)]
    covered = np.mean([low <= 3.0 <= high for _, low, high in intervals])
    assert 0.87 < covered < 0.99


def test_equal_scores_and_a_single_score():
    assert aggregate([np.full(10, 500.0)])["IQM"] == (500.0, 500.0, 500.0)
    value, low, high = aggregate([np.array([7.0])])["median"]
    assert value == 7.0
    assert np.isnan([low, high]).all()
    assert np.isnan(aggregate([np.array([np.nan])])["mean"]).all()


def test_probability_of_improvement_counts_pairs():
    rng = np.random.default_rng(3)
    x, y = rng.integers(0, 6, 9).astype(float), rng.integers(0, 6, 7).astype(float)
    wins = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(x, y)]
    estimate = probability_of_improvement([x], [y])
    assert estimate.value == pytest.approx(np.mean(wins))
    assert estimate.low < estimate.value < estimate.high
    other = probability_of_improvement([y], [x])
    assert other.value == pytest.approx(1 - estimate.value)


def test_probability_of_improvement_is_averaged_over_tasks():
    above, below = np.array([2.0, 3.0]), np.array([0.0, 1.0])
    assert probability_of_improvement([above, below], [below, above]).value == 0.5
    assert probability_of_improvement([above, above], [below, above]).value == 0.75


def test_performance_profile_is_the_share_above():
    scores = [np.array([0.0, 1.0, 2.0]), np.array([3.0])]
    levels = np.array([-1.0, 0.0, 1.5, 3.0])
    share, _, _ = performance_profile(scores, levels)
    assert share.tolist() == [1.0, 0.75, 0.5, 0.0]
    share, low, high = performance_profile([np.arange(10.0)], np.array([4.5]))
    assert low[0] < share[0] == 0.5 < high[0]


def test_a_band_is_pointwise_and_nan_where_a_curve_ends():
    values = np.random.default_rng(4).normal(size=(10, 3))
    values[0, 2] = np.nan
    middle, low, high = band(values, np.mean)
    np.testing.assert_allclose(middle[:2], values[:, :2].mean(axis=0))
    assert (low[:2] < middle[:2]).all()
    assert (middle[:2] < high[:2]).all()
    assert np.isnan([middle[2], low[2], high[2]]).all()
    middle, low, _ = band(values[:1, :2], np.mean)
    np.testing.assert_array_equal(middle, values[0, :2])
    assert np.isnan(low).all()


def test_steps_to_the_first_value_at_the_threshold():
    steps, values = np.array([10, 20, 30]), np.array([1.0, 5.0, 4.0])
    assert steps_to(steps, values, 4.5) == 20
    assert steps_to(steps, values, 5.0) == 20
    assert steps_to(steps, values, 5.1) == float("inf")
    assert np.isnan(steps_to(steps, values, float("nan")))
