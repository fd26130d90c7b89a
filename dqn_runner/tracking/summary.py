"""Logs the mean and the IQM of a group over its seeds, which SwanLab does not compute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from dqn_runner.analysis.comparison import GroupStatistics
from dqn_runner.analysis.groups import common_axis, environment
from dqn_runner.analysis.runs import Floats
from dqn_runner.analysis.statistics import Kind, band, iqm, kind_of
from dqn_runner.tracking.tracker import SwanLabSpec, SwanLabTracker

SUMMARIES: dict[str, Callable[..., Floats]] = {"mean": np.mean, "iqm": iqm}
BESIDE: dict[Kind, str] = {
    "95 %": ", with 95 % intervals",
    "min-max": ", with the lowest and the highest seed: too few for an interval",
    "none": "",
}


def log_summary(statistics: GroupStatistics, log_dir: Path) -> None:
    """Log the curves of a group as a SwanLab run of job type `summary`, kept under `log_dir`."""
    group = statistics.group
    curves = [points for points in statistics.curves if len(points.env_steps)]
    steps = common_axis(curves)
    values = np.stack([points.at(steps) for points in curves]) if curves else np.empty((0, 0))
    columns = {
        f"summary/episode_return_{name}{suffix}": numbers
        for name, statistic in SUMMARIES.items()
        for suffix, numbers in zip(("", "_low", "_high"), band(values, statistic), strict=True)
    }
    log_dir.mkdir(parents=True, exist_ok=True)
    settings = group.settings | {
        "env.id": environment(group.runs[0]),
        "interval": kind_of(len(curves)),
    }
    run = SwanLabTracker(spec_of(statistics), log_dir, settings)
    for i, env_steps in enumerate(steps.tolist()):
        row = {name: float(numbers[i]) for name, numbers in columns.items()}
        finite = {name: value for name, value in row.items() if np.isfinite(value)}
        run.log({"env_steps": env_steps, **finite})
    run.close("success")


def spec_of(statistics: GroupStatistics) -> SwanLabSpec:
    """The settings of a summary's SwanLab run: in the project of its runs, with their group."""
    group = statistics.group
    config = group.runs[0].config
    # Groups of different environments can have the same name.
    name = " ".join(dict.fromkeys([environment(group.runs[0]), group.name]))
    seeds = sum(len(points.env_steps) > 0 for points in statistics.curves)
    return SwanLabSpec(
        mode="offline",  # dqn-dashboard --upload sends it
        project=config["tracker.project"],
        workspace=config.get("tracker.workspace"),
        name=f"{name} ({seeds} seed{'s' * (seeds != 1)})"[:500],
        description=f"mean and interquartile mean over seeds{BESIDE[kind_of(seeds)]}",
        group=group.name[:500],
        job_type="summary",
        tags=[],
    )
