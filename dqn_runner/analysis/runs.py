"""Reading run directories, whatever their state: finished, running, stopped or half-written."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dqn_runner.errors import ConfigError, in_a_line
from dqn_runner.run_directory import RunDirectory, read_yaml
from dqn_runner.tracking.metrics_file import is_number, parse_rows, read_lines, read_metrics
from dqn_runner.types import Row, flatten

Status = Literal["finished", "running", "stopped", "unreadable"]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

TAIL = 2**16  # bytes, of which a row takes some hundred
MOST_NAMED = 3  # in a line
DEEPEST = 4  # below outputs/ a run of a sweep lies at the third level


@dataclass(frozen=True)
class Run:
    """One run as its directory tells it.

    `status` is `finished` where there is a result.json, `running` while a process holds the
    directory, `stopped` for a run that was interrupted or failed, and `unreadable` where nothing
    can be learned from it; `problem` then says why. `config` has dotted keys.
    """

    path: Path
    status: Status
    config: dict[str, Any]
    result: dict[str, Any] | None
    problem: str = ""

    def series(self, name: str) -> tuple[Integers, Floats]:
        """Env steps [T] and values [T] of the metric `name`, in the order they were logged."""
        metrics = RunDirectory(self.path).metrics
        rows = [row for row in read_metrics(metrics, f'"{name}"') if is_number(row.get(name))]
        steps = np.array([row["env_steps"] for row in rows], np.int64)
        return steps, np.array([row[name] for row in rows], np.float64)

    def last_row(self) -> Row:
        """The last row with a time that was logged; empty where there is none."""
        metrics = RunDirectory(self.path).metrics
        lines = reversed(read_lines(metrics, '"time/elapsed_seconds"', TAIL))
        return next((row for line in lines for row in parse_rows([line])), {})


def load_runs(directories: Iterable[str | os.PathLike[str]]) -> list[Run]:
    """Every run found in `directories` and below them, in the order of their paths.

    Nothing is written and nothing in the directories is executed. Raises FileNotFoundError for a
    directory that is not there.
    """
    return [load_run(path) for path in find_runs(directories)]


def find_runs(directories: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The run directories in `directories` and below them, sorted; reads none of their files.

    Raises FileNotFoundError for a directory that is not there.
    """
    paths: dict[Path, Path] = {}  # no run twice, whatever it is called
    for directory in directories:
        if not Path(directory).is_dir():
            raise FileNotFoundError(2, "no such directory", str(directory))
        paths |= {path.resolve(): path for path in _find(Path(directory))}
    return sorted(paths.values())


def _find(directory: Path, deepest: float = math.inf) -> Iterator[Path]:
    for folder, subfolders, files in os.walk(directory):
        hydra_began_it = ".hydra" in subfolders
        if hydra_began_it or {"config.yaml", "metrics.jsonl"} <= set(files):
            yield Path(folder)
            subfolders.clear()
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        if len(Path(folder).relative_to(directory).parts) >= deepest:
            subfolders.clear()


def no_run(directory: Path) -> str:
    """What to say of a directory that is asked for as a run and is none."""
    configs = [RunDirectory(path).config for path in _find(directory, deepest=DEEPEST)]
    began = {config.parent: config.stat().st_mtime for config in configs if config.is_file()}
    newest = sorted(began, key=began.__getitem__, reverse=True)[:MOST_NAMED]
    names = ", ".join(map(str, newest))
    below = f"; the newest of the {len(began)} runs below it: {names}" if began else ""
    return f"holds no run: it has no config.yaml{below}"


def load_run(path: Path) -> Run:
    """The run in the directory `path`, as it is now."""
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
