"""What `dqn-compare` computes: scores, curves and statistics of groups of runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from statistics import fmean

import numpy as np

from dqn_runner.analysis.groups import (
    RETURNS,
    SCORES,
    Curve,
    Group,
    curve,
    differing_keys,
    environment,
    group_runs,
    run_colors,
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
    steps_to_hold,
    with_scores,
)
from dqn_runner.runs.metrics_file import is_number
from dqn_runner.types import Row

# If there are more groups, only the best one is compared with the others.
MOST_GROUPS_PAIRWISE = 5

Improvement = tuple[str, str, Estimate]  # P(a run of the first scores above one of the second)


@dataclass(frozen=True)
class Options:
    """What is compared.

    `metrics` are `final`, `best`, `area` or names in metrics.jsonl. `thresholds` and `bounds` are
    for an environment (`*`: for every other one). A threshold is the return that solves it; by
    default its own, if Gymnasium knows one. Returns are scaled from bounds [low, high] to [0, 1].
    `baseline` is the name of a group: each other one is compared with it, in place of the best.
    """

    metrics: tuple[str, ...] = RETURNS
    thresholds: Mapping[str, float] = field(default_factory=dict)
    group_by: tuple[str, ...] | None = None
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    baseline: str | None = None

    def bounds_of(self, environment: str) -> tuple[float, float] | None:
        """The bounds of an environment's returns; None if it has none."""
        return self.bounds.get(environment) or self.bounds.get("*")


@dataclass(frozen=True)
class GroupStatistics:
    """The numbers of one group; an array over runs has the order of `group.runs`."""

    group: Group
    color: str  # whatever the order of the scores, and as in SwanLab's dashboard
    curves: list[Curve]
    scores: dict[str, list[Floats]]  # by metric, an array [seeds] for each environment
    estimates: dict[str, dict[str, Estimate]]  # by metric and aggregate
    steps_to_threshold: Floats  # [runs], infinite if not reached, NaN without a threshold
    steps_to_hold: Floats  # [runs], the same until no evaluation is below the threshold any more
    wall_time_seconds: float
    env_steps_per_second: float

    def num_scores(self, metric: str | None = None) -> int:
        """How many runs have a score in `metric` (default: the first metric)."""
        return sum(len(task) for task in with_scores(self._scores(metric)))

    def interval_kind(self, metric: str | None = None) -> Kind:
        """Which interval the estimates of `metric` (default: the first metric) have."""
        return interval_kind(self._scores(metric))

    def __repr__(self) -> str:
        return f"GroupStatistics({self.group!r}, {', '.join(self.scores)})"

    def _scores(self, metric: str | None) -> list[Floats]:
        return self.scores[metric or next(iter(self.scores))]


@dataclass(frozen=True)
class Ranking:
    """The groups of one environment, the best first.

    Or the groups of several environments, ranked by their normalized scores.
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
        """Whether this ranking is of several environments."""
        return len(self.environments) > 1

    def score_name(self, metric: str) -> str:
        """The name of the scores of `metric`."""
        name = f"{metric} return" if metric in RETURNS else metric
        if metric == "area":
            name = "mean return over the curve"
        return f"normalized {name}" if self._is_normalized(metric) else name

    def score_format(self, metric: str) -> str:
        """The number format for scores of `metric`."""
        if not _is_return(metric):
            return ",.3g"
        return ",.3f" if self._is_normalized(metric) else ",.1f"

    def __repr__(self) -> str:
        from dqn_runner.analysis.table import in_brief

        return in_brief([self])

    def _is_normalized(self, metric: str) -> bool:
        return _is_return(metric) and self.options.bounds_of(self.environments[0]) is not None


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison; tables, figures and files are made from this alone.

    `rankings` has one for each environment. If the scores of several environments are normalized,
    the last one is of all of these.
    """

    options: Options
    rankings: list[Ranking]
    remarks: list[str]

    def __repr__(self) -> str:
        from dqn_runner.analysis.table import in_brief

        return in_brief(self.rankings, self.remarks)

    def _repr_html_(self) -> str:
        from dqn_runner.analysis.table import as_text

        return f"<pre>{escape(as_text(self, 'table'))}</pre>"

    @property
    def groups(self) -> list[GroupStatistics]:
        """The groups of each environment."""
        return [group for r in self.rankings if not r.is_across for group in r.groups]

    @property
    def improvements(self) -> list[Improvement]:
        """The pairs of groups that are compared in each environment."""
        return [pair for r in self.rankings if not r.is_across for pair in r.improvements]


def compare(runs: Sequence[Run], options: Options | None = None) -> Comparison:
    """Compare `runs`, as `load_runs` returns them, separately for each environment.

    Raises KeyError if `options.group_by` names a setting that no run has.
    """
    options = options or Options()
    readable = [run for run in runs if run.config]
    for key in options.group_by or ():
        if not any(key in run.config for run in readable):
            raise KeyError(key)
    curves = {run.path: curve(run) for run in readable}
    colors = {path: color for path, (color, _) in run_colors(readable).items()}
    keys, rankings = {}, []
    for name in sorted({environment(run) for run in readable}):
        members = [run for run in readable if environment(run) == name]
        keys[name] = _keys(members, options)
        groups = [
            _statistics(group, options, curves, colors) for group in group_runs(members, keys[name])
        ]
        rankings.append(_ranking((name,), options, groups))
    across = _across(readable, options, keys, curves, colors)
    rankings += [across] if across.groups else []
    return Comparison(options, rankings, remarks(runs, rankings, options))


