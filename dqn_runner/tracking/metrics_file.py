"""metrics.jsonl: the record of a run, one JSON object a line, appended as the run goes on."""

from __future__ import annotations

import json
import math
from pathlib import Path

from dqn_runner.types import Row


class MetricsFile:
    """Appends rows; each is on disk in full as soon as it is logged, whatever happens next."""

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
                if not line.endswith(b"\n") or json.loads(line)["env_steps"] > env_steps:
                    break
                kept += len(line)
        self._file.truncate(kept)

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[Row]:
    """The rows of a metrics.jsonl, without a last line that is still being written."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
