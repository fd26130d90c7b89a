"""The runs below a directory as the dashboard keeps them in memory."""

from __future__ import annotations

import contextlib
import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from dqn_runner.analysis.runs import Run, load_run
from dqn_runner.board.points import Point, Points
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.runs.metrics_file import MetricsReader, is_number
from dqn_runner.types import Row

ROWS_AT_A_TIME = 5_000

Signature = tuple[int, int, bool]


class RunCopy:
    """One run and its points in memory, which `update` brings up to date."""

    def __init__(self, run: Run) -> None:
        self.run, self.points, self.elapsed = run, dict[str, Points](), 0.0
        self.started = started(run)
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
        has_gone = run.status == "unreadable" and bool(self.run.config)
        self.run = replace(self.run, status="stopped") if has_gone else run
        self.started = self.started if has_gone else started(run)
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
            elapsed = row.get("time/elapsed_seconds")
            self.elapsed = elapsed if is_number(elapsed) else self.elapsed
            for name, value in row.items():
                if "/" in name and is_number(value):
                    new[name].append((row["env_steps"], value, self.elapsed))
        points = {name: self.points.get(name) or Points() for name in new}
        for name, added in new.items():
            points[name].append(added)
        self.points = self.points | points


def started(run: Run) -> float:
    """When the run began, in seconds since 1970.

    An older run has no started.jsonl. SwanLab's record of it has the time in its name; without one,
    it is the time when config.yaml was written.
    """
    run_dir = RunDirectory(run.path)
    if starts := run_dir.read_starts():
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
