"""What the page shows as one line and one row: a run, or the statistics of a group."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from dqn_runner.analysis.groups import (
    RETURNS,
    SUMMARY,
    Curve,
    Group,
    common_axis,
    environment,
    group_all,
    run_colors,
    score,
    summary_name,
    value_text,
)
from dqn_runner.analysis.runs import Run, Status
from dqn_runner.analysis.statistics import aggregate, iqm, kind_of, summaries
from dqn_runner.board.copies import RunCopy
from dqn_runner.board.points import Points
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.runs.metrics_file import EVALUATION

POINTS_OF_A_SUMMARY = 100  # its intervals take half a millisecond each

# The table's columns, between them the settings that differ and after them those that do not.
SCORES = ("final_return", "best_return")
DETAILS = (
    "seeds",
    "final_return_low",
    "final_return_high",
    "interval",
    "final_return_std",
    "final_episodes",
    "best_return_std",
    "best_episodes",
    "env_steps",
    "wall_time_seconds",
    "env_steps_per_second",
)


@dataclass(frozen=True)
class Entry:
    """A run or the summary of a group.

    `started` is in seconds since 1970, and `place` is its path below the directory. `run_dir` is
    None for a summary.
    """

    id: int
    name: str
    environment: str
    color: str
    status: Status
    started: float
    seconds: float
    columns: dict[str, Any]
    points: Mapping[str, Points]
    place: str
    run_dir: RunDirectory | None = None

    def rank(self) -> tuple[str, float]:
        """By this, entries are sorted: each environment for itself, the best return first."""
        final = self.columns["final_return"]
        return self.environment, math.inf if final is None else -final


class Layout(NamedTuple):
    """How runs are grouped, named and colored, which depends on all of them together.

    `front` are the settings that differ between them, `rest` all others.
    """

    groups: list[Group]
    names: dict[Path, str]
    colors: dict[str, str]
    shades: dict[Path, str]
    front: list[str]
    rest: list[str]
    directory: Path

    def row(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The columns of the table in their order, None where `values` has nothing."""
        return {key: values.get(key) for key in (*SCORES, *self.front, *DETAILS, *self.rest)}


def layout(runs: Sequence[Run], directory: Path) -> Layout:
    """The layout of `runs`, which are below `directory`."""
    groups = group_all(runs)
    colors = run_colors(runs)
    return Layout(
        groups,
        run_names(groups, directory),
        {group.name: colors[group.runs[0].path][0] for group in groups},
        {path: own for path, (_, own) in colors.items()},
        *columns_of_settings(groups),
        directory,
    )


def entries_of_runs(
    plan: Layout, copies: Mapping[Path, RunCopy], number_of: Callable[[str], int]
) -> list[Entry]:
    """An entry for each run, the newest first."""
    entries = [
        entry_of_run(copies[run.path], number_of(str(run.path)), plan)
        for group in plan.groups
        for run in group.runs
    ]
    return sorted(entries, key=lambda entry: -entry.started)


def entry_of_run(copy: RunCopy, number: int, plan: Layout) -> Entry:
    """The entry of one run."""
    return Entry(
        id=number,
        name=plan.names[copy.run.path],
        environment=environment(copy.run),
        color=plan.shades[copy.run.path],
        status=copy.run.status,
        started=copy.started,
        seconds=copy.seconds,
        columns=plan.row(run_values(copy)),
        points=copy.points,
        place=copy.run.path.relative_to(plan.directory).as_posix(),
        run_dir=RunDirectory(copy.run.path),
    )


def run_names(groups: Sequence[Group], directory: Path) -> dict[Path, str]:
    """What distinguishes each run from the others: `agent.lr=0.001 seed=2`."""
    has_seeds = any(len(group.runs) > 1 for group in groups) or len(groups) == 1
    names = {
        run.path: " ".join(
            [group.name] * (len(groups) > 1) + [f"seed={value_text(run, 'seed')}"] * has_seeds
        )
        for group in groups
        for run in group.runs
    }
    taken = Counter(names.values())
    return {
        path: name if taken[name] == 1 else f"{name} in {path.relative_to(directory)}"
        for path, name in names.items()
    }


def columns_of_settings(groups: Sequence[Group]) -> tuple[list[str], list[str]]:
    """The settings that differ between the runs, those that make groups first, and all others."""
    runs = [run for group in groups for run in group.runs]
    values: dict[str, set[str]] = {}
    for run in runs:
        for key in run.config:
            values.setdefault(key, set()).add(value_text(run, key))
    differ = [key for key, found in values.items() if len(found) > 1]
    differ = [key for key in differ if not key.startswith("tracker.")]
    of_groups = [key for group in groups for key in group.settings]
    several = [key for key in ("env.id",) if key in differ]
    first = list(dict.fromkeys([*several, *of_groups, *(["seed"] if "seed" in differ else [])]))
    front = [*first, *(key for key in differ if key not in first)]
    return front, [key for key in values if key not in front]


