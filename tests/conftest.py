"""What several test files need: short runs, in process, in a directory of their own."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

# In the background of a shell Ctrl-C is ignored, also by whatever the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Before anything imports torch: tests side by side, each with threads for all cores, take several
# times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Each test may override these; the later override wins.
QUICK = (
    "total_timesteps=300",
    "learning_starts=50",
    "batch_size=16",
    "buffer.capacity=1000",
    "compile=never",
    "device=cpu",
    "tracker.mode=disabled",
    "eval.interval=100",
    "eval.num_episodes=2",
    "eval.final_episodes=3",
    "log.interval=50",
    "checkpoint.interval=100",
    "agent=dqn",  # has the quickest update
)


class Outcome(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs within a test's process have no power cut to outlive."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="session")
def quick() -> tuple[str, ...]:
    """Overrides that make a run last a fraction of a second."""
    return QUICK


@functools.cache
def _composed(*overrides: str) -> Any:
    from dqn_runner.composing.command import Command
    from dqn_runner.config.root import parse

    # An experiment chooses its agent, unless the command line does.
    chooses = any(override.startswith("experiment=") for override in overrides)
    quick = [line for line in QUICK if not (chooses and line.startswith("agent="))]
    (job,) = Command([*quick, *overrides]).jobs
    return parse(job.config)


@pytest.fixture(scope="session")
def compose() -> Callable[..., Any]:
    """The checked configuration of a short run with these overrides."""
    return _composed


@pytest.fixture
def curves_for_swanlab(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run draws its curve, which takes longer than all the rest, only if SwanLab shows it."""
    from dqn_runner.analysis import draw_curve

    def draw_for_swanlab(metrics: Path, target: Path) -> None:
        if (target.parent / "swanlab").exists():
            draw_curve(metrics, target)

    monkeypatch.setattr("dqn_runner.runs.lifecycle.draw_curve", draw_for_swanlab)


@pytest.fixture
def train(
    curves_for_swanlab: None, tmp_path: Path, compose: Callable[..., Any]
) -> Callable[..., Path]:
    """Train a short run in tmp_path/name, without the command line; returns its directory."""

    def train(name: str, *overrides: str) -> Path:
        from rich.console import Console

        from dqn_runner.runs.lifecycle import run

        path = tmp_path / name
        path.mkdir()
        run(compose(*overrides), path, Console(quiet=True))
        return path

    return train


@pytest.fixture
def command(
    curves_for_swanlab: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Outcome]:
    """dqn-train in process, called from the empty directory tmp_path/cwd."""
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    monkeypatch.chdir(cwd)
    # Running in a new directory adds it to the path, for classes of the user's own.
    monkeypatch.setattr(sys, "path", list(sys.path))

    def command(*arguments: str) -> Outcome:
        from dqn_runner.program import guarded
        from dqn_runner.train import command_line

        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["dqn-train", *arguments])
        code = guarded("dqn-train", command_line, list(arguments))
        return Outcome(code, *capsys.readouterr())

    return command


@pytest.fixture
def process(tmp_path: Path) -> Callable[..., AbstractContextManager[subprocess.Popen[str]]]:
    """dqn-train as a process of its own, killed where the test leaves it running."""

    @contextmanager
    def process(*arguments: str, cwd: Path = tmp_path) -> Iterator[subprocess.Popen[str]]:
        child = subprocess.Popen(
            [sys.executable, "-c", "from dqn_runner.train import main; main()", *arguments],
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield child
        finally:
            if child.poll() is None:
                child.kill()
            child.communicate()

    return process


@pytest.fixture(scope="session")
def records() -> Callable[[Path], list[Any]]:
    """Reads the records of a SwanLab file."""

    from dqn_runner.swanlab_internals.client import read_records

    return read_records


@pytest.fixture
def cache_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what would be compiled; nothing is, and the cache is empty."""
    from dqn_runner.learning import compilation

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names: list[str] = []

    def note(graph: object, example: object, library: Path) -> None:
        names.append(library.name)
        raise RuntimeError("not compiled in this test")

    monkeypatch.setattr(compilation, "_compile", note)
    return names
