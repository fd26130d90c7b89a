"""What `dqn-compare` works out: scores, curves and statistics of groups of runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from dqn_runner.analysis.groups import RETURNS, Curve, Group, curve, group_runs, score
from dqn_runner.analysis.runs import Floats, Run
from dqn_runner.analysis.statistics import (
    ENOUGH_SEEDS,
    Estimate,
    aggregate,
    probability_of_improvement,
    steps_to,
)
from dqn_runner.tracking.metrics_file import is_number

# Above this many groups each is compared with the best one alone.
MOST_GROUPS_PAIRWISE = 5

Bounds = dict[str, tuple[float, float]]


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
        tasks = self.scores[metric or next(iter(self.scores))]
        return sum(int(np.isfinite(task).sum()) for task in tasks)


@dataclass(frozen=True)
class Comparison:
    """Everything that is shown: a table, a figure or a file is made from this alone."""

    options: Options
    groups: list[GroupStatistics]
    improvements: list[tuple[str, str, Estimate]]  # P(a run of the first scores above the second)
    remarks: list[str]


def compare(runs: Sequence[Run], options: Options | None = None) -> Comparison:
    """Compare `runs`, which `load_runs` has read.

    Raises KeyError where `options.group_by` names a setting that no run has.
    """
    options = options or Options()
    groups = [_statistics(group, options) for group in group_runs(runs, options.group_by)]
    metric = options.metrics[0]
    groups.sort(key=lambda group: -_sortable(group.estimates[metric]["IQM"].value))
    pairs = [(a, b) for i, a in enumerate(groups) for b in groups[i + 1 :]]
    if len(groups) > MOST_GROUPS_PAIRWISE:
        pairs = [(groups[0], b) for b in groups[1:]]
    improvements = [
        (
            a.group.name,
            b.group.name,
            probability_of_improvement(*_common_tasks(a, b, metric)),
        )
        for a, b in pairs
        if _environments(a.group) & _environments(b.group)
    ]
    return Comparison(options, groups, improvements, _remarks(runs, groups, options))


def _statistics(group: Group, options: Options) -> GroupStatistics:
    curves = [curve(run) for run in group.runs]
    scores: dict[str, list[Floats]] = {}
    for metric in options.metrics:
        by_environment: dict[str, list[float]] = {}
        for run, points in zip(group.runs, curves, strict=True):
            bounds = options.bounds if metric in RETURNS or "return" in metric else None
            value = _normalised(run, score(run, metric, points), bounds)
            by_environment.setdefault(_environment(run), []).append(value)
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
    return GroupStatistics(
        group=group,
        curves=curves,
        scores=scores,
        estimates={metric: aggregate(tasks) for metric, tasks in scores.items()},
        steps_to_threshold=np.array(
            [
                steps_to(points.env_steps, points.values, threshold_of(run, options))
                for run, points in zip(group.runs, curves, strict=True)
            ]
        ),
        wall_time_seconds=_mean([s for s in seconds if is_number(s)]),
        env_steps_per_second=_mean(speeds),
    )


def threshold_of(run: Run, options: Options) -> float:
    """The return that counts as reached; NaN where nobody names one."""
    if options.threshold is not None:
        return options.threshold
    import gymnasium

    spec = gymnasium.registry.get(_environment(run))
    known = None if spec is None else spec.reward_threshold
    return float("nan") if known is None else known


def _environment(run: Run) -> str:
    return str(run.config.get("env.id"))


def _environments(group: Group) -> set[str]:
    return {_environment(run) for run in group.runs}


def _common_tasks(
    a: GroupStatistics, b: GroupStatistics, metric: str
) -> tuple[list[Floats], list[Floats]]:
    """The scores of both in the environments that both have."""
    ours = dict(zip(sorted(_environments(a.group)), a.scores[metric], strict=True))
    theirs = dict(zip(sorted(_environments(b.group)), b.scores[metric], strict=True))
    both = sorted(ours.keys() & theirs.keys())
    return [ours[name] for name in both], [theirs[name] for name in both]


def _normalised(run: Run, value: float, bounds: Bounds | None) -> float:
    if bounds is None:
        return value
    low, high = bounds.get(_environment(run)) or bounds.get("*") or (0.0, 1.0)
    return (value - low) / (high - low)


def _sortable(value: float) -> float:
    return value if np.isfinite(value) else -np.inf


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else float("nan")


def _remarks(runs: Sequence[Run], groups: Sequence[GroupStatistics], options: Options) -> list[str]:
    """Plain sentences on what the numbers cannot tell."""
    remarks = []
    for status, saying in (
        ("running", "still running"),
        ("stopped", "stopped before its end"),
    ):
        remarks += [
            f"{run.path}: {saying}; its last evaluation stands for its final score"
            for run in runs
            if run.status == status and run.config
        ]
    remarks += [f"{run.path}: {run.problem}; left out" for run in runs if not run.config]
    remarks += [f"{line}; left out" for run in runs for line in sorted(run.damage)]
    counts = [group.num_scores() for group in groups]
    if counts and min(counts) < ENOUGH_SEEDS:
        fewest = min(counts)
        remarks.append(
            f"{_only(fewest, len(groups))}: too few to tell. DQN differs so much between seeds "
            "that ten or more are needed before a difference can be believed."
        )
    environments = {_environment(run) for group in groups for run in group.group.runs}
    per_group = max((len(group.scores[next(iter(group.scores))]) for group in groups), default=0)
    repeated = len(runs) - len({_identity(run) for run in runs})
    if repeated:
        remarks.append(
            f"{repeated} of the runs repeat{'s' * (repeated == 1)} another with its settings and "
            "seed: they add no evidence, and intervals are too narrow."
        )
    unscaled = sorted(environments - set(options.bounds or ()))
    if options.bounds and "*" not in options.bounds and unscaled:
        remarks.append(f"Not normalised, for no bounds are given: {', '.join(unscaled)}.")
    if len(environments) > 1 and per_group > 1 and not options.bounds:
        remarks.append(
            "Scores of different environments are taken together: they mean something only "
            "when normalised (--normalize)."
        )
    return remarks


def _only(fewest: int, num_groups: int) -> str:
    seeds = f"only {fewest} seed{'s' * (fewest != 1)}"
    if num_groups > 1:
        return f"A group has {seeds}"
    return f"There {'is' if fewest == 1 else 'are'} {seeds}"


def _identity(run: Run) -> str:
    """What a run computes, as text; of one that cannot be read, itself."""
    settings = {k: v for k, v in run.config.items() if not k.startswith("tracker.")}
    return json.dumps(settings, sort_keys=True, default=str) if settings else str(run.path)


def as_records(comparison: Comparison) -> list[dict[str, Any]]:
    """A flat record for each group and metric, for files and data frames."""
    return [
        {
            "group": statistics.group.name,
            "runs": statistics.num_scores(metric),
            "metric": metric,
            **{
                f"{name}{suffix}": number
                for name, estimate in estimates.items()
                for suffix, number in zip(("", "_low", "_high"), estimate, strict=True)
            },
            "reached_threshold": int(np.isfinite(statistics.steps_to_threshold).sum()),
            "median_env_steps_to_threshold": median_steps(statistics),
            "wall_time_seconds": statistics.wall_time_seconds,
            "env_steps_per_second": statistics.env_steps_per_second,
        }
        for statistics in comparison.groups
        for metric, estimates in statistics.estimates.items()
    ]


def median_steps(statistics: GroupStatistics) -> float:
    """Median env steps to the threshold; infinite where half of the runs never got there.

    NaN where no run has evaluations and a threshold.
    """
    if np.isnan(statistics.steps_to_threshold).all():
        return float("nan")
    return float(np.nanmedian(statistics.steps_to_threshold))
