"""What the page of one run shows of its directory beside its numbers: log, machine, pictures.

A run directory may come from somebody else. So logs and pictures are not taken through links, and
little of a file is read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from dqn_runner.analysis.runs import load_run
from dqn_runner.board.entries import Entry

MOST_OF_A_LOG = 2**20  # bytes, from its end
_COLORS = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|[\x00-\x08\x0b-\x1f]")  # and other control characters

Pictures = dict[str, list[tuple[int, Path]]]  # env steps and file, by name


def log_lines(entry: Entry, figures: Path) -> tuple[list[str], list[str]]:
    """The last lines of a run's log, and why it failed; of a group, dqn-compare's table."""
    if entry.run_dir is None:
        return _tail(figures / "table.txt", figures), []
    end = entry.run_dir.read_end()
    errors = [f"{end.status}: {end.reason}"] if end else []
    return _tail(entry.run_dir.path / "train.log", entry.run_dir.path), errors


def _tail(path: Path, folder: Path) -> list[str]:
    try:
        if not _is_inside(path, folder):
            return []
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - MOST_OF_A_LOG))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return _COLORS.sub("", text).splitlines()


def machine(entry: Entry) -> dict[str, Any]:
    """Where and how a run was started the last time, with the names that the page gives them."""
    starts = entry.run_dir.read_starts() if entry.run_dir else []
    if not starts:
        return {}
    last = starts[-1]
    return {
        "hostname": last["host"],
        "os": last["os"],
        "python": last["python"],
        "command": last["command"],
        "cwd": last["working_directory"],
        "git_info": ["", last["git_commit"] or ""],
        "cpu": {"brand": last["cpu"], "cores": last["cores"]},
        "memory": round(last["memory_bytes"] / 2**30, 1),
        **({"gpu": {"type": [last["gpu"]], "memory": ["?"]}} if last["gpu"] else {}),
    }


def packages(entry: Entry) -> list[str]:
    """The versions of the packages that a finished run used."""
    result = load_run(entry.run_dir.path).result if entry.run_dir else None
    versions = (result or {}).get("versions")
    return [f"{k}=={v}" for k, v in versions.items()] if isinstance(versions, dict) else []


def pictures(entry: Entry) -> Pictures:
    """A run's curve and its films; a group has none."""
    run_dir, found = entry.run_dir, Pictures()
    if run_dir is None:
        return found
    if _is_inside(run_dir.curve, run_dir.path):
        found["curve"] = [(0, run_dir.curve)]
    films = [film for film in run_dir.videos.glob("*.gif") if _is_inside(film, run_dir.path)]
    of_training = {int(m[1]): f for f in films if (m := re.fullmatch(r"eval_(\d+)\.gif", f.name))}
    others = sorted(set(films) - set(of_training.values()))
    if of_training:
        found["eval/video"] = sorted(of_training.items())
    return found | {film.stem: [(0, film)] for film in others}


def compared(figures: Path) -> Pictures:
    """dqn-compare's figures that have been drawn so far."""
    paths = sorted(figures.rglob("*.png"))
    return {path.relative_to(figures).with_suffix("").as_posix(): [(0, path)] for path in paths}


def _is_inside(path: Path, folder: Path) -> bool:
    return path.is_file() and path.resolve().is_relative_to(folder.resolve())
