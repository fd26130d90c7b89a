"""SwanLab's side of a run: opened, told again what was logged before, and closed."""

from __future__ import annotations

import logging

from rich.console import Console

from dqn_runner.config.root import Config
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.runs.metrics_file import MetricsReader
from dqn_runner.runs.report import say
from dqn_runner.tracking.tracker import EndState, LateTracker, SwanLabTracker

logger = logging.getLogger(__name__)

SECONDS_PER_LOCAL_SCALAR = 0.0018  # measured with swanlab 0.10.3


def open_tracker(
    config: Config, run_dir: RunDirectory, *, late: bool
) -> SwanLabTracker | LateTracker | None:
    """SwanLab's side of the run, or one that is made when it is closed; None if it is disabled."""
    if config.tracker.mode == "disabled":
        return None
    if late:
        return LateTracker(lambda: _make_tracker(config, run_dir))
    return _make_tracker(config, run_dir)


def _make_tracker(config: Config, run_dir: RunDirectory) -> SwanLabTracker:
    """A run that goes on is logged again from the beginning, under the id it had."""
    if config.tracker.mode == "local":
        logger.warning(
            "tracker.mode=local: SwanLab takes about %.0f ms a scalar when the run ends; "
            "offline takes none",
            1000 * SECONDS_PER_LOCAL_SCALAR,
        )
    run_dir.swanlab.mkdir(exist_ok=True)
    tracker = SwanLabTracker(
        config.tracker, run_dir.swanlab, config.plain(), run_dir.forget_swanlab_run()
    )
    if tracker.run_id:
        run_dir.swanlab_id.write_text(tracker.run_id + "\n")
    for row in MetricsReader(run_dir.metrics).new_rows():
        tracker.log(row)
    return tracker


def close_tracker(tracker: SwanLabTracker | LateTracker, end: EndState, console: Console) -> None:
    """End SwanLab's side of the run, and say where it can be seen."""
    with console.status("closing SwanLab's side of the run"):
        tracker.close(end)
    if tracker.url:
        say(f"cloud  {tracker.url}", console)
