"""metrics.jsonl: the record of a run, with one JSON object on each line."""

from __future__ import annotations

import errno
import gzip
import itertools
import json
import logging
import math
import os
import re
import shutil
import zlib
from collections import deque
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Any, TypeGuard

from dqn_runner.errors import RunError, in_a_line
from dqn_runner.types import Row

logger = logging.getLogger(__name__)

COMPRESSED = ".gz"  # the name's ending in a copy of a run that is kept; nothing appends to it
EVALUATION = "eval/episode_return_mean"
LARGEST_NUMBER = 2**53
LONGEST_LINE = 2**20  # bytes; a row takes a few hundred
CHUNK = 2**18  # bytes to read at a time
SHORTEST_ROW = len('{"env_steps":1}\n')
LARGEST_COMPRESSED = 2**26  # bytes, after decompressing

UNREADABLE = (OSError, EOFError, zlib.error)  # the last two are of damaged compressed files

# Lines that look like rows: braces around quoted names, each with a value, and only bytes that a
# row can have. Such lines can be parsed together, which is twice as fast. And those that lack a
# name need no parsing: without escapes, only a changed letter could hide the name, and parsing
# would not find it either.
_PRINTED = rb"[ !#-[\]-z|~]*+"  # without quotes, braces and backslashes
_ROWS = re.compile(rb'(?:\{(?:"%b": %b)*+\}\n)*+' % (_PRINTED, _PRINTED))
_BEGINNING_OF_A_ROW = re.compile(rb"(\{[^{}]*)?")


