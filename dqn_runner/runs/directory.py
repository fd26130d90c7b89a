"""The directory of a run: which file is where, its lock, and its small files."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import signal
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from filelock import FileLock, Timeout
from pydantic import AfterValidator, BaseModel, Field, TypeAdapter

from dqn_runner.errors import ConfigError, Pruned, RunError, in_a_line

logger = logging.getLogger(__name__)

# Limits for config.yaml and result.json; those that a run writes have some thousand bytes and five
# levels. The time to read YAML grows with the square of its depth. Of started.jsonl, which has some
# hundred bytes for each start, the last LARGEST_FILE bytes are read.
LARGEST_FILE = 2**18  # bytes
DEEPEST_NESTING = 32

# The files in the working directory from which SwanLab reads its settings.
SWANLAB_SETTINGS = (
    ".env", "swanlab.yaml", "swanlab.yml", ".swanlab/config.yaml", ".swanlab/config.yml"
)  # fmt: skip


_Number = Annotated[float, Field(gt=-(2.0**53), lt=2.0**53)]
_Count = Annotated[int, Field(ge=0, lt=2**53)]


class _Scores(BaseModel, strict=True):
    mean: _Number
    std: _Number
    episodes: _Count | None = None


class _Result(BaseModel, strict=True):
    """What a result.json must hold."""

    env_steps: _Count
    wall_time_seconds: _Number
    final: _Scores
    best: _Scores


def _is_time(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("no time zone")
    return text


class Start(BaseModel):
    """A line of started.jsonl: when, how and where the run was started or resumed."""

    time: Annotated[str, AfterValidator(_is_time)]  # ISO 8601, UTC
    command: str
    path: str  # of the run directory
    working_directory: str
    host: str
    os: str
    python: str
    cpu: str
    cores: _Count
    memory_bytes: _Count
    gpu: str | None  # the one that it uses
    git_commit: str | None  # in the working directory


class End(NamedTuple):
    """How a run ended that has no result: it failed, or a search pruned it."""

    status: Literal["failed", "pruned"]
    reason: str


class RunDirectory:
    """The paths of one run. `result.json` exists if and only if the run has finished."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.started = path / "started.jsonl"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.curve = path / "curve.png"
        self.videos = path / "videos"
        self.swanlab = path / "swanlab"
        self.swanlab_id = self.swanlab / "run_id"
        self.result = path / "result.json"
        self.ended = path / "ended.json"
        # A search creates this file to ask the run to end, on whatever machine it runs.
        self.prune_request = path / ".prune"
        # The operating system releases the lock when the process ends, even if it is killed.
        self._lock = FileLock(path / ".lock")

    def check_pruned(self) -> None:
        """Raise Pruned if a search has asked this run to end."""
        if self.prune_request.exists():
            raise Pruned(signal.SIGTERM, at_safe_point=False)

    def check_sound(self) -> None:
        """Raise RunError if it is unsafe to work in this directory.

        It is if it holds links or special files, because writing or removing them could change
        files elsewhere, or if SwanLab would read its settings from it (`check_settings`).
        """
        self.check_settings()
        for folder, subfolders, files in os.walk(self.path):
            for name in [*subfolders, *files]:
                path = Path(folder, name)
                if path.is_symlink() or not (path.is_file() or path.is_dir()):
                    raise RunError(f"{path}: a link or no plain file, which no run writes")

    def check_settings(self) -> None:
        """Raise RunError if SwanLab would read the address of its server from a file of this run.

        SwanLab reads settings from the working directory, and sends the user's key to the server
        that they name.
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
        """Write config.yaml; from then on there is a run here."""
        write_whole(self.config, _yaml(config))

    def claim_new(self) -> None:
        """Claim the directory for a new run; raises RunError if it holds one already."""
        self.claim()
        if self.config.exists():
            self.close()
            raise RunError(f"{self.path}: holds a run already; choose another directory")

    def claim(self) -> None:
        """Lock the directory until `close`; raises RunError if another process works in it."""
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=1.0)
        except Timeout as error:
            raise RunError(f"{self.path}: another process is at work in it") from error

    def reopen(self, config: dict[str, Any]) -> None:
        """Mark the run as unfinished, and write its config.yaml, which may have changed."""
        self.result.unlink(missing_ok=True)
        write_whole(self.config, _yaml(config))

    def note_start(self, start: Start) -> None:
        """Add a line to started.jsonl."""
        _append_line(self.started, start.model_dump_json())

    def close(self) -> None:
        """Release the lock."""
        self._lock.release()

    def forget_swanlab_run(self) -> str | None:
        """Remove SwanLab's record of the training, if there is one; returns its id."""
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
        """Whether a process works in the directory."""
        if not Path(self._lock.lock_file).exists():
            return False
        try:
            with self._lock.acquire(blocking=False):
                return False
        except Timeout:
            return True
        except OSError:  # cannot be locked, such as a read-only copy
            return False

    def finish(self, result: dict[str, Any]) -> None:
        """Write result.json, whole or not at all."""
        write_whole(self.result, json.dumps(result, indent=2) + "\n")
        self.ended.unlink(missing_ok=True)

    def end(self, end: End) -> None:
        """Write ended.json, which tells a sweep how the run ended."""
        write_whole(self.ended, json.dumps(end._asdict(), indent=2) + "\n")

    def has_finished(self) -> bool:
        """Whether the run has a result that can be read; if it cannot, it is made again."""
        try:
            return self.read_result() is not None
        except ValueError:
            return False

    def has_ended(self) -> bool:
        """Whether the run has finished, failed or been pruned; a stopped run has not ended."""
        return self.has_finished() or self.ended.is_file()

    def read_starts(self) -> list[dict[str, Any]]:
        """The lines of started.jsonl, from the first start on, each with the fields of `Start`.

        Lines that are damaged are left out; older runs have no such file.
        """
        try:
            lines = _read_end(self.started).splitlines()
        except OSError:
            return []
        starts = []
        for line in lines:
            with contextlib.suppress(ValueError):
                starts.append(Start.model_validate_json(line, strict=True).model_dump())
        return starts

    def read_end(self) -> End | None:
        """What ended.json says; None if there is none.

        A damaged file counts as a failure, because nothing shows that the run was pruned.
        """
        if not self.ended.is_file():
            return None
        try:
            return TypeAdapter(End).validate_json(_read_text(self.ended))
        except ValueError:
            return End("failed", f"{self.ended.name} is damaged, and does not tell how it ended")

    def read_result(self) -> dict[str, Any] | None:
        """What result.json holds; None if the run has not finished.

        Raises ValueError if the file holds no result.
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


def write_whole(path: Path, content: str | bytes) -> None:
    """Write `content` to `path`: the whole file is replaced, or nothing changes."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(partial, path)


