"""A run's directory: what lies where in it, and its two small files."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from filelock import FileLock, Timeout
from pydantic import BaseModel, FiniteFloat, TypeAdapter

from dqn_runner.errors import ConfigError, Pruned, RunError, in_a_line

logger = logging.getLogger(__name__)

# Of a config.yaml or result.json, whose own have some thousand bytes and five levels. Reading YAML
# takes time with the square of its depth.
LARGEST_FILE = 2**18
DEEPEST_NESTING = 32

# Where SwanLab looks for its settings in the working directory.
SWANLAB_SETTINGS = (
    ".env", "swanlab.yaml", "swanlab.yml", ".swanlab/config.yaml", ".swanlab/config.yml"
)  # fmt: skip


class _Scores(BaseModel):
    mean: FiniteFloat
    std: FiniteFloat


class _Result(BaseModel):
    """What readers of a result.json count on."""

    env_steps: int
    wall_time_seconds: FiniteFloat
    final: _Scores
    best: _Scores


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
        self.swanlab_id = self.swanlab / "run_id"
        self.result = path / "result.json"
        self.ended = path / "ended.json"
        # A search asks a run to end by putting this file there, wherever the run is at work.
        self.prune_request = path / ".prune"
        # The system lets go of it with the process, however that ends.
        self._lock = FileLock(path / ".lock")

    def check_pruned(self) -> None:
        """Raise Pruned if a search has asked this run to end."""
        if self.prune_request.exists():
            raise Pruned(signal.SIGTERM, at_safe_point=False)

    def check_sound(self) -> None:
        """Raise RunError where what is here could do more than be read.

        A link, or what is no plain file, through which what is written or removed would be
        something else; or settings of SwanLab's (`check_settings`).
        """
        self.check_settings()
        for folder, subfolders, files in os.walk(self.path):
            for name in [*subfolders, *files]:
                path = Path(folder, name)
                if path.is_symlink() or not (path.is_file() or path.is_dir()):
                    raise RunError(f"{path}: a link or no plain file, which no run writes")

    def check_settings(self) -> None:
        """Raise RunError where SwanLab would take its server from a file of this run.

        It reads such files in the working directory, so the user's key would go to that server.
        """
        here = Path.cwd()
        if here.resolve().is_relative_to(self.path.resolve()):
            for name in SWANLAB_SETTINGS:
                if (here / name).exists():
                    raise RunError(
                        f"{here / name}: SwanLab would take its server and key from this file of a "
                        f"run; go to a directory outside of {self.path.resolve()}"
                    )

    def start(self, config: dict[str, Any]) -> None:
        """Write the run's config.yaml, with which it begins."""
        write_whole(self.config, _yaml(config))

    def claim_new(self) -> None:
        """Claim the directory for a new run; raises RunError where it holds one."""
        self.claim()
        if self.config.exists():
            self.close()
            raise RunError(f"{self.path}: holds a run already; choose another directory")

    def claim(self) -> None:
        """Keep others from working here until `close`; raises RunError where one does."""
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=1.0)
        except Timeout as error:
            raise RunError(f"{self.path}: another process is at work in it") from error

    def reopen(self, config: dict[str, Any]) -> None:
        """Take up a run again, whose config.yaml may have changed: it is unfinished now."""
        self.result.unlink(missing_ok=True)
        write_whole(self.config, _yaml(config))

    def close(self) -> None:
        """Let others have the directory."""
        self._lock.release()

    def forget_swanlab_run(self) -> str | None:
        """Remove SwanLab's record of the training, if there is one; returns the id it had."""
        if not self.swanlab_id.is_file():
            return None
        try:
            run_id = _read_text(self.swanlab_id).strip()
        except ValueError:
            run_id = ""
        if not re.fullmatch("[0-9a-z]{1,64}", run_id):
            logger.warning("%s holds no id: in SwanLab the run gets another one", self.swanlab_id)
            return None
        for record in self.swanlab.glob(f"run-*-{run_id}"):
            shutil.rmtree(record)
        return run_id

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
        write_whole(self.result, json.dumps(result, indent=2) + "\n")
        self.ended.unlink(missing_ok=True)

    def end(self, end: End) -> None:
        """Write ended.json, for those who look after the runs of a sweep."""
        write_whole(self.ended, json.dumps(end._asdict(), indent=2) + "\n")

    def has_finished(self) -> bool:
        """Whether the run has a result; one that cannot be read is made again."""
        try:
            return self.read_result() is not None
        except ValueError:
            return False

    def has_ended(self) -> bool:
        """Whether the run has finished, failed or been pruned; one that was stopped has not."""
        return self.has_finished() or self.ended.is_file()

    def read_end(self) -> End | None:
        """What ended.json holds; None where the run did not end that way.

        Of a file that does not tell, a failure: nobody takes a run for pruned that may not be.
        """
        if not self.ended.is_file():
            return None
        try:
            return TypeAdapter(End).validate_json(_read_text(self.ended))
        except ValueError:
            return End("failed", f"{self.ended.name} is damaged, and does not tell how it ended")

    def read_result(self) -> dict[str, Any] | None:
        """What result.json holds; None where the run has not finished.

        Raises ValueError for a file that holds no result.
        """
        if not self.result.is_file():
            return None
        try:
            result: dict[str, Any] = json.loads(_read_text(self.result))
            _Result.model_validate(result)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.result.name} holds no result") from error
        return result


def _yaml(config: dict[str, Any]) -> str:
    text: str = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    return text


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def read_yaml(path: Path) -> dict[str, Any]:
    """A small file of settings; raises ConfigError where it is missing, malformed or too large."""
    try:
        text = _read_text(path)
        _check_shape(text)
        settings = yaml.load(text, Loader=yaml.CSafeLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {in_a_line(error)}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: holds no settings")
    return settings


def _check_shape(text: str) -> None:
    """Raise ValueError for YAML that would take much time or memory to read."""
    depth = 0
    for event in yaml.parse(text, yaml.CSafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("has aliases, which no run writes")  # noqa: TRY004
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST_NESTING:
            raise ValueError("is nested too deeply")


def _read_text(path: Path) -> str:
    """The text of a small file; raises ValueError for a large one."""
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"larger than {LARGEST_FILE} bytes")
    return path.read_text(encoding="utf-8")
