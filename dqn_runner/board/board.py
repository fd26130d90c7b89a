"""Makes the files of SwanLab's dashboard from our run directories, and keeps them up to date.

swanboard reads an SQLite file, and for each run a config.yaml and the points of its metrics. Its
table finds a metric's points by the metric's position (`sort`) in the run, and its charts find them
by `folder`, so both must be the same number. It takes the last of a metric's files, sorted by
name, as the newest.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from dqn_runner.analysis.groups import group_color
from dqn_runner.analysis.runs import Run, find_runs, load_run
from dqn_runner.board.tables import BoardTables
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.runs.metrics_file import MetricsReader
from dqn_runner.types import Row

POINTS_IN_A_FILE = 1000
ROWS_AT_A_TIME = 5_000

Signature = tuple[int, int, bool]


class Board:
    """The dashboard's copy, in `store`, of every run below `directory`; the runs are only read.

    `left_out` says why a directory that looks like a run is not shown.
    """

    def __init__(self, directory: Path, store: Path) -> None:
        self._directory, self._store = directory, store
        self._tables = BoardTables(store, directory.resolve().name)
        self._copies: dict[Path, RunCopy] = {}
        self.left_out: dict[Path, str] = {}

    def __len__(self) -> int:
        return len(self._copies)

    @property
    def damage(self) -> list[str]:
        """The damaged lines of the runs that are shown, which are left out."""
        return [copy.damage for copy in self._copies.values() if copy.damage]

    def update(self) -> None:
        """Add the runs, points and results that are new since the last call."""
        for run in sorted(self._new_runs(), key=_started):
            self._copies[run.path] = RunCopy(run, self._name(run.path), self._store, self._tables)
        for copy in self._copies.values():
            copy.update()
        self._tables.write()

    def _name(self, path: Path) -> str:
        """`seed=0 in sweeps/mine`: the folder is last, because the page cuts off the end."""
        folder = path.relative_to(self._directory).parent.as_posix()
        return path.resolve().name + (f" in {folder}" if folder != "." else "")

    def _new_runs(self) -> Iterator[Run]:
        try:
            paths = find_runs([self._directory])
        except FileNotFoundError:  # removed; the copies stay
            return
        for path in paths:
            if path in self._copies:
                continue
            run = load_run(path)
            if run.status == "unreadable":
                self.left_out[path] = run.problem
            else:
                self.left_out.pop(path, None)
                yield run


class RunCopy:
    """The copy of one run in the store, which `update` brings up to date."""

    def __init__(self, run: Run, name: str, store: Path, tables: BoardTables) -> None:
        self._run, self._tables = run, tables
        self._signature: Signature | None = None
        self._started, self._elapsed = _started(run), 0.0
        self._metrics: dict[str, Metric] = {}
        self._reader = MetricsReader(RunDirectory(run.path).metrics)
        group, title = (run.config.get(f"tracker.{key}") for key in ("group", "name"))
        self._id = tables.add_run(name, title, group_color(group, title), self._time(0.0))
        self._folder = store / tables.folder(self._id)
        (self._folder / "files").mkdir(parents=True)
        (self._folder / "logs").mkdir()

    @property
    def damage(self) -> str:
        """The damaged lines of the run; empty if there are none."""
        return self._reader.problem

    def update(self) -> None:
        """Copy what changed in the run directory since the last call."""
        # Read the state before the rows: after it says finished, no rows are added.
        signature = _signature(self._run.path)
        self._copy_rows()
        if signature != self._signature:
            self._signature = signature
            self._copy_state()

    def _copy_state(self) -> None:
        run = load_run(self._run.path)
        if run.status == "unreadable":  # its directory is gone
            run = replace(self._run, status="stopped")
        self._run = run
        columns = {key: {"value": value} for key, value in _columns(run).items()}
        partial = self._folder / "config.partial"
        with partial.open("w", encoding="utf-8") as file:
            yaml.dump(columns, file, yaml.CSafeDumper, sort_keys=False, allow_unicode=True)
        partial.replace(self._folder / "files" / "config.yaml")
        elapsed = run.result["wall_time_seconds"] if run.result else self._elapsed
        finished = None if run.status == "running" else self._time(elapsed)
        self._tables.set_status(self._id, run.status, finished)

    def _copy_rows(self) -> None:
        if self._reader.is_rewritten():
            self._forget()
        rows = self._reader.new_rows()
        while some := list(itertools.islice(rows, ROWS_AT_A_TIME)):
            self._copy(some)

    def _copy(self, rows: list[Row]) -> None:
        points: dict[str, list[tuple[int, float, str]]] = defaultdict(list)
        for row in rows:
            self._elapsed = row.get("time/elapsed_seconds", self._elapsed)
            when = self._time(self._elapsed)
            for name, value in row.items():
                if "/" in name and -math.inf < value < math.inf:
                    points[name].append((int(row["env_steps"]), value, when))
        for name, new in points.items():
            if name in self._metrics:
                self._metrics[name].append(new)
                continue
            position = len(self._metrics)
            self._metrics[name] = Metric(self._folder / "logs" / str(position))
            self._metrics[name].append(
                new
            )  # before it is listed in the tables: swanboard expects points
            self._tables.add_metric(self._id, name, position)

    def _forget(self) -> None:
        """Start again, because a resumed run has removed the rows after its checkpoint."""
        self._reader, self._elapsed = MetricsReader(RunDirectory(self._run.path).metrics), 0.0
        for metric in self._metrics.values():
            metric.clear()

    def _time(self, elapsed: float) -> str:
        try:
            when = datetime.fromtimestamp(self._started + elapsed, UTC)
        except (
            ValueError,
            OverflowError,
            OSError,
        ):  # a damaged elapsed time gives an impossible year
            when = datetime.fromtimestamp(self._started, UTC)
        return when.isoformat()


class Metric:
    """The points of one metric of one run, as files in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._num = 0
        folder.mkdir()

    def append(self, points: list[tuple[int, float, str]]) -> None:
        """Add `points`: env steps, value, time."""
        lines = [
            f'{{"index": {step}, "data": {value!r}, "create_time": "{when}"}}\n'
            for step, value, when in points
        ]
        while lines:
            room = POINTS_IN_A_FILE - self._num % POINTS_IN_A_FILE
            # With leading zeros, because 10 sorts before 9.
            path = self._folder / f"{self._num // POINTS_IN_A_FILE:08}.log"
            with path.open("a", encoding="utf-8") as file:
                file.write("".join(lines[:room]))
            self._num += len(lines[:room])
            lines = lines[room:]

    def clear(self) -> None:
        """Remove all points. One empty file stays, because swanboard expects one."""
        first, *others = sorted(self._folder.glob("*.log"))
        first.write_bytes(b"")
        for path in others:
            path.unlink()
        self._num = 0


def _columns(run: Run) -> dict[str, str | None]:
    """The table's columns: the results, then the settings.

    They are text, because the page shows 0 and false as missing. None may be called `name`,
    `status`, `create` or `duration`, which the page uses itself.
    """
    shown: dict[str, str | None] = {}
    for key in ("final", "best"):
        score = run.result and run.result[key]
        shown[f"{key}_return"] = f"{score['mean']:.1f} ± {score['std']:.1f}" if score else None
    settings = {"seed": run.config.get("seed"), **run.config}
    return shown | {key: _text(value) for key, value in settings.items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _started(run: Run) -> float:
    return _modified(RunDirectory(run.path).config) / 1e9


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