def _append_line(path: Path, line: str) -> None:
    """Add `line` to a file in one piece; an incomplete last line stays a line of its own."""
    with path.open("a+b", buffering=0) as file:
        size = file.tell()
        file.seek(max(0, size - 1))
        is_torn = file.read(1) not in {b"", b"\n"}
        file.write(b"\n" * is_torn + line.encode() + b"\n")


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a file of settings; raises ConfigError if it is missing, malformed or too large."""
    try:
        text = _read_text(path)
        _check_shape(text)
        settings = yaml.load(text, Loader=yaml.CSafeLoader)
        json.dumps(settings)  # YAML knows dates, sets and bytes, which are no settings
    except (OSError, TypeError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {in_a_line(error)}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: holds no settings")
    return settings


def _check_shape(text: str) -> None:
    """Raise ValueError if the YAML would take much time or memory to read."""
    depth = 0
    for event in yaml.parse(text, yaml.CSafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("has aliases, which no run writes")  # noqa: TRY004
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST_NESTING:
            raise ValueError("is nested too deeply")


def _read_text(path: Path) -> str:
    """The text of a file; raises ValueError if it is too large."""
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"larger than {LARGEST_FILE} bytes")
    return path.read_text(encoding="utf-8")


def _read_end(path: Path) -> bytes:
    """The last LARGEST_FILE bytes of a file; raises OSError for what is no plain file."""
    if not path.is_file():  # a pipe could make us wait forever
        raise FileNotFoundError(path)
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LARGEST_FILE))
        return file.read(LARGEST_FILE)
