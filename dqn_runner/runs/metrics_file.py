"""metrics.jsonl: the record of a run, one JSON object a line, appended as the run goes on."""

from __future__ import annotations

import errno
import itertools
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

from dqn_runner.errors import RunError, in_a_line
from dqn_runner.types import Row

logger = logging.getLogger(__name__)

EVALUATION = "eval/episode_return_mean"
LARGEST_NUMBER = 2**53
LONGEST_LINE = 2**20  # bytes, of which a row takes some hundred
CHUNK = 2**18  # bytes that are read at a time

# Lines that look like rows: names in quotes with something behind each, between braces, and no byte
# that a row does not have. They can be parsed together, which is twice as fast, and those that lack
# a name need no parsing: nothing but another letter hides it here, and that hides it anyway.
_PRINTED = rb"[ !#-[\]-z|~]*+"  # without quotes, braces and backslashes
_ROWS = re.compile(rb'(?:\{(?:"%b": %b)*+\}\n)*+' % (_PRINTED, _PRINTED))
_BEGINNING_OF_A_ROW = re.compile(rb"(\{[^{}]*)?")


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

    It holds about `CHUNK` bytes at a time, however large the file is. With `mention`, only rows
    with this in a name are asked for; others may be left out.

    `offset` is where it stands, in bytes. What may be the beginning of a row is left at the file's
    end until the rest is written.
    """

    def __init__(self, path: Path, mention: str = "", offset: int = 0) -> None:
        self._path, self._mention, self.offset = path, mention.encode(), offset
        self._last_line, self._num_lines = b"", 0
        self._why, self._num_further = "", 0
        self.damaged_line = 0  # the first one

    @property
    def problem(self) -> str:
        """Names the first line that is damaged and says why; empty where none is."""
        line = f"line {self.damaged_line} is damaged ({self._why})"
        further = f", and {self._num_further} more" if self._num_further else ""
        return self._why and f"{self._path}: {line if self.damaged_line else self._why}{further}"

    def note(self, line: int, why: str) -> None:
        """Have `problem` tell of the line with this number."""
        if self._why:
            self._num_further += 1
        else:
            self._why, self.damaged_line = why, line

    def new_rows(self) -> Iterator[Row]:
        """The rows since the last call; none where there is no file."""
        try:
            for chunk in self._new_chunks():
                rows = _rows(chunk, self._mention)
                yield from self._one_by_one(chunk) if rows is None else rows
        except FileNotFoundError:
            return
        except OSError as error:
            self._why = self._why or str(error.strerror)

    def is_rewritten(self) -> bool:
        """Whether what was read is not there any more, for a resumed run has cut it off."""
        size = len(self._last_line)
        try:
            with _open(self._path) as file:
                file.seek(self.offset - size)
                return file.read(size) != self._last_line
        except OSError:  # the file is gone; what was read of it stays
            return False

    def _new_chunks(self) -> Iterator[bytes]:
        """Whole lines from `offset` on; of one that is too long the beginning."""
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
                self._last_line = whole[whole.rfind(b"\n", 0, -1) + 1 :]
                if is_too_long:
                    self.offset += _skip_line(file)
                    self._last_line = b""
                elif len(whole) < len(chunk):
                    return

    def _read_line_end(self, file: BinaryIO) -> None:
        """Of a row that was whole without it."""
        if file.read(1) == b"\n":
            self._last_line += b"\n"
            self.offset += 1
        file.seek(self.offset)

    def _one_by_one(self, chunk: bytes) -> Iterator[Row]:
        """The rows of a chunk in which some lines hold none."""
        lines = chunk.removesuffix(b"\n").split(b"\n")
        for number, line in enumerate(lines, self._num_lines + 1):
            try:
                row = _row(line)
            except ValueError as error:
                self.note(number, in_a_line(error))
            else:
                yield row


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
        if file.read() not in {b"", b"\n"}:  # a whole row that lacks no more than its end
            file.write(b"\n")
    if last_episode < episodes:
        logger.warning(
            "%s: the rows of episodes %d to %d are lost", path, last_episode + 1, episodes
        )


def _keep_copy(path: Path, line: int) -> str:
    """Copy a file that is damaged in `line`, where that was not done; returns what to say of it."""
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


def _without_torn_end(chunk: bytes) -> bytes:
    """`chunk` without what may be the beginning of a row, or zeros that a power cut left."""
    end = chunk.rfind(b"\n") + 1
    rest = chunk[end:].rstrip(b"\0")
    return chunk[:end] if _BEGINNING_OF_A_ROW.fullmatch(rest) else chunk[:end] + rest


def _rows(chunk: bytes, mention: bytes) -> list[Row] | None:
    """The rows in `chunk` that say `mention`; None where some of its lines hold none."""
    if not _ROWS.fullmatch(chunk):
        return None
    lines = _lines_with(mention, chunk) if mention else chunk.splitlines()
    try:
        rows = json.loads(f"[{b','.join(lines).decode()}]")
    except (ValueError, RecursionError):
        return None
    return rows if len(rows) == len(lines) and _are_rows(rows) else None


def _lines_with(mention: bytes, chunk: bytes) -> list[bytes]:
    """Found without looking at each line, of which most may lack it."""
    lines, end = [], 0
    while (place := chunk.find(mention, end)) >= 0:
        start, end = chunk.rfind(b"\n", end, place) + 1, chunk.find(b"\n", place)
        lines.append(chunk[start:end])
    return lines


def _row(line: bytes) -> Row:
    """The row that `line` holds; raises ValueError, which says why it holds none."""
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
    """Whether each maps names to numbers, and has env_steps."""
    try:
        steps = [row["env_steps"] for row in found]
        types = set(map(type, itertools.chain.from_iterable(map(dict.values, found))))
    except (TypeError, KeyError):
        return False
    return types <= {int, float} and all(map(is_number, steps))


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value read from a file can be calculated with."""
    return isinstance(value, int | float) and abs(value) < LARGEST_NUMBER
