"""Aggregates over seeds and their intervals, against definitions written out by hand."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from interval_coverage import PAIRS, SCORES, SEEDS, SIMULATIONS, coverage, improvement_coverage
from scipy import stats

from dqn_runner.analysis.statistics import (
    aggregate,
    band,
    interval_kind,
    iqm,
    performance_profile,
    probability_of_improvement,
    steps_to,
    steps_to_hold,
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
    """Its quantiles go as far out as Student's t, times the root of n / (n - 1)."""
    scores = np.random.default_rng(1).gamma(2.0, size=12)
    rng = np.random.default_rng(2)
    drawn = [middle_half(rng.choice(scores, len(scores))) for _ in range(20_000)]
    outside = stats.norm.cdf(stats.t.ppf(0.025, 11) * np.sqrt(12 / 11))
    low, high = np.quantile(drawn, [outside, 1 - outside])
    estimate = aggregate([scores])["IQM"]
    width = high - low
    assert estimate.low == pytest.approx(low, abs=0.06 * width)
    assert estimate.high == pytest.approx(high, abs=0.06 * width)


def test_the_interval_of_the_mean_undoes_the_skewness_of_its_t_statistic():
    """Its ends are where Hall's (1992) transformed statistic meets Student's quantiles.

    Up to the third order of its skewness, which is small with so many seeds.
    """
    scores = np.random.default_rng(1).gamma(2.0, size=60)
    n, error = len(scores), scores.std(ddof=1) / np.sqrt(len(scores))
    skewness = stats.skew(scores) * ((n - 1) / n) ** 1.5 / np.sqrt(n)
    estimate = aggregate([scores])["mean"]
    for end, side in ((estimate.low, 1), (estimate.high, -1)):
        t = (scores.mean() - end) / error
        transformed = t + skewness * t**2 / 3 + skewness**2 * t**3 / 27 + skewness / 6
        quantile = side * stats.t.ppf(0.975, n - 1)
        assert transformed == pytest.approx(quantile, abs=0.03)
        assert abs(t - quantile) > 0.15  # which is how far the skewness moves it


def test_without_skewness_the_interval_of_the_mean_is_students():
    scores = np.array([1.0, 2.0, 4.0, 6.0, 8.0, 9.0])
    interval = stats.ttest_1samp(scores, 0.0).confidence_interval()
    assert aggregate([scores])["mean"] == pytest.approx((5.0, interval.low, interval.high))


def test_no_interval_goes_beyond_the_seeds():
    estimate = aggregate([np.array([500.0, 500.0, 500.0, 9.0, 200.0])])["mean"]
    assert (estimate.low, estimate.high) == (9.0, 500.0)


def test_resampling_stays_within_each_task():
    # Each task's scores agree, so that only mixing the tasks could make a difference.
    estimates = aggregate([np.full(5, 1.0), np.full(5, 100.0)])
    assert estimates["mean"] == (50.5, 50.5, 50.5)


def documented(heading: str) -> dict[tuple[str, ...], dict[str, float]]:
    """The rows of a table in docs/statistics.md: by what comes before its numbers, each column."""
    text = (Path(__file__).parents[2] / "docs" / "statistics.md").read_text()
    lines = text[text.index(f"| {heading} |") :].split("\n\n")[0].splitlines()
    names, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    labels = len([name for name in rows[0] if not re.fullmatch(r"0\.\d\d|1\.00", name)])
    return {
        tuple(row[:labels]): dict(zip(names[labels:], map(float, row[labels:]), strict=True))
        for row in rows
    }


def tolerance(share: float, simulations: int) -> float:
    """Four standard errors of a share found in so many simulations and of the documented one.

    And what writing that with two digits takes.
    """
    variance = max(share * (1 - share), 0.01)
    return 4 * np.sqrt(variance * (1 / simulations + 1 / SIMULATIONS)) + 0.005


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("scores", ["normal", "log-normal (σ = 0.8)", "70 % at the cap"])
def test_intervals_hold_the_truth_as_often_as_documented(scores, seeds):
    row = documented("scores")[scores, str(seeds)]
    for column, simulations in (("mean", 2000), ("IQM", 500)):
        found = coverage(scores, seeds, column, simulations)
        assert found == pytest.approx(row[column], abs=tolerance(row[column], simulations))


@pytest.mark.slow
def test_every_documented_coverage():
    for (scores, seeds), row in documented("scores").items():
        for column, share in row.items():
            found = coverage(scores, int(seeds), column, 2000)
            assert found == pytest.approx(share, abs=tolerance(share, 2000))


def test_no_other_interval_holds_the_truth_as_often():
    """By the documented numbers: the mean distance from 95 %, and the worst case."""
    table = documented("scores")
    assert set(table) == {(scores, str(seeds)) for scores in SCORES for seeds in SEEDS}

    def distance(column: str) -> float:
        return float(np.mean([abs(row[column] - 0.95) for row in table.values()]))

    def worst(column: str) -> float:
        return min(row[column] for row in table.values())

    for kept, *others in (
        ("mean", "Student's t", "percentile bootstrap"),
        ("IQM", "trimmed t", "its percentile bootstrap"),
    ):
        assert all(distance(kept) < distance(other) for other in others)
        assert all(worst(kept) >= worst(other) for other in others)


@pytest.mark.parametrize(("a", "b", "shift"), PAIRS)
def test_probabilities_hold_the_truth_as_often_as_documented(a, b, shift):
    row = documented("of")[a, b, f"{shift:.0f}"]
    share = row["5 seeds each"]
    assert improvement_coverage(a, b, shift, 5, 500) == pytest.approx(share, abs=0.04)


