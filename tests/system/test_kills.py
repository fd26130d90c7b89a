"""Processes that are killed at random moments, by a real `kill -9`, end as if nothing had happened.

In a file of its own, so that the other slow tests run beside it. Kills within a process, of every
kind of run, are in test_resume.py.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from resuming import COMMON, KINDS, assert_same_runs

# In these most of what a run keeps occurs.
KILLED = (
    *("defaults", "sarsa in phases", "resets and munchausen", "masks and sarsa"),
    *("rainbow: c51, prioritized, noisy, dueling", "frames, prioritized, cut short"),
    *("range found in the rewards", "per-episode epsilon"),
)
PATHS = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]  # some kinds need pixels.py


def killed_after(seconds: float, cwd: Path, *arguments: str) -> int:
    """Run dqn-train, kill it after `seconds`; returns its exit code."""
    child = subprocess.Popen(
        [sys.executable, "-c", "from dqn_runner.train import main; main()", *arguments],
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, PATHS))),
    )
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


def survive_kills(cwd: Path, settings: list[str], rng: random.Random, kills: int) -> None:
    """Kill a run `kills` times at random moments, resuming it each time; compare its end."""
    started = time.perf_counter()
    code = killed_after(1000.0, cwd, *settings, "hydra.run.dir=reference")
    seconds = time.perf_counter() - started
    assert code == 0
    arguments = [*settings, "hydra.run.dir=killed"]
    for _ in range(kills):
        code = killed_after(rng.uniform(0.3, 1.0) * seconds, cwd, *arguments)
        assert code in (0, -signal.SIGKILL)
        if (cwd / "killed" / "result.json").exists():
            break
        # Before its config.yaml is there a run has not begun, and is begun again.
        if (cwd / "killed" / "config.yaml").exists():
            arguments = ["resume=killed", "--trust"]
    else:
        assert killed_after(1000.0, cwd, *arguments) == 0
    assert_same_runs(cwd / "killed", cwd / "reference")


def settings_of(kind: str, quick: tuple[str, ...]) -> list[str]:
    """A run of some seconds: the longer it is, the fewer kills a minute."""
    budget = "total_episodes=75" if kind == "per-episode epsilon" else "total_timesteps=3000"
    return [*quick, *COMMON, *KINDS[kind], budget, "tracker.mode=offline"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KILLED)
def test_kill_minus_nine_at_random_moments(tmp_path, quick, kind):
    """Up to six kills of each kind of run."""
    survive_kills(tmp_path, settings_of(kind, quick), random.Random(kind), kills=6)


@pytest.mark.soak
def test_kill_minus_nine_for_as_long_as_given(tmp_path, quick):
    """For DQN_SOAK_MINUTES, an hour where that is not set."""
    rng = random.Random()
    end = time.monotonic() + 60 * float(os.environ.get("DQN_SOAK_MINUTES", "60"))
    for round_number in itertools.count():
        if time.monotonic() > end:
            return
        kind, seed = rng.choice(list(KINDS)), rng.randrange(1000)
        print(f"round {round_number}: {kind}, seed {seed}")
        (tmp_path / str(round_number)).mkdir()
        settings = [*settings_of(kind, quick), f"seed={seed}"]
        survive_kills(tmp_path / str(round_number), settings, rng, kills=10)
