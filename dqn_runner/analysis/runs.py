"""Reads run directories in any state: finished, running, stopped or incomplete."""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dqn_runner.errors import ConfigError, in_a_line
from dqn_runner.runs.directory import RunDirectory, read_yaml
from dqn_runner.runs.metrics_file import COMPRESSED, LARGEST_NUMBER, MetricsReader, read_metrics
from dqn_runner.types import Row, flatten

Status = Literal["finished", "running", "stopped", "unreadable"]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

TAILS = (2**12, 2**16)  # bytes; a row takes a few hundred
MOST_NAMED = 3  # runs in an error line
DEEPEST = 4  # levels; a run of a sweep is at the third level below outputs/


@dataclass(frozen=True)
class Run:
    """One run, as read from its directory.

    `status` is `finished` if there is a result.json, `running` while a process has locked the
    directory, `stopped` if the run was interrupted or failed, and `unreadable` if it cannot be
    read; then `problem` says why. `config` has dotted keys. `damage` names the damaged lines of
    metrics.jsonl, as far as it was read.
    """

    path: Path
    status: Status
    config: dict[str, Any] = field(repr=False)
    result: dict[str, Any] | None = field(repr=False)
    problem: str = ""
    damage: set[str] = field(default_factory=set, compare=False, repr=False)

    def series(self, name: str) -> tuple[Integers, Floats]:
        """Env steps [T] and values [T] of the metric `name`, in the order they were logged."""
        (steps, values), problem = read_columns(RunDirectory(self.path).metrics, name)
        self.damage.update([problem] if problem else [])
        return steps.astype(np.int64), values

    def last_row(self) -> Row:
        """The last row that has a time; empty if there is none."""
        metrics = RunDirectory(self.path).metrics
        rows = (row for tail in TAILS for row in reversed(read_metrics(metrics, tail)))
        return next((row for row in rows if "time/elapsed_seconds" in row), {})


def read_columns(metrics: Path, *names: str) -> tuple[Floats, str]:
    """The env steps and the values of `names`, [1 + names, T], from the rows that have all of them.

    Also returns a text that names the damaged lines, which are left out; empty if there are none.
    """
    numbers, reader = array("d"), MetricsReader(metrics, names[0])
    pick = itemgetter("env_steps", *names)
    for row in reader.new_rows():
        try:  # contextlib.suppress would be slow for a million rows
            numbers.fromlist(list(pick(row)))
        except (KeyError, OverflowError):
            continue
    columns = np.frombuffer(numbers).reshape(-1, 1 + len(names)).T
    is_number = (np.abs(columns) < LARGEST_NUMBER).all(axis=0)
    return (columns if is_number.all() else columns[:, is_number]), reader.problem


def load_runs(directories: Iterable[str | os.PathLike[str]]) -> list[Run]:
    """Every run in `directories` and below them, sorted by path.

    Nothing is written, and nothing in the directories is executed. Raises FileNotFoundError for a
    directory that does not exist.
    """
    return [load_run(path) for path in find_runs(directories)]


def find_runs(directories: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The run directories in `directories` and below them, sorted; reads none of their files.

    Raises FileNotFoundError for a directory that does not exist.
    """
    paths: dict[Path, Path] = {}  # by real path, so that no run is there twice
    for directory in directories:
        if not Path(directory).is_dir():
            raise FileNotFoundError(2, "no such directory", str(directory))
        paths |= {path.resolve(): path for path in _find(Path(directory))}
    return sorted(paths.values())


def _find(directory: Path, deepest: float = math.inf) -> Iterator[Path]:
    for folder, subfolders, files in os.walk(directory):
        hydra_began_it = ".hydra" in subfolders
        has_metrics = not {"metrics.jsonl", f"metrics.jsonl{COMPRESSED}"}.isdisjoint(files)
        if hydra_began_it or (has_metrics and "config.yaml" in files):
            yield Path(folder)
            subfolders.clear()
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        if len(Path(folder).relative_to(directory).parts) >= deepest:
            subfolders.clear()


def no_run(directory: Path) -> str:
    """The error text for a directory that should be a run and is not."""
    configs = [RunDirectory(path).config for path in _find(directory, deepest=DEEPEST)]
    began = {config.parent: config.stat().st_mtime for config in configs if config.is_file()}
    newest = sorted(began, key=began.__getitem__, reverse=True)[:MOST_NAMED]
    names = ", ".join(map(str, newest))
    below = f"; the newest of the {len(began)} runs below it: {names}" if began else ""
    return f"holds no run: it has no config.yaml{below}"


def load_run(path: Path) -> Run:
    """The run in the directory `path`, in its present state."""
    run_dir = RunDirectory(path)
    if not run_dir.config.is_file() and run_dir.is_locked():
        return Run(path, "running", {}, None, "it is being built")
    if not run_dir.config.is_file():
        return Run(path, "unreadable", {}, None, "it failed before it began: no config.yaml")
    try:
        config = read_yaml(run_dir.config)
        result = run_dir.read_result()
    except (OSError, ValueError, ConfigError) as error:
        return Run(path, "unreadable", {}, None, in_a_line(error))
    status: Status = "running" if run_dir.is_locked() else "stopped"
    return Run(path, "finished" if result else status, flatten(config), result)