def run_values(copy: RunCopy) -> dict[str, Any]:
    """The table's values of a run, by column."""
    run = copy.run
    values = {key: _shown(value) for key, value in run.config.items()}
    for metric in RETURNS:
        values[f"{metric}_return"] = _rounded(score(run, metric, evaluations(copy)))
        if run.result:
            values[f"{metric}_return_std"] = _rounded(run.result[metric]["std"])
            values[f"{metric}_episodes"] = run.result[metric].get("episodes")
    last = [points.last[0] for points in copy.points.values() if points.last]
    env_steps = run.result["env_steps"] if run.result else max(last, default=0)
    values["env_steps"] = int(env_steps)
    values["wall_time_seconds"] = _rounded(copy.seconds)
    speed = copy.points.get("time/env_steps_per_second")
    values["env_steps_per_second"] = _rounded(speed.last[1]) if speed and speed.last else None
    return values


def evaluations(copy: RunCopy) -> Curve:
    """The evaluation returns of a run over env steps."""
    return copy.points.get(EVALUATION, Points()).curve()


def entry_of_group(group: Group, members: Sequence[RunCopy], number: int, plan: Layout) -> Entry:
    """The statistics of a group over its seeds: those that have ended, or all if none has."""
    # Seeds that have just begun would cut the line of those that are done.
    drawn = [member for member in members if member.run.status != "running"] or members
    statuses = [member.run.status for member in members]
    return Entry(
        id=number,
        name=summary_name(group.name, len(drawn)),
        environment=environment(group.runs[0]),
        color=plan.colors[group.name],
        status=next((s for s in ("running", "stopped") if s in statuses), "finished"),
        started=min(member.started for member in members),
        seconds=fmean(member.seconds for member in members),
        columns=plan.row(group_values(group, drawn)),
        points=group_points(drawn),
        place=os.path.commonpath(
            [run.path.relative_to(plan.directory).parent for run in group.runs]
        ),
    )


def group_values(group: Group, members: Sequence[RunCopy]) -> dict[str, Any]:
    """The table's values of a group, by column: IQMs, and the settings that its runs share."""
    values: dict[str, Any] = {"env.id": environment(group.runs[0])}
    for key in group.runs[0].config:
        if len({value_text(run, key) for run in group.runs}) == 1:
            values[key] = _shown(group.runs[0].config[key])
    for metric in RETURNS:
        scores = np.array([score(m.run, metric, evaluations(m)) for m in members])
        estimate = aggregate([scores])["IQM"]
        values[f"{metric}_return"] = _rounded(estimate.value)
        if metric == "final":
            values["final_return_low"] = _rounded(estimate.low)
            values["final_return_high"] = _rounded(estimate.high)
            values["interval"] = kind_of(int(np.isfinite(scores).sum()))
    rows = [run_values(member) for member in members]
    for key in ("env_steps", "wall_time_seconds", "env_steps_per_second"):
        known = [row[key] for row in rows if row[key] is not None]
        values[key] = _rounded(fmean(known)) if known else None
    return values | {"seeds": len(members), "seed": None}


def group_points(members: Sequence[RunCopy]) -> dict[str, Points]:
    """Each metric's IQM over the runs of a group, and both statistics of the evaluations.

    The ends of the intervals have names of their own; so the page draws them in their own charts.
    """
    seconds = fmean(member.seconds for member in members)
    names = dict.fromkeys(name for member in members for name in member.points)
    found: dict[str, Points] = {}
    for name in names:
        curves = [member.points[name].curve() for member in members if name in member.points]
        steps = common_axis(curves, POINTS_OF_A_SUMMARY)
        values = np.stack([curve.at(steps) for curve in curves])
        if name == EVALUATION:
            for title, line in summaries(values).items():
                found[f"{SUMMARY}_{title}"] = Points.of(Curve(steps, line), seconds)
            found[name] = found[f"{SUMMARY}_iqm"]
        else:
            whole = np.isfinite(values).all(axis=0)
            found[name] = Points.of(Curve(steps[whole], iqm(values[:, whole], 0)), seconds)
    return {name: points for name, points in found.items() if points.last}


def _shown(value: Any) -> Any:
    """A setting as the table shows it; numbers stay numbers, so that they are sorted as such."""
    is_shown_as_it_is = type(value) in {str, int} or (
        isinstance(value, float) and math.isfinite(value)
    )
    return value if is_shown_as_it_is else json.dumps(value, default=str)


def _rounded(value: float) -> float | None:
    return float(f"{value:.5g}") if np.isfinite(value) else None
