"""Reading run directories, whatever their state: finished, running, stopped or half-written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dqn_runner.errors import ConfigError
from dqn_runner.run_directory import RunDirectory, read_yaml
from dqn_runner.types import Row, flatten

Status = Literal["finished", "running", "stopped", "unreadable"]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

LARGEST_NUMBER = 2**53
LONGEST_ROW = 2**16  # bytes, of which a row takes some hundred


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
        rows = [row for row in parse_rows(self._lines(f'"{name}"')) if is_number(row.get(name))]
        steps = np.array([row["env_steps"] for row in rows], np.int64)
        return steps, np.array([row[name] for row in rows], np.float64)

    def last_row(self) -> Row:
        """The last row that was logged; empty where there is none."""
        lines = reversed(self._lines(tail=LONGEST_ROW))
        return next((row for line in lines for row in parse_rows([line])), {})

    def _lines(self, mention: str = "", tail: int | None = None) -> list[str]:
        """The complete lines of metrics.jsonl, or of its last `tail` bytes, that say `mention`."""
        try:
            with RunDirectory(self.path).metrics.open("rb") as file:
                if tail is not None:
                    file.seek(max(0, file.seek(0, os.SEEK_END) - tail))
                text = file.read().decode(errors="replace")
        except OSError:
            return []
        lines = text.splitlines(keepends=True)
        return [line for line in lines if mention in line and line.endswith("\n")]


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
    paths: set[Path] = set()
    for directory in directories:
        if not Path(directory).is_dir():
            raise FileNotFoundError(2, "no such directory", str(directory))
        paths |= set(_find(Path(directory)))
    return sorted(paths)


def _find(directory: Path) -> Iterator[Path]:
    for folder, subfolders, files in os.walk(directory):
        hydra_began_it = ".hydra" in subfolders
        if hydra_began_it or {"config.yaml", "metrics.jsonl"} <= set(files):
            yield Path(folder)
            subfolders.clear()
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]


def load_run(path: Path) -> Run:
    """The run in the directory `path`, as it is now."""
    run_dir = RunDirectory(path)
    if not run_dir.config.is_file():
        return Run(path, "unreadable", {}, None, "it failed before it began: no config.yaml")
    try:
        config = read_yaml(run_dir.config)
        result = run_dir.read_result()
    except (OSError, ValueError, ConfigError) as error:
        return Run(path, "unreadable", {}, None, " ".join(str(error).split()))
    status: Status = "running" if run_dir.is_locked() else "stopped"
    return Run(path, "finished" if result else status, flatten(config), result)


def parse_rows(lines: Sequence[str]) -> list[Row]:
    """The rows in `lines`, without those that were torn."""
    try:
        found = json.loads(f"[{','.join(lines)}]")  # twice as fast as one by one
    except (ValueError, RecursionError):
        found = [parse_rows([line]) for line in lines] if len(lines) > 1 else []
        found = [row for rows in found for row in rows]
    return [row for row in found if isinstance(row, dict) and is_number(row.get("env_steps"))]


def is_number(value: object) -> bool:
    """Whether a value read from a file can be calculated with."""
    return isinstance(value, int | float) and abs(value) < LARGEST_NUMBER