def _keys(runs: Sequence[Run], options: Options) -> list[str]:
    """The settings by which `runs`, all of one environment, are grouped."""
    if options.group_by is None:
        return differing_keys(runs)
    return [key for key in options.group_by if any(key in run.config for run in runs)]


def _across(
    runs: Sequence[Run],
    options: Options,
    keys: Mapping[str, Sequence[str]],
    curves: Mapping[Path, Curve],
    colors: Mapping[Path, str],
) -> Ranking:
    """The ranking of all normalized environments; without groups if there are fewer than two.

    A group must have scores in each of them. `keys` are the settings that make groups within each
    environment; a setting that differs only between environments makes none.
    """
    names = tuple(name for name in keys if options.bounds_of(name))
    options = replace(options, metrics=tuple(filter(_is_return, options.metrics)))
    if len(names) < 2 or not options.metrics:
        return Ranking(names, options, [], [])
    members = [run for run in runs if environment(run) in names]
    chosen = list(dict.fromkeys(key for name in names for key in keys[name]))
    groups = [_statistics(group, options, curves, colors) for group in group_runs(members, chosen)]
    in_all = [g for g in groups if len(with_scores(g.scores[options.metrics[0]])) == len(names)]
    return _ranking(names, options, in_all)


def _ranking(
    environments: tuple[str, ...], options: Options, groups: Sequence[GroupStatistics]
) -> Ranking:
    metric = options.metrics[0]
    known = [group for group in groups if group.num_scores()]
    known.sort(key=lambda group: -group.estimates[metric]["IQM"].value)
    unknown = [group for group in groups if not group.num_scores()]
    improvements = [
        (a.group.name, b.group.name, probability_of_improvement(a.scores[metric], b.scores[metric]))
        for a, b in _pairs(known, options.baseline)
    ]
    return Ranking(environments, options, known + unknown, improvements)


def _pairs(
    groups: Sequence[GroupStatistics], baseline: str | None
) -> list[tuple[GroupStatistics, GroupStatistics]]:
    """Which of `groups`, the best first, are compared: of each pair the better one comes first.

    With a `baseline`, each other group is compared with it, and it comes second.
    """
    if baseline is not None:
        bases = [group for group in groups if group.group.name == baseline]
        return [(group, base) for base in bases for group in groups if group is not base]
    pairs = itertools.combinations(groups, 2)
    few = len(groups) <= MOST_GROUPS_PAIRWISE
    return [(better, other) for better, other in pairs if few or better is groups[0]]


def _statistics(
    group: Group, options: Options, curves: Mapping[Path, Curve], colors: Mapping[Path, str]
) -> GroupStatistics:
    own = [curves[run.path] for run in group.runs]
    scores = {metric: _scores(group.runs, metric, options, own) for metric in options.metrics}
    evaluations = [
        (points.env_steps, points.values, threshold_of(run, options))
        for run, points in zip(group.runs, own, strict=True)
    ]
    times = [_time(run, run.last_row()) for run in group.runs]
    return GroupStatistics(
        group=group,
        color=colors[group.runs[0].path],
        curves=own,
        scores=scores,
        estimates={metric: aggregate(tasks) for metric, tasks in scores.items()},
        steps_to_threshold=np.array([steps_to(*each) for each in evaluations]),
        steps_to_hold=np.array([steps_to_hold(*each) for each in evaluations]),
        wall_time_seconds=_mean([seconds for seconds, _ in times]),
        env_steps_per_second=_mean([speed for _, speed in times]),
    )


def _scores(
    runs: Sequence[Run], metric: str, options: Options, curves: Sequence[Curve]
) -> list[Floats]:
    """An array [seeds] for each environment of `runs`."""
    scores: dict[str, list[float]] = {}
    for run, points in zip(runs, curves, strict=True):
        low, high = (_is_return(metric) and options.bounds_of(environment(run))) or (0.0, 1.0)
        value = (score(run, metric, points) - low) / (high - low)
        scores.setdefault(environment(run), []).append(value)
    return [np.array(values) for _, values in sorted(scores.items())]


def _time(run: Run, row: Row) -> tuple[float, float]:
    """Wall time in seconds and env steps per second of a run with this last row; NaN if unknown."""
    elapsed = row.get("time/elapsed_seconds", math.nan)
    seconds = run.result["wall_time_seconds"] if run.result else elapsed
    speed = row["env_steps"] / elapsed if is_number(elapsed) and elapsed else math.nan
    return seconds, speed


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if is_number(value)]
    return fmean(known) if known else math.nan


def threshold_of(run: Run, options: Options) -> float:
    """The return that solves the run's environment; NaN if none is known."""
    import gymnasium

    name = environment(run)
    spec = gymnasium.registry.get(name)
    own = None if spec is None else spec.reward_threshold
    given = options.thresholds.get("*", math.nan if own is None else own)
    return options.thresholds.get(name, given)


def _is_return(metric: str) -> bool:
    return metric in SCORES or "return" in metric
