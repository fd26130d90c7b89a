"""Sentences about what the numbers of a comparison do not show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dqn_runner.analysis.groups import (
    differing_aside,
    differing_keys,
    environment,
    same_work,
    value_text,
)
from dqn_runner.analysis.runs import Run
from dqn_runner.analysis.statistics import ENOUGH_SEEDS

if TYPE_CHECKING:
    from dqn_runner.analysis.comparison import Options, Ranking

MOST_VALUES = 5  # how many values of one thing a remark names


def remarks(runs: Sequence[Run], rankings: Sequence[Ranking], options: Options) -> list[str]:
    """All remarks on `runs` and their `rankings`."""
    readable = [run for run in runs if run.config]
    by_environment = [r for r in rankings if not r.is_across]
    return [
        *_of_settings(readable, options),
        *_of_baseline(rankings, options),
        *_of_areas(by_environment, options),
        *_of_unfinished(by_environment, options),
        *(f"{run.path}: {run.problem}; left out" for run in runs if not run.config),
        *(f"{line}; left out" for run in runs for line in sorted(run.damage)),
        *_of_seeds(by_environment),
        *_of_repeated(readable),
        *_of_environments(rankings, options),
    ]


def _of_settings(runs: Sequence[Run], options: Options) -> list[str]:
    """The settings that differ between the runs of an environment, but made no groups."""
    values: dict[str, set[str]] = {}
    for name in {environment(run) for run in runs}:
        members = [run for run in runs if environment(run) == name]
        chosen = differing_keys(members) if options.group_by is None else options.group_by
        for key in [*differing_keys(members), *differing_aside(members)]:
            if key not in chosen:
                found = {value_text(run, key) for run in members if key in run.config}
                values.setdefault(key, set()).update(found)
    if not values:
        return []
    listed = ", ".join(f"{key} ({_some(sorted(values[key]))})" for key in sorted(values))
    return [f"These differ too, and make no groups unless --group-by names them: {listed}."]


def _some(values: list[str]) -> str:
    shown = values[:MOST_VALUES]
    return ", ".join([*shown, "…"] if len(values) > MOST_VALUES else shown)


def _of_baseline(rankings: Sequence[Ranking], options: Options) -> list[str]:
    """Where nothing is compared with the baseline."""
    return [
        f"--baseline={options.baseline}: {ranking.name} has no group of this name with a score."
        for ranking in rankings
        if options.baseline is not None
        and not any(g.group.name == options.baseline and g.num_scores() for g in ranking.groups)
    ]


def _of_areas(rankings: Sequence[Ranking], options: Options) -> list[str]:
    """Where areas are of different stretches of the curves."""
    sentences = []
    for ranking in rankings if "area" in options.metrics else ():
        curves = [points for group in ranking.groups for points in group.curves]
        stretches = {tuple(points.env_steps[[0, -1]]) for points in curves if len(points.values)}
        if len(stretches) > 1:
            listed = _some([f"{first:,} to {last:,}" for first, last in sorted(stretches)])
            sentences.append(
                f"{ranking.name}: each area is of the env steps from a run's first evaluation to "
                f"its last, and these differ ({listed}): runs that are evaluated later or longer "
                "seem better."
            )
    return sentences


def _of_unfinished(rankings: Sequence[Ranking], options: Options) -> list[str]:
    groups = [group for ranking in rankings for group in ranking.groups]
    states = {"running": "still running", "stopped": "stopped before its end"}
    scored = "its last evaluation stands for its final score"
    if "final" not in options.metrics:
        scored = "it counts with what it has"
    return [
        f"{run.path}: {state}; {scored if len(points.values) else 'no score yet'}"
        for status, state in states.items()
        for group in groups
        for run, points in zip(group.group.runs, group.curves, strict=True)
        if run.status == status
    ]


def _of_seeds(rankings: Sequence[Ranking]) -> list[str]:
    counts = [group.num_scores() for ranking in rankings for group in ranking.groups]
    without = [
        group.group.name if len(rankings) == 1 else f"{group.group.name} in {ranking.name}"
        for ranking in rankings
        for group in ranking.groups
        if not group.num_scores()
    ]
    sentences = [f"Without scores, and not ranked: {', '.join(without)}."] if without else []
    fewest = min(filter(None, counts), default=ENOUGH_SEEDS)
    if fewest < ENOUGH_SEEDS:
        sentences.append(
            f"{_only(fewest, len(counts))}: too few to tell. DQN differs so much between seeds "
            "that ten or more are needed before a difference can be believed."
        )
    return sentences


def _only(fewest: int, num_groups: int) -> str:
    seeds = f"only {fewest} seed{'s' * (fewest != 1)}"
    if num_groups > 1:
        return f"A group has {seeds}"
    return f"There {'is' if fewest == 1 else 'are'} {seeds}"


def _of_repeated(runs: Sequence[Run]) -> list[str]:
    repeated = len(runs) - len({same_work(run) for run in runs})
    if not repeated:
        return []
    return [
        f"{repeated} of the runs repeat{'s' * (repeated == 1)} another with its settings and "
        "seed: they add no evidence, and intervals are too narrow."
    ]


def _of_environments(rankings: Sequence[Ranking], options: Options) -> list[str]:
    names = [name for r in rankings if not r.is_across for name in r.environments]
    scaled = [name for name in names if options.bounds_of(name)]
    if len(names) > 1 and not scaled:
        return ["Environments are compared together only when normalized (--normalize)."]
    sentences = []
    if scaled and len(scaled) < len(names):
        unscaled = (name for name in names if name not in scaled)
        sentences.append(f"Not normalized, for no bounds are given: {', '.join(unscaled)}.")
    if len(scaled) > 1 and not any(r.is_across for r in rankings):
        sentences.append(
            f"No group has scores in each of {', '.join(scaled)}, to compare them together."
        )
    return sentences
