"""What `dqn-compare` works out: scores, curves and statistics of groups of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from dqn_runner.analysis.groups import (
    RETURNS,
    Curve,
    Group,
    curve,
    differing_keys,
    environment,
    group_runs,
    score,
)
from dqn_runner.analysis.remarks import remarks
from dqn_runner.analysis.runs import Floats, Run
from dqn_runner.analysis.statistics import (
    Estimate,
    Kind,
    aggregate,
    interval_kind,
    probability_of_improvement,
    steps_to,
    with_scores,
)
from dqn_runner.runs.metrics_file import is_number

# Above this many groups each is compared with the best one alone.
MOST_GROUPS_PAIRWISE = 5

Bounds = dict[str, tuple[float, float]]
Improvement = tuple[str, str, Estimate]  # P(a run of the first scores above one of the second)


@dataclass(frozen=True)
class Options:
    """What is compared.

    `metrics` are `final`, `best` or names in metrics.jsonl. `threshold` is a return; where None,
    each environment's own, if Gymnasium knows one. `bounds` maps scores of an environment (or of
    `*`, any) from [low, high] to [0, 1].
    """

    metrics: tuple[str, ...] = RETURNS
    threshold: float | None = None
    group_by: tuple[str, ...] | None = None
    bounds: Bounds | None = None

    def bounds_of(self, environment: str) -> tuple[float, float] | None:
        """The bounds of an environment's scores; None where it has none."""
        bounds = self.bounds or {}
        return bounds.get(environment) or bounds.get("*")


@dataclass(frozen=True)
class GroupStatistics:
    """One group's numbers; `scores` and `estimates` by metric, per-run arrays in order of seeds."""

    group: Group
    curves: list[Curve]
    scores: dict[str, list[Floats]]  # by metric, an array [seeds] for each environment
    estimates: dict[str, dict[str, Estimate]]  # by metric and aggregate
    steps_to_threshold: Floats  # [runs], infinite where not reached, NaN without a threshold
    wall_time_seconds: float
    env_steps_per_second: float

    def num_scores(self, metric: str | None = None) -> int:
        """How many runs have a score in `metric`, or in the first of them."""
        return sum(len(task) for task in with_scores(self.scores[self._metric(metric)]))

    def interval_kind(self, metric: str | None = None) -> Kind:
        """What stands beside the estimates of `metric`, or of the first of them."""
        return interval_kind(self.scores[self._metric(metric)])

    def _metric(self, metric: str | None) -> str:
        return metric or next(iter(self.scores))


@dataclass(frozen=True)
class Ranking:
    """Groups that can be ranked, the best first: those of one environment.

    Or of several, whose normalized scores are taken together.
    """

    environments: tuple[str, ...]
    options: Options
    groups: list[GroupStatistics]
    improvements: list[Improvement]

    @property
    def name(self) -> str:
        """The environment's id."""
        return "all environments" if self.is_across else self.environments[0]

    @property
    def is_across(self) -> bool:
        """Whether scores of several environments are taken together."""
        return len(self.environments) > 1

    def score_name(self, metric: str) -> str:
        """What scores of `metric` are called."""
        name = f"{metric} return" if metric in RETURNS else metric
        return f"normalized {name}" if self._is_normalized(metric) else name

    def score_format(self, metric: str) -> str:
        """How scores of `metric` are written, by the size they may have."""
        if not _is_return(metric):
            return ",.3g"
        return ",.3f" if self._is_normalized(metric) else ",.1f"

    def _is_normalized(self, metric: str) -> bool:
        return _is_return(metric) and self.options.bounds_of(self.environments[0]) is not None


@dataclass(frozen=True)
class Comparison:
    """Everything that is shown: a table, a figure or a file is made from this alone.

    `rankings` has one for each environment, and at its end, where the scores of several are
    normalized, one of all these.
    """

    options: Options
    rankings: list[Ranking]
    remarks: list[str]

    @property
    def groups(self) -> list[GroupStatistics]:
        """The groups of each environment."""
        return [group for r in self.rankings if not r.is_across for group in r.groups]

    @property
    def improvements(self) -> list[Improvement]:
        """The pairs of groups that are compared in each environment."""
        return [pair for r in self.rankings if not r.is_across for pair in r.improvements]


def compare(runs: Sequence[Run], options: Options | None = None) -> Comparison:
    """Compare `runs`, which `load_runs` has read, those of each environment by themselves.

    Raises KeyError where `options.group_by` names a setting that no run has.
    """
    options = options or Options()
    readable = [run for run in runs if run.config]
    for key in options.group_by or ():
        if not any(key in run.config for run in readable):
            raise KeyError(key)
    curves = {run.path: curve(run) for run in readable}
    keys, rankings = {}, []
    for name in sorted({environment(run) for run in readable}):
        members = [run for run in readable if environment(run) == name]
        keys[name] = _keys(members, options)
        groups = [_statistics(group, options, curves) for group in group_runs(members, keys[name])]
        rankings.append(_ranking((name,), options, groups))
    across = _across(readable, options, keys, curves)
    rankings += [across] if across.groups else []
    return Comparison(options, rankings, remarks(runs, rankings, options))


def _keys(runs: Sequence[Run], options: Options) -> list[str]:
    """The settings that make groups of `runs`, which are of one environment."""
    if options.group_by is None:
        return differing_keys(runs)
    return [key for key in options.group_by if any(key in run.config for run in runs)]


