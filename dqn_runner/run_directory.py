"""A run's directory: what lies where in it, and its two small files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from filelock import FileLock, Timeout

from dqn_runner.errors import RunError


class End(NamedTuple):
    """How a run ended that has no result: a failure, or a search that saw no hope in it."""

    status: Literal["failed", "pruned"]
    reason: str


class RunDirectory:
    """The paths of one run. `result.json` is there if and only if the run finished."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.curve = path / "curve.png"
        self.videos = path / "videos"
        self.swanlab = path / "swanlab"
        self.result = path / "result.json"
        self.ended = path / "ended.json"
        # A search asks a run to end by putting this file there, wherever the run is at work.
        self.prune_request = path / ".prune"
        # The system lets go of it with the process, however that ends.
        self._lock = FileLock(path / ".lock")

    def start(self, config: dict[str, Any]) -> None:
        """Claim the directory by writing its config.yaml; raises RunError where a run has it."""
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=1.0)
        except Timeout as error:
            raise RunError(f"{self.path}: another process is at work in it") from error
        try:
            with self.config.open("x", encoding="utf-8") as file:
                yaml.safe_dump(config, file, sort_keys=False, allow_unicode=True)
        except FileExistsError as error:
            raise RunError(f"{self.path}: holds a run already; choose another directory") from error

    def release(self) -> None:
        """Let others have the directory."""
        self._lock.release()

    def is_locked(self) -> bool:
        """Whether a process is at work in the directory."""
        if not Path(self._lock.lock_file).exists():
            return False
        try:
            with self._lock.acquire(blocking=False):
                return False
        except Timeout:
            return True
        except OSError:  # not ours to lock, as on a read-only copy
            return False

    def finish(self, result: dict[str, Any]) -> None:
        """Write result.json, whole or not at all."""
        _write(self.result, result)
        self.ended.unlink(missing_ok=True)

    def end(self, end: End) -> None:
        """Write ended.json, for those who look after the runs of a sweep."""
        _write(self.ended, end._asdict())

    def read_end(self) -> End | None:
        """What ended.json holds; None where the run did not end that way."""
        if not self.ended.is_file():
            return None
        return End(**json.loads(self.ended.read_text(encoding="utf-8")))

    def clear(self) -> None:
        """Delete what an unfinished run left, its log aside; raises RunError while it goes on."""
        if self.is_locked():
            raise RunError(f"{self.path}: another process is at work in it")
        for folder in (self.checkpoints, self.videos, self.swanlab):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (self.metrics, self.curve, self.ended, self.config):
            file.unlink(missing_ok=True)

    def read_result(self) -> dict[str, Any] | None:
        """What result.json holds; None where the run has not finished."""
        if not self.result.is_file():
            return None
        result: dict[str, Any] = json.loads(self.result.read_text(encoding="utf-8"))
        return result


def _write(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)
