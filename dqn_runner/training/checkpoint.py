"""Checkpoints: what a run has learned, in files that `torch.load(weights_only=True)` reads."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from pydantic import BaseModel
from torch import Tensor

from dqn_runner.errors import RunError, in_a_line

logger = logging.getLogger(__name__)

FORMAT_VERSION = 2
LONGEST_LIST = 1000  # bytes of checksums; there are two, of 64 digits


class Buffer(Protocol):
    """A replay buffer whose transitions are numbered in the order they came."""

    size: int
    num_added: int

    def get_state(self) -> dict[str, int]:
        """Where it stands."""

    def set_state(self, state: dict[str, int], /) -> None:
        """Go on from there."""

    def rows(self, first: int, last: int, /) -> list[Tensor]:
        """The columns of the transitions number `first` to `last` (excluded)."""

    def set_rows(self, first: int, last: int, columns: list[Tensor], /) -> None:
        """Put these back."""


class Chunk(NamedTuple):
    """A file of transitions number `first` to `last` (excluded), in `checkpoints/replay/`."""

    first: int
    last: int
    digest: str

    @property
    def name(self) -> str:
        """The name of the file."""
        return f"{self.first}-{self.last}.pt"


class _Replay(BaseModel, strict=True):
    """What a checkpoint says about the transitions, which lie beside it."""

    size: int
    num_added: int
    chunks: list[tuple[int, int, str]]


class Checkpoints:
    """The folder `checkpoints/` of a run: `last.pt`, the one before it, and `best.pt`.

    Replay is saved in chunks that are written once: a checkpoint adds those transitions that came
    since the one before it, so that a large buffer does not hold up training.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._replay = folder, folder / "replay"
        self._chunks: list[Chunk] = []
        folder.mkdir(parents=True, exist_ok=True)

    def save_last(self, state: dict[str, Any], buffer: Buffer) -> None:
        """Save as `last.pt`, with what `buffer` holds; the former last becomes `previous.pt`."""
        former, self._chunks = self._chunks, self._save_replay(buffer)
        replay = {**buffer.get_state(), "chunks": [tuple(chunk) for chunk in self._chunks]}
        last, previous = self._folder / "last.pt", self._folder / "previous.pt"
        if last.exists():
            # Copied, not moved: at no moment is there no last.pt. The file of checksums fits the
            # former previous.pt as well, which was last.pt before.
            content = last.read_bytes()
            _add_digest(previous, content)
            _write(previous, content)
        save({**state, "replay": replay}, last)
        keep = {chunk.name for chunk in [*former, *self._chunks]}
        for path in self._replay.glob("*"):
            if path.name not in keep:
                path.unlink()

    def _save_replay(self, buffer: Buffer) -> list[Chunk]:
        oldest = buffer.num_added - buffer.size
        chunks = [chunk for chunk in self._chunks if chunk.last > oldest]
        first = max(oldest, chunks[-1].last if chunks else 0)
        if first < buffer.num_added:
            self._replay.mkdir(exist_ok=True)
            new = Chunk(first, buffer.num_added, "")
            content = _bytes({"columns": buffer.rows(new.first, new.last)})
            _write(self._replay / new.name, content)
            chunks.append(new._replace(digest=_digest(content)))
        return chunks

    def load_last(self) -> dict[str, Any] | None:
        """The last checkpoint; if it is damaged, the one before it, with a warning.

        None if there is none. Raises RunError if both are damaged.
        """
        last, previous = self._folder / "last.pt", self._folder / "previous.pt"
        if not last.exists() and not previous.exists():
            return None
        try:
            return self._load_whole(last)
        except RunError as error:
            if not previous.exists():
                raise
            state = self._load_whole(previous)
            logger.warning("%s; going on from previous.pt", error)
            content = previous.read_bytes()
            _write(_checksum(last), _digest(content).encode())
            _write(last, content)
            return state

    def _load_whole(self, path: Path) -> dict[str, Any]:
        """A checkpoint, once its chunks have been found to be all there."""
        state = load(path)
        if not _checksum(path).exists():
            logger.warning("%s: its checksum is gone, so that damage may go unseen", path)
        for chunk in _chunks(state):
            _read(self._replay / chunk.name, chunk.digest)
        return state

    def load_replay(self, state: dict[str, Any], buffer: Buffer) -> None:
        """Fill `buffer` as it was when `state` was saved."""
        buffer.set_state(state["replay"])
        oldest = buffer.num_added - buffer.size
        for chunk in _chunks(state):
            path = self._replay / chunk.name
            columns = _unpack(_read(path, chunk.digest), path)["columns"]
            skip = max(0, oldest - chunk.first)  # overwritten since
            buffer.set_rows(chunk.first + skip, chunk.last, [c[skip:] for c in columns])
        self._chunks = _chunks(state)

    def save_best(self, state: dict[str, Any]) -> None:
        """Save as `best.pt`, over the former best."""
        save(state, self._folder / "best.pt")


