"""metrics.jsonl: the record of a run, one JSON object a line, appended as the run goes on."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TypeGuard

from dqn_runner.errors import RunError, in_a_line
from dqn_runner.types import Row

logger = logging.getLogger(__name__)

EVALUATION = "eval/episode_return_mean"
LARGEST_NUMBER = 2**53
LONGEST_LINE = 2**20  # bytes, of which a row takes some hundred

# A line without the name that is looked for is not parsed where it matches this. What could hide
# the name does not match: a byte that no name has, a block of zeros, a lost line end.
_LOOKS_WHOLE = re.compile(rb"\{[ -~]*\}\n")
_BEGINNING_OF_A_ROW = re.compile(rb"(\{[^{}]*)?")
_decode = json.JSONDecoder().raw_decode


class MetricsFile:
    """Appends rows; each is with the system in full as soon as it is logged."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def log(self, row: Row) -> None:
        """Append `row` without those of its values that are not finite."""
        finite = {name: value for name, value in row.items() if math.isfinite(value)}
        self._file.write(json.dumps(finite) + "\n")

    def close(self) -> None:
        self._file.close()


class MetricsReader:
    """Reads the rows of a metrics.jsonl one by one, and later on those that are new.

    It holds one line at a time, however large the file is. With `mention`, only rows with this in
    a name are asked for; others may be left out. `offset` is where it stands, in bytes.

    What may be the beginning of a row is left at the file's end until the rest is written.
    """

    def __init__(self, path: Path, mention: str = "", offset: int = 0) -> None:
        self._path, self._mention, self.offset = path, mention.encode(), offset
        self._line, self._line_offset = b"", offset
        self._line_number, self._line_has_ended = 0, True
        self._why, self._num_further = "", 0
        self.damaged_line = 0  # the first one

    @property
    def problem(self) -> str:
        """Names the first line that holds no row and says why; empty where all hold one."""
        line = f"line {self.damaged_line} holds no row ({self._why})"
        if self._num_further:
            line += f", nor {'do' if self._num_further > 1 else 'does'} {self._num_further} more"
        return self._why and f"{self._path}: {line if self.damaged_line else self._why}"

    def new_rows(self) -> Iterator[Row]:
        """The rows since the last call; none where there is no file."""
        try:
            for line in self._new_lines():
                if self._mention not in line and _LOOKS_WHOLE.fullmatch(line):
                    continue
                try:
                    row = _row(line)
                except ValueError as error:
                    self.note(in_a_line(error))
                else:
                    yield row
        except FileNotFoundError:
            return
        except OSError as error:
            self._why = self._why or str(error.strerror)

    def is_rewritten(self) -> bool:
        """Whether what was read is not there any more, for a resumed run has cut it off."""
        try:
            with _open(self._path) as file:
                file.seek(self._line_offset)
                return file.read(len(self._line)) != self._line
        except OSError:  # the file is gone; what was read of it stays
            return False

    def note(self, why: str) -> None:
        """Have `problem` say that the line of the last row holds none."""
        if self._why:
            self._num_further += 1
        else:
            self._why, self.damaged_line = why, self._line_number

    def _new_lines(self) -> Iterator[bytes]:
        """The lines from `offset` on; of one that is too long the beginning."""
        with _open(self._path) as file:
            file.seek(self.offset)
            while line := file.readline(LONGEST_LINE):
                size, has_ended = len(line), line.endswith(b"\n")
                if size == LONGEST_LINE and not has_ended:
                    size, has_ended = size + _skip_line(file), True
                elif not has_ended:
                    line = line.rstrip(b"\0")  # which a power cut leaves
                    size = len(line)
                    if _BEGINNING_OF_A_ROW.fullmatch(line):
                        return
                self._line, self._line_offset = line, self.offset
                self._line_number += self._line_has_ended
                self._line_has_ended = has_ended
                self.offset += size
                if not line.isspace():
                    yield line


def read_metrics(path: Path, tail: int | None = None) -> list[Row]:
    """The rows of a metrics.jsonl that is not large, or those in its last `tail` bytes."""
    try:
        offset = 0 if tail is None else max(0, path.stat().st_size - tail)
    except OSError:
        offset = 0
    return list(MetricsReader(path, offset=offset).new_rows())


def cut(path: Path, env_steps: int, episodes: int) -> None:
    """Take back the rows after `env_steps`, by when `episodes` had ended, and a torn last line.

    Warns where rows from before are missing. Raises RunError for any other damage; then the file
    stays as it is, with a copy beside it.
    """
    reader, latest, end, num_kept = MetricsReader(path), 0.0, 0, 0.0
    for row in reader.new_rows():
        if row["env_steps"] < latest:
            reader.note(f"env_steps {row['env_steps']} after {latest}")
        latest = row["env_steps"]
        if latest <= env_steps:
            end, num_kept = reader.offset, row.get("episodes", 0)
    if reader.problem:
        raise RunError(reader.problem + _keep_copy(path, reader.damaged_line))
    with path.open("a+b") as file:
        if file.tell() > reader.offset:
            logger.warning("%s: its last line was torn, and is dropped", path)
        file.truncate(end)
        file.seek(max(0, end - 1))
        if file.read(1) not in (b"", b"\n"):  # a whole row that lacks no more than its end
            file.write(b"\n")
    if num_kept < episodes:
        logger.warning("%s: rows are lost after episode %d of %d", path, num_kept, episodes)


def _keep_copy(path: Path, line: int) -> str:
    """Copy a file that is damaged in `line`, where that was not done; returns what to say of it."""
    copy = path.with_name(f"{path.name}.damaged-{line}")
    partial = copy.with_name(f"{copy.name}.partial")
    kept = f"a copy is {copy.name}"
    try:
        if not copy.exists():
            shutil.copyfile(path, partial)
            os.replace(partial, copy)
    except OSError as error:
        kept = f"it could not be copied ({error.strerror})"
    return f"; nothing was changed, {kept}; mend or remove the line to go on"


def _open(path: Path) -> BinaryIO:
    """Open a file to read; raises OSError also for a pipe, which could keep us waiting."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "no plain file", str(path))
    return path.open("rb")


def _skip_line(file: BinaryIO) -> int:
    """Read to the end of a line; returns how many bytes that were."""
    size = 0
    while piece := file.readline(LONGEST_LINE):
        size += len(piece)
        if piece.endswith(b"\n"):
            break
    return size


def _row(line: bytes) -> Row:
    """The row that `line` holds; raises ValueError, which says why it holds none."""
    if len(line) == LONGEST_LINE:
        raise ValueError(f"longer than {LONGEST_LINE:,} bytes")
    text = line.decode()
    try:
        row, end = _decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if text[end:].strip():
        raise ValueError(f"more than a row: {text[end:].strip()[:20]!r}")
    if not isinstance(row, dict) or not is_number(row.get("env_steps")):
        raise ValueError("no env_steps")
    if not {int, float}.issuperset(map(type, row.values())):
        raise ValueError("a value is no number")
    return row


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value read from a file can be calculated with."""
    return isinstance(value, int | float) and abs(value) < LARGEST_NUMBER
