"""metrics.jsonl: the record of a run, one JSON object a line, appended as the run goes on."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

from dqn_runner.types import Row

EVALUATION = "eval/episode_return_mean"
LARGEST_NUMBER = 2**53


class MetricsFile:
    """Appends rows; each is with the system in full as soon as it is logged."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def log(self, row: Row) -> None:
        """Append `row` without those of its values that are not finite."""
        finite = {name: value for name, value in row.items() if math.isfinite(value)}
        self._file.write(json.dumps(finite) + "\n")

    def cut(self, env_steps: int) -> None:
        """Take back the rows after `env_steps`, and a torn last line."""
        kept = 0
        with open(self._file.name, "rb") as file:
            for line in file:
                rows = parse_rows([line.decode(errors="replace")])
                if not rows or rows[0]["env_steps"] > env_steps:
                    break
                kept += len(line)
        self._file.truncate(kept)

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path, mention: str = "", tail: int | None = None) -> list[Row]:
    """The rows of a metrics.jsonl, which may be growing, without lines that were torn."""
    return parse_rows(read_lines(path, mention, tail))


def read_lines(path: Path, mention: str = "", tail: int | None = None) -> list[str]:
    """The lines of a metrics.jsonl, or of its last `tail` bytes, that say `mention`.

    None where there is no file that can be read.
    """
    if not path.is_file():
        return []
    try:
        with path.open("rb") as file:
            start = 0 if tail is None else max(0, file.seek(0, os.SEEK_END) - tail)
            file.seek(start)
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    lines = text.splitlines(keepends=True)[bool(start) :]  # the first is cut off there
    return [line for line in lines if mention in line]


def parse_rows(lines: Sequence[str]) -> list[Row]:
    """The rows in `lines`, without those that were torn or hold no row."""
    whole = [line for line in lines if line.endswith("\n")]
    try:
        found = json.loads(f"[{','.join(whole)}]")  # twice as fast as one by one
    except (ValueError, RecursionError):
        found = [row for line in whole for row in parse_rows([line])] if len(whole) > 1 else []
    return [row for row in found if isinstance(row, dict) and is_number(row.get("env_steps"))]


def is_number(value: object) -> bool:
    """Whether a value read from a file can be calculated with."""
    return isinstance(value, int | float) and abs(value) < LARGEST_NUMBER