def _chunks(state: dict[str, Any]) -> list[Chunk]:
    """The chunks of a checkpoint; raises RunError if they do not cover what was stored."""
    try:
        replay = _Replay.model_validate(state.get("replay"))
    except ValueError as error:
        raise RunError("the checkpoint's replay does not fit: it is malformed") from error
    chunks = [Chunk(*chunk) for chunk in replay.chunks]
    ends = [replay.num_added - replay.size, *(chunk.last for chunk in chunks)]
    follow = all(chunk.first == end for chunk, end in zip(chunks[1:], ends[1:], strict=False))
    covers = not chunks or chunks[0].first <= ends[0] <= chunks[0].last
    if not (follow and covers and ends[-1] == replay.num_added and replay.size >= 0):
        raise RunError("the checkpoint's replay does not fit: its chunks do not follow each other")
    return chunks


def save(state: dict[str, Any], path: Path) -> None:
    """Write `state` so that `path` holds either all of it or what it held before.

    The file beside it lists the SHA-256 of both, so that it fits whichever of them is there.
    """
    content = _bytes({"format_version": FORMAT_VERSION, **state})
    _add_digest(path, content)
    _write(path, content)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; raises RunError if there is none or it is damaged."""
    state = _unpack(_read(path, *_digests(path)), path)
    version = state.get("format_version") if isinstance(state, dict) else None
    if version != FORMAT_VERSION:
        raise RunError(f"{path}: has format {version!r}; this version reads {FORMAT_VERSION}")
    return state


def _bytes(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _read(path: Path, *digests: str) -> bytes:
    """The content of a file; raises RunError if it is missing or has none of `digests`."""
    if not path.is_file():
        raise RunError(f"{path}: no such checkpoint")
    if path.is_symlink():
        raise RunError(f"{path}: a link, which no run writes")
    content = path.read_bytes()
    if digests and _digest(content) not in digests:
        raise RunError(f"{path}: damaged; its checksum is another")
    return content


def _unpack(content: bytes, path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(
            io.BytesIO(content), map_location="cpu", weights_only=True
        )
    except Exception as error:  # torch raises whatever its readers raise
        raise RunError(f"{path}: not a checkpoint, or a damaged one") from error
    return state


def _digests(path: Path) -> list[str]:
    """The checksums that are listed beside `path`; none if there is no list.

    Raises RunError for a damaged list, which must not pass for none.
    """
    checksum = _checksum(path)
    if not checksum.exists():
        return []
    try:
        with checksum.open("rb") as file:
            digests = file.read(LONGEST_LIST).decode().split()
    except (OSError, ValueError) as error:
        raise RunError(f"{checksum}: damaged; {in_a_line(error)}") from error
    if not digests or not all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests):
        raise RunError(f"{checksum}: damaged; it holds no checksums")
    return digests


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _add_digest(path: Path, content: bytes) -> None:
    """Have the file of checksums beside `path` fit `content`, and still what is there now."""
    former = [_digest(path.read_bytes())] if path.exists() else []
    _write(_checksum(path), "\n".join([*former, _digest(content), ""]).encode())


def _checksum(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _write(path: Path, content: bytes | memoryview) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
