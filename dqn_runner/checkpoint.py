"""Checkpoints: what a run has learned, in files that `torch.load(weights_only=True)` reads."""

from __future__ import annotations

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
        last = self._folder / "last.pt"
        if last.exists():
            os.replace(last, self._folder / "previous.pt")
        save(state, last)

    def save_best(self, state: dict[str, Any]) -> None:
        """Save as `best.pt`, over the former best."""
        save(state, self._folder / "best.pt")


def save(state: dict[str, Any], path: Path) -> None:
    """Write `state` so that `path` holds either all of it or what it held before."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        torch.save({"format_version": FORMAT_VERSION, **state}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; raises RunError where there is none or it is damaged."""
    if not path.is_file():
        raise RunError(f"{path}: no such checkpoint")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        version = state["format_version"]
    except Exception as error:  # torch raises whatever its readers raise
        raise RunError(f"{path}: not a checkpoint, or a damaged one") from error
    if version != FORMAT_VERSION:
        raise RunError(f"{path}: has format {version}; this version reads {FORMAT_VERSION}")
    return state
