"""Statistics over seeds: aggregates, comparisons of two groups, and their intervals.

The scores of a group are a list with one array for each task, that is for each environment:
[seeds], or [T, seeds] for T points of a curve. docs/statistics.md says how often the intervals
contain the true value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from dqn_runner.analysis.runs import Floats, Integers

CONFIDENCE = 0.95
RESAMPLES = 2000
BATCH = 250  # resamples in memory at a time
ENOUGH_SEEDS = 5  # with fewer, intervals contain the true value less often than they claim

Kind = Literal["95 %", "min-max", "none"]


class Estimate(NamedTuple):
    """A number and its 95 % interval, or with fewer than 5 seeds the lowest and the highest seed.

    With a single seed `low` and `high` are NaN.
    """

    value: float
    low: float
    high: float


def iqm(scores: Floats, axis: int = -1) -> Floats:
    """Interquartile mean: the mean of the middle half of `scores`."""
    from scipy import stats  # imported late: it takes a second

    result: Floats = stats.trim_mean(scores, 0.25, axis=axis)
    return result


AGGREGATES: dict[str, Callable[..., Floats]] = {"IQM": iqm, "mean": np.mean, "median": np.median}


def kind_of(seeds: int) -> Kind:
    """Which interval an aggregate of this number of seeds has."""
    return "none" if seeds < 2 else "min-max" if seeds < ENOUGH_SEEDS else "95 %"


def interval_kind(scores: Sequence[Floats]) -> Kind:
    """Which interval the aggregates of `scores` have; the task with the fewest seeds decides."""
    return kind_of(min((len(task) for task in with_scores(scores)), default=0))


def aggregate(scores: Sequence[Floats]) -> dict[str, Estimate]:
    """IQM, mean and median over all seeds of the tasks that have scores, with their intervals."""
    tasks = with_scores(scores)
    if not tasks:
        return dict.fromkeys(AGGREGATES, Estimate(np.nan, np.nan, np.nan))
    return {
        name: Estimate(*(float(number) for number in _with_interval(tasks, statistic)))
        for name, statistic in AGGREGATES.items()
    }


def band(values: Floats, statistic: Callable[..., Floats] = iqm) -> tuple[Floats, Floats, Floats]:
    """`statistic` over the seeds of curves [seeds, T], with its interval at each point: three [T].

    NaN at points where a curve has no value.
    """
    return band_over_tasks([values], statistic)


def band_over_tasks(
    tasks: Sequence[Floats], statistic: Callable[..., Floats] = iqm
) -> tuple[Floats, Floats, Floats]:
    """As `band`, over all seeds of several tasks, each with its curves [seeds, T]."""
    together = np.concatenate(tasks)
    whole = np.isfinite(together).all(axis=0)
    numbers = np.full((3, together.shape[1]), np.nan)
    if whole.any() and len(together):
        numbers[:, whole] = _with_interval([task[:, whole].T for task in tasks], statistic)
    return numbers[0], numbers[1], numbers[2]


def summaries(values: Floats) -> dict[str, Floats]:
    """Mean and IQM over the seeds of curves [seeds, T], and the ends of their intervals.

    By name, `mean`, `mean_low`, `mean_high`, `iqm`, `iqm_low` and `iqm_high`: [T] each.
    """
    statistics: dict[str, Callable[..., Floats]] = {"mean": np.mean, "iqm": iqm}
    return {
        name + end: numbers
        for name, statistic in statistics.items()
        for end, numbers in zip(("", "_low", "_high"), band(values, statistic), strict=True)
    }


def probability_of_improvement(x: Sequence[Floats], y: Sequence[Floats]) -> Estimate:
    """How likely a run of `x` scores above one of `y` (ties count half), averaged over tasks.

    Tasks in which `x` or `y` has no score are left out; NaN if none is left. There is no interval
    if `x` or `y` has fewer than 5 seeds. The intervals of several tasks are combined like those of
    independent means (Zou and Donner 2008, "Construction of confidence limits about effect
    measures").
    """
    pairs = [(_finite(a), _finite(b)) for a, b in zip(x, y, strict=True)]
    pairs = [(a, b) for a, b in pairs if len(a) and len(b)]
    if not pairs:
        return Estimate(np.nan, np.nan, np.nan)
    shares = np.array([_above(a, b) for a, b in pairs])
    value = float(shares.mean())
    if min(min(len(a), len(b)) for a, b in pairs) < ENOUGH_SEEDS:
        return Estimate(value, np.nan, np.nan)
    sizes = ((len(a), len(b)) for a, b in pairs)
    bounds = np.array(  # [T, 2]
        [_share_interval(share, *size) for share, size in zip(shares, sizes, strict=True)]
    )
    down, up = np.sqrt(((bounds - shares[:, None]) ** 2).sum(axis=0)) / len(pairs)
    return Estimate(value, value - float(down), value + float(up))


def _above(a: Floats, b: Floats) -> float:
    """The U statistic of Mann and Whitney (1947), as a share of all pairs."""
    difference = a[:, None] - b[None, :]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def _share_interval(share: float, m: int, n: int) -> tuple[float, float]:
    """The interval of `_above` for groups of m and n runs; it has a width at 0 and 1 too.

    Newcombe 2006, "Confidence intervals for an effect size measure based on the Mann-Whitney
    statistic, part 2", method 5: every θ that is compatible with `share`.
    """
    theta = np.linspace(0.0, 1.0, 10_001)
    spread = 1 + ((m + n) / 2 - 1) * ((1 - theta) / (2 - theta) + theta / (1 + theta))
    deviation = np.sqrt(theta * (1 - theta) / (m * n) * spread)
    possible = theta[np.abs(theta - share) <= _normal_quantile() * deviation + 1e-12]
    return min(share, float(possible[0])), max(share, float(possible[-1]))


def performance_profile(scores: Sequence[Floats], levels: Floats) -> tuple[Floats, Floats, Floats]:
    """The share of runs that score above each of `levels` [L], with its interval: three [L].

    Wilson's interval (1927), which has a width at 0 and 1 too; NaN with fewer than 5 seeds.
    """
    runs = np.concatenate([*with_scores(scores), np.empty(0)])
    return _share(runs > levels[:, None], interval_kind(scores))


def share_reached(steps: Floats, lasts: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """The share of runs that have reached a threshold: env steps, share and interval, four [L].

    `steps` [runs] is when each run reached it (infinite if it did not), and `lasts` [runs] the env
    step of its last evaluation. What a run would have reached after that is not known, so the share
    ends where the first run ended that had not reached the threshold. Wilson's interval, as in
    `performance_profile`.
    """
    unreached = lasts[~np.isfinite(steps)]
    end = unreached.min() if len(unreached) else lasts.max()
    at = np.unique(np.concatenate([[0.0], steps[steps <= end], [end]]))
    return at, *_share(steps <= at[:, None], kind_of(len(steps)))


def _share(are: npt.NDArray[np.bool_], kind: Kind) -> tuple[Floats, Floats, Floats]:
    """The share of runs [L, runs] that `are` something, with Wilson's interval: three [L]."""
    num_runs = are.shape[-1]
    nothing = np.full(len(are), np.nan)
    if num_runs == 0:
        return nothing, nothing, nothing
    share: Floats = are.mean(axis=-1)
    if kind != "95 %":
        return share, nothing, nothing
    extra = _normal_quantile() ** 2 / num_runs
    middle = (share + extra / 2) / (1 + extra)
    half = np.sqrt(extra * share * (1 - share) + extra**2 / 4) / (1 + extra)
    return share, middle - half, middle + half


def steps_to(env_steps: Integers, values: Floats, threshold: float) -> float:
    """The env step of the first value at or above `threshold`; infinite if none is.

    NaN without a threshold, or without values.
    """
    if np.isnan(threshold) or len(values) == 0:
        return float("nan")
    reached = np.flatnonzero(values >= threshold)
    return float(env_steps[reached[0]]) if len(reached) else float("inf")


def steps_to_hold(env_steps: Integers, values: Floats, threshold: float) -> float:
    """The env step from which on all values are at or above `threshold`; infinite without one.

    NaN as `steps_to`.
    """
    if np.isnan(threshold) or len(values) == 0:
        return float("nan")
    below = np.flatnonzero(values < threshold)
    first = below[-1] + 1 if len(below) else 0
    return float(env_steps[first]) if first < len(values) else float("inf")


def median_steps(steps: Floats) -> float:
    """The median of env steps [runs]: infinite if half of them are, NaN if none is known."""
    return float("nan") if np.isnan(steps).all() else float(np.nanmedian(steps))


def with_interval(estimate: Estimate, kind: Kind, style: str) -> str:
    """`value [low, high]`, for few seeds `value (lowest to highest)`, for one seed `value`."""
    value, low, high = (f"{number:{style}}" for number in estimate)
    if np.isnan(estimate.value):
        return "–"
    if np.isnan(estimate.low):
        return value
    return f"{value} ({low} to {high})" if kind == "min-max" else f"{value} [{low}, {high}]"


def with_scores(scores: Sequence[Floats]) -> list[Floats]:
    """The tasks that have scores, with only the finite ones."""
    return [task for task in map(_finite, scores) if len(task)]


def _finite(scores: Floats) -> Floats:
    return scores[np.isfinite(scores)]


def _with_interval(
    tasks: Sequence[Floats], statistic: Callable[..., Floats]
) -> tuple[Floats, Floats, Floats]:
    """`statistic` of all seeds of `tasks` [..., seeds], with its interval: three [...].

    No interval goes beyond the lowest and the highest seed, because no score was seen there.
    """
    together = np.concatenate(tasks, axis=-1)
    value = statistic(together, axis=-1)
    lowest, highest = together.min(axis=-1), together.max(axis=-1)
    kind = kind_of(min(task.shape[-1] for task in tasks))
    if kind == "none":
        nothing = np.full_like(value, np.nan)
        return value, nothing, nothing
    if kind == "min-max":
        return value, lowest, highest
    low, high = _mean_interval(tasks) if statistic is np.mean else _bootstrap(tasks, statistic)
    return value, np.maximum(low, lowest), np.minimum(high, highest)


def _mean_interval(tasks: Sequence[Floats]) -> tuple[Floats, Floats]:
    """The interval of the mean over `tasks` [..., seeds]: Student's t, corrected for skewness.

    Hall 1992, "On the removal of skewness by transformation". The variances and third moments of
    the tasks are summed; the degrees of freedom are Welch and Satterthwaite's.
    """
    from scipy import stats

    sizes = [task.shape[-1] for task in tasks]
    centered = [task - task.mean(axis=-1, keepdims=True) for task in tasks]
    squares = [(x**2).sum(axis=-1) * n / (n - 1) for x, n in zip(centered, sizes, strict=True)]
    shares = [square**2 / (n - 1) for square, n in zip(squares, sizes, strict=True)]
    variance = np.sum(squares, axis=0)  # of the sum of all scores
    skewness = _ratio(np.sum([(x**3).sum(axis=-1) for x in centered], axis=0), variance**1.5)
    quantile = stats.t.isf((1 - CONFIDENCE) / 2, _ratio(variance**2, np.sum(shares, axis=0)))

    def untransformed(t: Floats) -> Floats:
        # To second order: the exact cube root in Hall's equation jumps if the skewness is large.
        t = t - skewness / 6
        return t - skewness * t**2 / 3 + 5 * skewness**2 * t**3 / 27

    mean = sum(task.sum(axis=-1) for task in tasks) / sum(sizes)
    error = np.sqrt(variance) / sum(sizes)
    return mean - error * untransformed(quantile), mean - error * untransformed(-quantile)


def _ratio(above: Floats, below: Floats) -> Floats:
    """`above / below`; 1 if both are 0, as they are if all scores are equal."""
    return np.divide(above, below, out=np.ones_like(below), where=below > 0)


def _bootstrap(tasks: Sequence[Floats], statistic: Callable[..., Floats]) -> tuple[Floats, Floats]:
    """The interval of `statistic` over `tasks` [..., seeds]: two quantiles of its resamples.

    Runs are resampled within each task. Resampling alone gives intervals that are too narrow, so
    the quantiles lie further out than those of 95 %: as much as Student's t and the variance with
    n - 1 would widen the interval (Hesterberg 2015, "What teachers should know about the
    bootstrap", section 5.3).
    """
    from scipy import stats

    sizes = [task.shape[-1] for task in tasks]
    t = stats.t.isf((1 - CONFIDENCE) / 2, sum(sizes) - len(sizes))
    outside = stats.norm.sf(t * np.sqrt(min(sizes) / (min(sizes) - 1)))
    interval = stats.bootstrap(
        tasks,
        lambda *samples, axis: statistic(np.concatenate(samples, axis=axis), axis=axis),
        n_resamples=RESAMPLES,
        confidence_level=1 - 2 * outside,
        method="percentile",
        vectorized=True,
        batch=BATCH,
        axis=-1,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return interval.low, interval.high


def _normal_quantile() -> float:
    from scipy import stats

    return float(stats.norm.isf((1 - CONFIDENCE) / 2))