class MetricsFile:
    """Appends rows; each is passed to the operating system as soon as it is logged."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def log(self, row: Row) -> None:
        """Append `row`, without values that are not finite."""
        finite = {name: value for name, value in row.items() if math.isfinite(value)}
        self._file.write(json.dumps(finite) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class MetricsReader:
    """Reads the rows of a metrics.jsonl, and later those that were added.

    Where there is none, it reads a compressed copy, metrics.jsonl.gz.

    It holds about `CHUNK` bytes at a time, whatever the size of the file. With `mention`, rows may
    be left out if no name in them contains it.

    `offset` is its position in bytes. If the last line may be an incomplete row, it is not read
    until the rest is written.
    """

    def __init__(self, path: Path, mention: str = "", offset: int = 0) -> None:
        self._path, self._mention, self.offset = path, mention.encode(), offset
        self._last_line, self._num_lines = b"", 0
        self._why, self._num_further = "", 0
        self.damaged_line = 0  # the first one

    @property
    def problem(self) -> str:
        """The first damaged line and what is wrong with it; empty if none is damaged."""
        line = f"line {self.damaged_line} is damaged ({self._why})"
        further = f", and {self._num_further} more" if self._num_further else ""
        path = _existing(self._path)
        return self._why and f"{path}: {line if self.damaged_line else self._why}{further}"

    def note(self, line: int, why: str) -> None:
        """Remember that the line with this number is damaged, and why."""
        if self._why:
            self._num_further += 1
        else:
            self._why, self.damaged_line = why, line

    def new_rows(self) -> Iterator[Row]:
        """The rows since the last call; none if there is no file."""
        try:
            for chunk in self._new_chunks():
                rows = _rows(chunk, self._mention)
                yield from self._one_by_one(chunk) if rows is None else rows
        except FileNotFoundError:
            return
        except UNREADABLE as error:
            self._why = self._why or getattr(error, "strerror", None) or in_a_line(error)

    def is_rewritten(self) -> bool:
        """Whether a resumed run has removed rows that were already read."""
        size = len(self._last_line)
        try:
            with _open(self._path) as file:
                file.seek(self.offset - size)
                return file.read(size) != self._last_line
        except UNREADABLE:  # the file is gone, but the rows that were read stay valid
            return False

    def _new_chunks(self) -> Iterator[bytes]:
        """Whole lines from `offset` on; only the beginning of a line that is too long."""
        with _open(self._path) as file:
            file.seek(self.offset)
            if self._last_line and not self._last_line.endswith(b"\n"):
                self._read_line_end(file)
            while chunk := file.read(CHUNK):
                chunk += file.readline(LONGEST_LINE)
                is_too_long = len(chunk) - chunk.rfind(b"\n") > LONGEST_LINE
                whole = chunk if is_too_long else _without_torn_end(chunk)
                if not whole:
                    return
                yield whole
                self._num_lines += whole.count(b"\n") + (not whole.endswith(b"\n"))
                self.offset += len(whole)
                if isinstance(file, gzip.GzipFile) and self.offset > LARGEST_COMPRESSED:
                    raise OSError(errno.EFBIG, f"larger than {LARGEST_COMPRESSED:,} bytes")
                self._last_line = whole[whole.rfind(b"\n", 0, -1) + 1 :]
                if is_too_long:
                    self.offset += _skip_line(file)
                    self._last_line = b""
                elif len(whole) < len(chunk):
                    return

    def _read_line_end(self, file: BufferedIOBase) -> None:
        """Read the line end of the last row, which was complete without it."""
        if file.read(1) == b"\n":
            self._last_line += b"\n"
            self.offset += 1
        file.seek(self.offset)

    def _one_by_one(self, chunk: bytes) -> Iterator[Row]:
        """The rows of a chunk in which some lines are damaged."""
        lines = chunk.removesuffix(b"\n").split(b"\n")
        for number, line in enumerate(lines, self._num_lines + 1):
            try:
                row = _row(line)
            except ValueError as error:
                self.note(number, in_a_line(error))
            else:
                yield row


def read_metrics(path: Path, tail: int | None = None) -> list[Row]:
    """All rows of a small metrics.jsonl, or those in its last `tail` bytes."""
    try:
        offset = 0 if tail is None else max(0, path.stat().st_size - tail)
    except OSError:
        offset = 0
    rows = MetricsReader(path, offset=offset).new_rows()
    return list(rows if tail is None else deque(rows, tail // SHORTEST_ROW))


def cut(path: Path, env_steps: int, episodes: int) -> None:
    """Remove the rows after `env_steps`, and an incomplete last line.

    `episodes` had ended by then; if rows of them are missing, a warning says so. Raises RunError
    for any other damage; then the file is not changed, and a copy is made beside it.
    """
    path.touch()  # so that no compressed copy is read in its place
    reader, latest = MetricsReader(path), 0.0
    num_kept, last_episode = 0, 0.0
    for line, row in enumerate(reader.new_rows(), 1):
        if row["env_steps"] < latest:
            reader.note(line, f"env_steps {row['env_steps']} after {latest}")
        latest = row["env_steps"]
        if latest <= env_steps:
            num_kept, last_episode = line, row.get("episodes", 0)
    if reader.problem:
        line = reader.damaged_line
        raise RunError(reader.problem + (_keep_copy(path, line) if line else ""))
    with path.open("a+b") as file:
        if file.tell() > reader.offset:
            logger.warning("%s: its last line was torn, and is dropped", path)
        file.truncate(reader.offset)
        file.seek(0)
        end = sum(map(len, itertools.islice(file, num_kept)))
        file.truncate(end)
        file.seek(max(0, end - 1))
        if file.read() not in {b"", b"\n"}:  # a complete row without its line end
            file.write(b"\n")
    if last_episode < episodes:
        logger.warning(
            "%s: the rows of episodes %d to %d are lost", path, last_episode + 1, episodes
        )


def _keep_copy(path: Path, line: int) -> str:
    """Copy a file that is damaged in `line`, unless a copy exists; returns a text for the error."""
    copy = path.with_name(f"{path.name}.damaged-{line}")
    partial = copy.with_name(f"{copy.name}.partial")
    kept = f"with a copy in {copy.name}"
    try:
        if not copy.exists():
            shutil.copyfile(path, partial)
            os.replace(partial, copy)
    except OSError as error:
        kept = f"without a copy ({error.strerror})"
    return f"; the file is left as it is, {kept}; mend or remove the line to go on"


def _open(path: Path) -> BufferedIOBase:
    """Open a file to read, or its compressed copy if there is no such file.

    Raises OSError also for a pipe, which could make us wait forever.
    """
    found = _existing(path)
    if found.exists() and not found.is_file():
        raise OSError(errno.EINVAL, "no plain file", str(found))
    return found.open("rb") if found == path else gzip.open(found)


def _existing(path: Path) -> Path:
    """`path`, or its compressed copy where only that is there."""
    copy = compressed(path)
    return copy if copy.exists() and not path.exists() else path


def compressed(path: Path) -> Path:
    """Where the compressed copy of a metrics.jsonl lies."""
    return path.with_name(path.name + COMPRESSED)


def _skip_line(file: BufferedIOBase) -> int:
    """Read to the end of a line; returns the number of bytes."""
    size = 0
    while piece := file.readline(LONGEST_LINE):
        size += len(piece)
        if piece.endswith(b"\n"):
            break
    return size


def _without_torn_end(chunk: bytes) -> bytes:
    """`chunk` without an incomplete last row, and without zeros that a power cut left."""
    end = chunk.rfind(b"\n") + 1
    rest = chunk[end:].rstrip(b"\0")
    return chunk[:end] if _BEGINNING_OF_A_ROW.fullmatch(rest) else chunk[:end] + rest


def _rows(chunk: bytes, mention: bytes) -> list[Row] | None:
    """The rows in `chunk` that contain `mention`; None if some of its lines may be damaged."""
    if not _ROWS.fullmatch(chunk):
        return None
    lines = _lines_with(mention, chunk) if mention else chunk.splitlines()
    try:
        rows = json.loads(f"[{b','.join(lines).decode()}]")
    except (ValueError, RecursionError):
        return None
    return rows if len(rows) == len(lines) and _are_rows(rows) else None


def _lines_with(mention: bytes, chunk: bytes) -> list[bytes]:
    """The lines of `chunk` that contain `mention`; fast if most do not."""
    lines, end = [], 0
    while (place := chunk.find(mention, end)) >= 0:
        start, end = chunk.rfind(b"\n", end, place) + 1, chunk.find(b"\n", place)
        lines.append(chunk[start:end])
    return lines


def _row(line: bytes) -> Row:
    """The row in `line`; raises ValueError, which says what is wrong with the line."""
    if len(line) >= LONGEST_LINE:
        raise ValueError(f"longer than {LONGEST_LINE:,} bytes")
    try:
        row: Row = json.loads(line.decode())
    except json.JSONDecodeError as error:
        what = error.msg.removesuffix(" at")
        raise ValueError(f"{what} at column {error.colno}") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not _are_rows([row]):
        raise ValueError("not numbers with env_steps among them")
    return row


def _are_rows(found: list[Any]) -> bool:
    """Whether each of `found` is a mapping from names to numbers that has env_steps."""
    try:
        steps = [row["env_steps"] for row in found]
        types = set(map(type, itertools.chain.from_iterable(map(dict.values, found))))
    except (TypeError, KeyError):
        return False
    return types <= {int, float} and all(map(is_number, steps))


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value from a file is a number that is finite and not too large to compute with."""
    return isinstance(value, int | float) and abs(value) < LARGEST_NUMBER
