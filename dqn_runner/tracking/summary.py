"""Logs the mean and the IQM of a group over its seeds, which SwanLab does not compute."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dqn_runner.analysis.comparison import Comparison, GroupStatistics
from dqn_runner.analysis.figures import folder_of
from dqn_runner.analysis.groups import (
    SCORES,
    SUMMARY,
    common_axis,
    environment,
    run_colors,
    summary_name,
)
from dqn_runner.analysis.statistics import Kind, kind_of, summaries
from dqn_runner.tracking.tracker import SwanLabSpec, SwanLabTracker
from dqn_runner.types import Row

AGGREGATE_OF = {"mean": "mean", "iqm": "IQM"}  # the names in GroupStatistics.estimates
SUFFIXES = ("", "_low", "_high")
BESIDE: dict[Kind, str] = {
    "95 %": ", with 95 % intervals",
    "min-max": ", with the lowest and the highest seed: too few for an interval",
    "none": "",
}


def log_summaries(comparison: Comparison, log_dir: Path, pictures: Mapping[str, Path]) -> None:
    """Log each group as a SwanLab run of job type `summary`, kept under `log_dir`.

    `pictures` are dqn-compare's figures by name; the best group of each environment gets them.
    """
    rankings = [ranking for ranking in comparison.rankings if not ranking.is_across]
    colors = run_colors([run for group in comparison.groups for run in group.group.runs])
    for ranking in rankings:
        own = {
            name.rpartition("/")[2]: picture
            for name, picture in pictures.items()
            if name.rpartition("/")[0] in ("", folder_of(ranking))
        }
        for i, statistics in enumerate(ranking.groups):
            spec = spec_of(statistics, has_several_environments=len(rankings) > 1)
            color, _ = colors[statistics.group.runs[0].path]
            log_summary(statistics, spec, log_dir, color, own if i == 0 else {})


def log_summary(
    statistics: GroupStatistics,
    spec: SwanLabSpec,
    log_dir: Path,
    color: str,
    pictures: Mapping[str, Path],
) -> None:
    """Log the curves and the scores of a group, and `pictures` by name."""
    group = statistics.group
    curves = [points for points in statistics.curves if len(points.env_steps)]
    steps = common_axis(curves)
    values = np.stack([points.at(steps) for points in curves]) if curves else np.empty((0, 0))
    columns = {f"{SUMMARY}_{name}": numbers for name, numbers in summaries(values).items()}
    log_dir.mkdir(parents=True, exist_ok=True)
    settings = group.settings | {
        "env.id": environment(group.runs[0]),
        "interval": kind_of(len(curves)),
    }
    run = SwanLabTracker(spec, log_dir, settings, color=color)
    for i, env_steps in enumerate(steps.tolist()):
        row = {name: float(numbers[i]) for name, numbers in columns.items()}
        run.log(_finite({"env_steps": env_steps, **row}))
    end = int(steps[-1]) if len(steps) else 0
    run.log(_finite({"env_steps": end, **scores(statistics)}))
    for name, picture in pictures.items():
        run.log_media(f"figures/{name}", picture, end)
    run.close("success")


def scores(statistics: GroupStatistics) -> Row:
    """What the group scored of final, best and area, with intervals, and the number of seeds.

    SwanLab's table can be sorted by them.
    """
    returns = {
        f"summary/{metric}_return_{name}{suffix}": number
        for metric in statistics.estimates
        if metric in SCORES
        for name in AGGREGATE_OF
        for suffix, number in zip(
            SUFFIXES, statistics.estimates[metric][AGGREGATE_OF[name]], strict=True
        )
    }
    return {**returns, "summary/seeds": statistics.num_scores()}


def _finite(row: Row) -> Row:
    return {name: value for name, value in row.items() if np.isfinite(value)}


def spec_of(statistics: GroupStatistics, *, has_several_environments: bool = False) -> SwanLabSpec:
    """The settings of a summary's SwanLab run: in the project of its runs, with their group."""
    group = statistics.group
    config = group.runs[0].config
    name = group.name
    if has_several_environments:  # a group without settings has the environment's name
        name = " ".join(dict.fromkeys([environment(group.runs[0]), name]))
    seeds = sum(len(points.env_steps) > 0 for points in statistics.curves)
    of = summary_name("", seeds)
    return SwanLabSpec(
        mode="offline",  # dqn-dashboard --upload sends it
        project=config["tracker.project"],
        workspace=config.get("tracker.workspace"),
        name=name[: 500 - len(of)] + of,
        description=f"mean and interquartile mean over seeds{BESIDE[kind_of(seeds)]}",
        group=group.name[:500],
        job_type="summary",
        tags=[],
    )