def _across(
    runs: Sequence[Run],
    options: Options,
    keys: Mapping[str, Sequence[str]],
    curves: Mapping[Path, Curve],
) -> Ranking:
    """The ranking of all environments whose scores are normalized.

    Has no groups where fewer than two are: each group has scores in every one of them. `keys` are
    those that make groups in each environment; what differs between environments alone makes none.
    """
    names = tuple(name for name in keys if options.bounds_of(name))
    options = replace(options, metrics=tuple(filter(_is_return, options.metrics)))
    if len(names) < 2 or not options.metrics:
        return Ranking(names, options, [], [])
    members = [run for run in runs if environment(run) in names]
    chosen = list(dict.fromkeys(key for name in names for key in keys[name]))
    groups = [_statistics(group, options, curves) for group in group_runs(members, chosen)]
    in_all = [g for g in groups if len(with_scores(g.scores[options.metrics[0]])) == len(names)]
    return _ranking(names, options, in_all)


def _ranking(
    environments: tuple[str, ...], options: Options, groups: Sequence[GroupStatistics]
) -> Ranking:
    metric = options.metrics[0]
    known = [group for group in groups if group.num_scores()]
    known.sort(key=lambda group: -group.estimates[metric]["IQM"].value)
    pairs = [(a, b) for i, a in enumerate(known) for b in known[i + 1 :]]
    if len(known) > MOST_GROUPS_PAIRWISE:
        pairs = [(known[0], b) for b in known[1:]]
    improvements = [
        (
            a.group.name,
            b.group.name,
            probability_of_improvement(a.scores[metric], b.scores[metric]),
        )
        for a, b in pairs
    ]
    unknown = [group for group in groups if not group.num_scores()]
    return Ranking(environments, options, known + unknown, improvements)


def _statistics(group: Group, options: Options, curves: Mapping[Path, Curve]) -> GroupStatistics:
    scores: dict[str, list[Floats]] = {}
    for metric in options.metrics:
        by_environment: dict[str, list[float]] = {}
        for run in group.runs:
            value = score(run, metric, curves[run.path])
            if _is_return(metric):
                value = _normalized(value, options.bounds_of(environment(run)))
            by_environment.setdefault(environment(run), []).append(value)
        scores[metric] = [np.array(values) for _, values in sorted(by_environment.items())]
    rows = [run.last_row() for run in group.runs]
    seconds: list[Any] = [
        run.result["wall_time_seconds"] if run.result else row.get("time/elapsed_seconds")
        for run, row in zip(group.runs, rows, strict=True)
    ]
    speeds = [
        row["env_steps"] / row["time/elapsed_seconds"]
        for row in rows
        if is_number(row.get("time/elapsed_seconds")) and row["time/elapsed_seconds"]
    ]
    steps = [
        steps_to(curves[run.path].env_steps, curves[run.path].values, threshold_of(run, options))
        for run in group.runs
    ]
    return GroupStatistics(
        group=group,
        curves=[curves[run.path] for run in group.runs],
        scores=scores,
        estimates={metric: aggregate(tasks) for metric, tasks in scores.items()},
        steps_to_threshold=np.array(steps),
        wall_time_seconds=_mean([s for s in seconds if is_number(s)]),
        env_steps_per_second=_mean(speeds),
    )


def threshold_of(run: Run, options: Options) -> float:
    """The return that counts as reached; NaN where nobody names one."""
    if options.threshold is not None:
        return options.threshold
    import gymnasium

    spec = gymnasium.registry.get(environment(run))
    known = None if spec is None else spec.reward_threshold
    return float("nan") if known is None else known


def _is_return(metric: str) -> bool:
    return metric in RETURNS or "return" in metric


def _normalized(value: float, bounds: tuple[float, float] | None) -> float:
    low, high = bounds or (0.0, 1.0)
    return (value - low) / (high - low)


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else float("nan")


def as_records(comparison: Comparison) -> list[dict[str, Any]]:
    """A flat record for each environment, group and metric, for files and data frames.

    `interval` says what `_low` and `_high` are: `95 %`, `min-max` of fewer than 5 seeds, or `none`.
    """
    return [
        {
            "group": statistics.group.name,
            "environment": ranking.name,
            "runs": statistics.num_scores(metric),
            "metric": metric,
            **{
                f"{name}{suffix}": number
                for name, estimate in estimates.items()
                for suffix, number in zip(("", "_low", "_high"), estimate, strict=True)
            },
            "interval": statistics.interval_kind(metric),
            "reached_threshold": int(np.isfinite(statistics.steps_to_threshold).sum()),
            "median_env_steps_to_threshold": median_steps(statistics),
            "wall_time_seconds": statistics.wall_time_seconds,
            "env_steps_per_second": statistics.env_steps_per_second,
        }
        for ranking in comparison.rankings
        for statistics in ranking.groups
        for metric, estimates in statistics.estimates.items()
    ]


def median_steps(statistics: GroupStatistics) -> float:
    """Median env steps to the threshold; infinite where half of the runs never got there.

    NaN where no run has evaluations and a threshold.
    """
    if np.isnan(statistics.steps_to_threshold).all():
        return float("nan")
    return float(np.nanmedian(statistics.steps_to_threshold))
