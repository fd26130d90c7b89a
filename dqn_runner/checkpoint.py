"""Checkpoints: what a run has learned, in files that `torch.load(weights_only=True)` reads."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import torch

from dqn_runner.errors import RunError

FORMAT_VERSION = 1


class Checkpoints:
    """The folder `checkpoints/` of a run: `last.pt`, the one before it, and `best.pt`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)

    def save_last(self, state: dict[str, Any]) -> None:
        """Save as `last.pt`; the former last becomes `previous.pt`."""
        last, previous = self._folder / "last.pt", self._folder / "previous.pt"
        if last.exists():
            # Linked, not moved: at no moment is there no last.pt.
            link = self._folder / "previous.pt.partial"
            link.unlink(missing_ok=True)
            os.link(last, link)
            _checksum(previous).write_text(_checksum(last).read_text())
            os.replace(link, previous)
        save(state, last)

    def save_best(self, state: dict[str, Any]) -> None:
        """Save as `best.pt`, over the former best."""
        save(state, self._folder / "best.pt")


def save(state: dict[str, Any], path: Path) -> None:
    """Write `state` so that `path` holds either all of it or what it held before.

    The file beside it lists the SHA-256 of both, so that it fits whichever of them is there.
    """
    buffer = io.BytesIO()
    torch.save({"format_version": FORMAT_VERSION, **state}, buffer)
    digest, checksum = hashlib.sha256(buffer.getbuffer()).hexdigest(), _checksum(path)
    former = checksum.read_text().split()[-1:] if path.exists() and checksum.exists() else []
    _write(checksum, "\n".join([*former, digest, ""]).encode())
    _write(path, buffer.getbuffer())


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; raises RunError where there is none or it is damaged."""
    if not path.is_file():
        raise RunError(f"{path}: no such checkpoint")
    content, checksum = path.read_bytes(), _checksum(path)
    if checksum.is_file():
        digests = checksum.read_text().split()
        if hashlib.sha256(content).hexdigest() not in digests:
            raise RunError(f"{path}: damaged; its checksum is not the one in {checksum.name}")
    try:
        state: dict[str, Any] = torch.load(
            io.BytesIO(content), map_location="cpu", weights_only=True
        )
    except Exception as error:  # torch raises whatever its readers raise
        raise RunError(f"{path}: not a checkpoint, or a damaged one") from error
    version = state.get("format_version") if isinstance(state, dict) else None
    if version != FORMAT_VERSION:
        raise RunError(f"{path}: has format {version}; this version reads {FORMAT_VERSION}")
    return state


def _checksum(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _write(path: Path, content: bytes | memoryview) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
