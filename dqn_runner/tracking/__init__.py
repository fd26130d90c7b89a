"""Where metrics go: our own record, SwanLab, the terminal."""

from dqn_runner.tracking.metrics_file import MetricsFile, MetricsReader, cut, read_metrics
from dqn_runner.tracking.progress_bar import ProgressDisplay
from dqn_runner.tracking.swanlab_tracker import (
    EndState,
    SwanLabSpec,
    SwanLabTracker,
    group_color,
)

__all__ = [
    "EndState",
    "MetricsFile",
    "MetricsReader",
    "ProgressDisplay",
    "SwanLabSpec",
    "SwanLabTracker",
    "cut",
    "group_color",
    "read_metrics",
]
