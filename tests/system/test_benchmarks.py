"""The benchmarks run and print their tables; what they measure is no matter of tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SPEED = BENCHMARKS / "speed.py"


@pytest.mark.slow
def test_the_benchmark_runs_with_a_tiny_budget():
    finished = subprocess.run(
        [
            sys.executable,
            SPEED,
            "--no-peers",
            "--steps=1000",
            "--peer-steps=1000",
            "--repeats=1",
            "--default-steps=1000",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    for row in (
        "dqn_runner, compile=never",
        "num_envs=8",
        "update",
        "an env step / floor",
        "periodic evaluation",
    ):
        assert row in finished.stdout


@pytest.mark.slow
def test_the_benchmark_of_agents_prints_a_table_for_the_page():
    finished = subprocess.run(
        [
            *(sys.executable, SPEED, "--agent=dqn,rainbow", "--no-peers"),
            *("--slice=200", "--steps=1000", "--repeats=1"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert "SwanLab failed" not in finished.stderr
    for start in ("| µs (median)", "| dqn, prioritized", "| rainbow", "| dqn_runner"):
        assert f"\n{start}" in finished.stdout


def test_the_benchmark_refuses_agents_that_it_does_not_know():
    finished = subprocess.run(
        [sys.executable, SPEED, "--agent=c51,ppo"], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 2
    assert "ppo is none of all, dqn, c51" in finished.stderr


def test_the_benchmark_of_replay_runs_on_few_items():
    replay = str(BENCHMARKS / "replay.py")
    finished = subprocess.run(
        [sys.executable, replay, "--items=1000", "--cycles=200", "--repeats=1", "--peers"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert "1,000 transitions on " in finished.stdout
    assert "ours" in finished.stdout
