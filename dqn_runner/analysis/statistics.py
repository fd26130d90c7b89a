"""Statistics over seeds (Agarwal et al. 2021, "Deep reinforcement learning at the edge of the
statistical precipice"): aggregates with stratified bootstrap intervals.

Scores of a group are given task by task, as a list of arrays [seeds]: one array for each
environment. Resampling is done within each, which is what stratified means.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dqn_runner.analysis.runs import Floats, Integers

CONFIDENCE = 0.95
RESAMPLES = 2000
BATCH = 250  # resamples in memory at a time
ENOUGH_SEEDS = 5  # below this an interval by resampling says little


class Estimate(NamedTuple):
    """A number and its 95 % interval; without one (NaN) where there is a single seed."""

    value: float
    low: float
    high: float


def iqm(scores: Floats, axis: int = -1) -> Floats:
    """Interquartile mean: the mean of the middle half of `scores`."""
    from scipy import stats  # takes a second, which a training need not wait for

    result: Floats = stats.trim_mean(scores, 0.25, axis=axis)
    return result


AGGREGATES: dict[str, Callable[..., Floats]] = {"IQM": iqm, "mean": np.mean, "median": np.median}


def aggregate(scores: Sequence[Floats]) -> dict[str, Estimate]:
    """IQM, mean and median over all seeds of the tasks that have scores, with intervals."""
    tasks = [_finite(task) for task in scores]
    tasks = [task for task in tasks if len(task)] or tasks[:1]

    def statistics(*samples: Floats, axis: int) -> Floats:
        together = np.concatenate(samples, axis=axis)
        return np.stack([f(together, axis=axis) for f in AGGREGATES.values()])

    values, low, high = _bootstrap(tasks, statistics)
    return {
        name: Estimate(*numbers)
        for name, *numbers in zip(
            AGGREGATES, values.tolist(), low.tolist(), high.tolist(), strict=True
        )
    }


def probability_of_improvement(x: Sequence[Floats], y: Sequence[Floats]) -> Estimate:
    """How likely a run of `x` scores above one of `y` (ties count half), averaged over tasks."""
    pairs = [(_finite(a), _finite(b)) for a, b in zip(x, y, strict=True)]

    def statistics(*samples: Floats, axis: int) -> Floats:
        halves = zip(samples[0::2], samples[1::2], strict=True)
        share: Floats = np.mean([_above(a, b) for a, b in halves], axis=0)
        return share

    value, low, high = _bootstrap([scores for pair in pairs for scores in pair], statistics)
    return Estimate(float(value), float(low), float(high))


def _above(a: Floats, b: Floats) -> Floats:
    """Mann and Whitney's U of the last axes, as a share of all pairs."""
    difference = a[..., :, None] - b[..., None, :]
    share: Floats = ((difference > 0) + 0.5 * (difference == 0)).mean(axis=(-2, -1))
    return share


def performance_profile(scores: Sequence[Floats], levels: Floats) -> tuple[Floats, Floats, Floats]:
    """The share of runs that score above each of `levels` [L], with its interval: three [L]."""

    def statistics(*samples: Floats, axis: int) -> Floats:
        together = np.concatenate(samples, axis=axis)
        return np.stack([(together > level).mean(axis=axis) for level in levels])

    return _bootstrap([_finite(task) for task in scores], statistics)


def band(values: Floats, statistic: Callable[..., Floats] = iqm) -> tuple[Floats, Floats, Floats]:
    """`statistic` over the seeds of curves [seeds, T], with its interval at each point: three [T].

    NaN where a curve has no value.
    """
    return _bootstrap([values.T], statistic, RESAMPLES // 4)


def steps_to(env_steps: Integers, values: Floats, threshold: float) -> float:
    """The env step of the first value at or above `threshold`; infinite where none is.

    NaN without a threshold, or without values.
    """
    if np.isnan(threshold) or len(values) == 0:
        return float("nan")
    reached = np.flatnonzero(values >= threshold)
    return float(env_steps[reached[0]]) if len(reached) else float("inf")


def _finite(scores: Floats) -> Floats:
    return scores[np.isfinite(scores)]


def _bootstrap(
    samples: Sequence[Floats], statistic: Callable[..., Floats], resamples: int = RESAMPLES
) -> tuple[Floats, Floats, Floats]:
    """`statistic` along the last axis and its percentile interval, each sample resampled by itself.

    No interval where a sample has a single value, no number where it has none.
    """
    if any(sample.shape[-1] == 0 for sample in samples):
        samples = [np.full((*sample.shape[:-1], 1), np.nan) for sample in samples]
    value = statistic(*samples, axis=-1)
    nothing = np.full_like(value, np.nan)
    if any(sample.shape[-1] == 1 for sample in samples):
        return value, nothing, nothing
    from scipy import stats

    with warnings.catch_warnings():
        # Of numbers that are not there, which a curve has where a run has not come yet.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        interval = stats.bootstrap(
            samples,
            statistic,
            n_resamples=resamples,
            confidence_level=CONFIDENCE,
            method="percentile",  # scipy's default, BCa, has no answer for ten equal scores
            vectorized=True,
            batch=BATCH,
            axis=-1,
            rng=np.random.default_rng(0),
        ).confidence_interval
    return value, interval.low, interval.high
