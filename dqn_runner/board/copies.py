"""The runs below a directory as the dashboard keeps them in memory."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from dqn_runner.analysis.runs import Run, load_run
from dqn_runner.board.points import Point, Points
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.runs.metrics_file import MetricsReader
from dqn_runner.types import Row

ROWS_AT_A_TIME = 5_000

Signature = tuple[int, int, bool]


class RunCopy:
    """One run and its points in memory, which `update` brings up to date."""

    def __init__(self, run: Run) -> None:
        self.run, self.points, self.elapsed = run, dict[str, Points](), 0.0
        starts = RunDirectory(run.path).read_starts()
        self.started = started(run, starts)
        self._signature: Signature | None = None
        self._reader = MetricsReader(RunDirectory(run.path).metrics)

    @property
    def damage(self) -> str:
        """The damaged lines of the run; empty if there are none."""
        return self._reader.problem

    @property
    def seconds(self) -> float:
        """How long the run took, or has taken until now."""
        return float(self.run.result["wall_time_seconds"]) if self.run.result else self.elapsed

    def update(self) -> bool:
        """Copy what changed in the run directory since the last call; returns whether it did."""
        # Read the state before the rows: after it says finished, no rows are added.
        signature = _signature(self.run.path)
        has_rows = self._copy_rows()
        if signature == self._signature:
            return has_rows
        self._signature = signature
        run = load_run(self.run.path)
        # Unreadable: its directory is gone.
        self.run = replace(self.run, status="stopped") if run.status == "unreadable" else run
        return True

    def _copy_rows(self) -> bool:
        offset = self._reader.offset
        if self._reader.is_rewritten():  # a resumed run has removed the rows after its checkpoint
            self._reader, self.points = MetricsReader(RunDirectory(self.run.path).metrics), {}
            offset = -1
        rows = self._reader.new_rows()
        while some := list(itertools.islice(rows, ROWS_AT_A_TIME)):
            self._copy(some)
        return self._reader.offset != offset

    def _copy(self, rows: Sequence[Row]) -> None:
        new: dict[str, list[Point]] = defaultdict(list)
        for row in rows:
            self.elapsed = row.get("time/elapsed_seconds", self.elapsed)
            for name, value in row.items():
                if "/" in name and -math.inf < value < math.inf:
                    new[name].append((row["env_steps"], value, self.elapsed))
        points = {name: self.points.get(name) or Points() for name in new}
        for name, added in new.items():
            points[name].append(added)
        self.points = self.points | points


def started(run: Run, starts: Sequence[Mapping[str, Any]]) -> float:
    """When the run began, in seconds since 1970.

    An older run has no started.jsonl. SwanLab's record of it has the time in its name; without one,
    it is the time when config.yaml was written.
    """
    run_dir = RunDirectory(run.path)
    if starts:
        return datetime.fromisoformat(starts[0]["time"]).timestamp()
    for name in sorted(path.name for path in run_dir.swanlab.glob("run-*-*")):
        with contextlib.suppress(ValueError):
            return datetime.strptime(name[4:19], "%Y%m%d_%H%M%S").astimezone().timestamp()
    return _modified(run_dir.config) / 1e9


def _signature(path: Path) -> Signature:
    """Changes when a run's state or settings change; cheap enough for every few seconds."""
    run_dir = RunDirectory(path)
    result = _modified(run_dir.result)
    return _modified(run_dir.config), result, not result and run_dir.is_locked()


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