def test_equal_scores_and_a_single_score():
    for scores in (np.full(10, 500.0), np.full(10, 0.1)):
        for estimate in aggregate([scores]).values():
            assert estimate == pytest.approx((scores[0],) * 3)
    value, low, high = aggregate([np.array([7.0])])["median"]
    assert value == 7.0
    assert np.isnan([low, high]).all()
    assert np.isnan(aggregate([np.array([np.nan])])["mean"]).all()


def test_few_seeds_have_their_lowest_and_highest_beside_them():
    scores = np.array([3.0, 1.0, np.nan, 8.0])
    assert interval_kind([scores]) == "min-max"
    assert aggregate([scores])["mean"] == (4.0, 1.0, 8.0)
    kinds = {n: interval_kind([np.arange(float(n))]) for n in (0, 1, 2, 4, 5)}
    assert kinds == {0: "none", 1: "none", 2: "min-max", 4: "min-max", 5: "95 %"}
    assert interval_kind([np.arange(9.0), np.arange(3.0), np.array([np.nan])]) == "min-max"


def test_a_task_without_scores_changes_nothing():
    tasks = [np.array([3.0, 1.0, 5.0]), np.array([2.0, 2.5, 4.0])]
    empty = [*tasks, np.array([np.nan, np.nan]), np.array([])]
    assert aggregate(empty) == aggregate(tasks)
    both = probability_of_improvement(tasks, tasks[::-1])
    assert probability_of_improvement(empty, [*tasks[::-1], tasks[0], tasks[0]]) == both
    assert np.isnan(probability_of_improvement([np.array([np.nan])], [tasks[0]])).all()
    assert np.isnan(probability_of_improvement([], [])).all()
    levels = np.array([2.0, 9.0])
    np.testing.assert_array_equal(
        performance_profile(empty, levels), performance_profile(tasks, levels)
    )
    assert np.isnan(performance_profile([np.array([])], levels)).all()


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
    above, below = np.arange(5.0) + 10, np.arange(5.0)
    assert probability_of_improvement([above, below], [below, above]).value == 0.5
    two = probability_of_improvement([above, above], [below, above])
    assert two.value == 0.75
    certain, even = (probability_of_improvement([above], [other]) for other in (below, above))
    assert two.low == pytest.approx(0.75 - np.hypot(1 - certain.low, 0.5 - even.low) / 2)
    assert two.high == pytest.approx(0.75 + (even.high - 0.5) / 2)


def test_a_few_runs_that_are_all_better_make_no_certainty():
    above, below = np.arange(5.0) + 10, np.arange(5.0)
    value, low, high = probability_of_improvement([above], [below])
    assert (value, high) == (1.0, 1.0)
    assert 0.5 < low < 0.8
    assert np.isnan(probability_of_improvement([above[:4]], [below]).low)


def test_performance_profile_is_the_share_above():
    scores = [np.array([0.0, 1.0, 2.0]), np.array([3.0])]
    levels = np.array([-1.0, 0.0, 1.5, 3.0])
    share, _, _ = performance_profile(scores, levels)
    assert share.tolist() == [1.0, 0.75, 0.5, 0.0]
    runs, level = np.arange(10.0), np.array([-1.0, 1.5, 4.5])
    share, low, high = performance_profile([runs], level)
    for i, above in enumerate((10, 8, 5)):
        wilson = stats.binomtest(above, 10).proportion_ci(method="wilson")
        assert (share[i], low[i], high[i]) == pytest.approx((above / 10, wilson.low, wilson.high))


def test_a_band_is_pointwise_and_nan_where_a_curve_ends():
    values = np.random.default_rng(4).normal(size=(10, 3))
    values[0, 2] = np.nan
    middle, low, high = band(values, np.mean)
    np.testing.assert_allclose(middle[:2], values[:, :2].mean(axis=0))
    assert (low[:2] < middle[:2]).all()
    assert (middle[:2] < high[:2]).all()
    assert np.isnan([middle[2], low[2], high[2]]).all()
    _, low, high = band(values[:3], np.mean)
    np.testing.assert_array_equal(
        [low[:2], high[:2]], [values[:3, :2].min(0), values[:3, :2].max(0)]
    )
    assert np.isnan(band(np.empty((0, 3)), np.mean)).all()
    middle, low, _ = band(values[:1, :2], np.mean)
    np.testing.assert_array_equal(middle, values[0, :2])
    assert np.isnan(low).all()


def test_steps_to_the_first_value_at_the_threshold():
    steps, values = np.array([10, 20, 30]), np.array([1.0, 5.0, 4.0])
    assert steps_to(steps, values, 4.5) == 20
    assert steps_to(steps, values, 5.0) == 20
    assert steps_to(steps, values, 5.1) == float("inf")
    assert np.isnan(steps_to(steps, values, float("nan")))


@given(st.lists(st.integers(0, 4), max_size=8))
def test_the_step_from_which_on_a_threshold_is_held(returns):
    steps = 10 * np.arange(len(returns))
    held = [step for i, step in enumerate(steps) if all(value >= 2 for value in returns[i:])]
    if returns:
        expected = held[0] if held else float("inf")
        assert steps_to_hold(steps, np.array(returns, float), 2.0) == expected
    assert np.isnan(steps_to_hold(steps, np.array(returns, float), float("nan")))
