"""What SwanLab does not draw by itself: a group's mean over seeds with its interval."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from dqn_runner.analysis.comparison import GroupStatistics
from dqn_runner.analysis.groups import common_axis
from dqn_runner.analysis.runs import Floats
from dqn_runner.analysis.statistics import band, iqm
from dqn_runner.tracking import SwanLabSpec, SwanLabTracker

SUMMARIES: dict[str, Callable[..., Floats]] = {"mean": np.mean, "iqm": iqm}


def log_summary(statistics: GroupStatistics, log_dir: Path) -> None:
    """Log the curves of a group as a SwanLab run of job type `summary`, kept under `log_dir`."""
    group = statistics.group
    config = group.runs[0].config
    curves = [points for points in statistics.curves if len(points.env_steps)]
    steps = common_axis(curves)
    values = np.stack([points.at(steps) for points in curves]) if curves else np.empty((0, 0))
    columns = {
        f"summary/episode_return_{name}{suffix}": numbers
        for name, statistic in SUMMARIES.items()
        for suffix, numbers in zip(("", "_low", "_high"), band(values, statistic), strict=True)
    }
    log_dir.mkdir(parents=True, exist_ok=True)
    settings = group.settings | {"env.id": config["env.id"]}
    run = SwanLabTracker(spec_of(statistics), log_dir, settings)
    for i, env_steps in enumerate(steps.tolist()):
        row = {name: float(numbers[i]) for name, numbers in columns.items()}
        finite = {name: value for name, value in row.items() if np.isfinite(value)}
        run.log({"env_steps": env_steps, **finite})
    run.close("success")


def spec_of(statistics: GroupStatistics) -> SwanLabSpec:
    """Where a summary goes: to the project of its runs, beside them."""
    config = statistics.group.runs[0].config
    mode = config.get("tracker.mode")
    return SwanLabSpec(
        mode="offline" if mode == "disabled" else mode,
        project=config["tracker.project"],
        workspace=config.get("tracker.workspace"),
        name=f"{statistics.group.name} ({statistics.num_scores()} seeds)"[:500],
        description="mean and interquartile mean over seeds, with 95 % bootstrap intervals",
        group=statistics.group.name[:500],
        job_type="summary",
        tags=[],
        host=config.get("tracker.host"),
    )
