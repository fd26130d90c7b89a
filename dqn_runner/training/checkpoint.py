"""Checkpoints: what a run has learned, in files that `torch.load(weights_only=True)` reads."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from pydantic import BaseModel
from torch import Tensor

from dqn_runner.errors import RunError, in_a_line

logger = logging.getLogger(__name__)

FORMAT_VERSION = 2
RINGS = ("replay", "frames")  # their folders; of frames, only where each is kept once
PIECE = 2**24  # bytes; written in a tenth of a second
LONGEST_LIST = 1000  # bytes of checksums; there are two, of 64 digits


class Ring(Protocol):
    """A part of the replay buffer, whose rows are numbered in the order they came."""

    size: int
    num_added: int
    row_bytes: int

    def get_state(self) -> dict[str, Any]:
        """Where it stands."""

    def set_state(self, state: dict[str, Any], /) -> None:
        """Go on from there."""

    def rows(self, first: int, last: int, /) -> list[Tensor]:
        """The columns of the rows number `first` to `last` (excluded)."""

    def set_rows(self, first: int, last: int, columns: list[Tensor], /) -> None:
        """Put these back."""


class Chunk(NamedTuple):
    """A file of rows number `first` to `last` (excluded), in the folder of their ring."""

    first: int
    last: int
    digest: str

    @property
    def name(self) -> str:
        """The name of the file."""
        return f"{self.first}-{self.last}.pt"


class _Replay(BaseModel, strict=True):
    """What a checkpoint says about a part of the replay buffer, which lies beside it."""

    size: int
    num_added: int
    chunks: list[tuple[int, int, str]]


class Checkpoints:
    """The folder `checkpoints/` of a run: `last.pt`, the one before it, and `best.pt`.

    Replay is saved in chunks that are written once, a folder for each of its rings. A checkpoint
    adds the rows that came since the one before it. Where these would be many, they are written in
    pieces as they come. So a large buffer does not hold up training.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._chunks: dict[str, list[Chunk]] = {}  # of each ring, those that it needs now
        self._kept: set[Path] = set()  # files that last.pt needs
        folder.mkdir(parents=True, exist_ok=True)

    def save_last(self, state: dict[str, Any], rings: Mapping[str, Ring]) -> None:
        """Save as `last.pt`, with what `rings` hold; the former last becomes `previous.pt`."""
        for name, ring in rings.items():
            self._save_new(name, ring)
        replay = {
            name: {**ring.get_state(), "chunks": [tuple(chunk) for chunk in self._chunks[name]]}
            for name, ring in rings.items()
        }
        last, previous = self._folder / "last.pt", self._folder / "previous.pt"
        if last.exists():
            # Copied, not moved: at no moment is there no last.pt. The file of checksums fits the
            # former previous.pt as well, which was last.pt before.
            content = last.read_bytes()
            _add_digest(previous, content)
            _write(previous, content)
        save({**state, **replay}, last)
        former, self._kept = self._kept, self._files()
        for name in rings:
            for path in (self._folder / name).glob("*"):
                if path not in former | self._kept:
                    path.unlink()

    def save_pieces(self, rings: Mapping[str, Ring]) -> None:
        """Save what is new in `rings` if it is much, so that the next checkpoint has less to do."""
        for name, ring in rings.items():
            chunks = self._chunks.get(name)
            saved = chunks[-1].last if chunks else 0
            if (ring.num_added - saved) * ring.row_bytes >= PIECE:
                before = self._files()
                self._save_new(name, ring)
                for path in before - self._files() - self._kept:
                    path.unlink()

    def _save_new(self, name: str, ring: Ring) -> None:
        oldest = ring.num_added - ring.size
        chunks = [chunk for chunk in self._chunks.get(name, []) if chunk.last > oldest]
        first = max(oldest, chunks[-1].last if chunks else 0)
        if first < ring.num_added:
            (self._folder / name).mkdir(exist_ok=True)
            new = Chunk(first, ring.num_added, "")
            content = _bytes({"columns": ring.rows(new.first, new.last)})
            _write(self._folder / name / new.name, content)
            chunks.append(new._replace(digest=_digest(content)))
        self._chunks[name] = chunks

    def _files(self) -> set[Path]:
        """The files of the chunks that are needed now."""
        return {
            self._folder / name / chunk.name
            for name, chunks in self._chunks.items()
            for chunk in chunks
        }

    def remove_replay(self) -> None:
        """Remove all transitions; a run that has finished needs them only to be extended."""
        for name in RINGS:
            shutil.rmtree(self._folder / name, ignore_errors=True)

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
        for name in RINGS:
            if name in state or name == "replay":
                for chunk in _chunks(state, name):
                    _read(self._folder / name / chunk.name, chunk.digest)
        return state

    def load_replay(self, state: dict[str, Any], rings: Mapping[str, Ring]) -> None:
        """Fill `rings` as they were when `state` was saved."""
        for name, ring in rings.items():
            ring.set_state(state[name])
        self._chunks = {name: _chunks(state, name) for name in rings}
        self._kept = self._files()
        for name, ring in rings.items():
            oldest = ring.num_added - ring.size
            for chunk in self._chunks[name]:
                path = self._folder / name / chunk.name
                columns = _unpack(_read(path, chunk.digest), path)["columns"]
                skip = max(0, oldest - chunk.first)  # overwritten since
                ring.set_rows(chunk.first + skip, chunk.last, [c[skip:] for c in columns])

    def save_best(self, state: dict[str, Any]) -> None:
        """Save as `best.pt`, over the former best."""
        save(state, self._folder / "best.pt")


def _chunks(state: dict[str, Any], name: str) -> list[Chunk]:
    """The chunks of a ring; raises RunError if they do not cover what was stored."""
    try:
        replay = _Replay.model_validate(state.get(name))
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
