"""The benchmark runs and prints its tables; what it measures is no matter of tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SPEED = Path(__file__).parents[1] / "benchmarks" / "speed.py"


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
