"""What goes wrong in a run ends in one line, a saved state and a non-zero code."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from watching import rows_without_clock

from dqn_runner.runs.metrics_file import read_metrics
from dqn_runner.train import command_line

FAILING_STEP = 150


class Failing(gym.Wrapper):
    """CartPole that does something bad at one step, counted over episodes."""

    def __init__(self, env, how):
        super().__init__(env)
        self.how, self.steps = how, 0

    def step(self, action):
        obs, reward, *rest = self.env.step(action)
        self.steps += 1
        if self.steps == FAILING_STEP:
            match self.how:
                case "raises":
                    raise ZeroDivisionError("of its own")
                case "exits":
                    sys.exit(0)
                case "hangs":
                    time.sleep(60)
                case "nan observation":
                    obs = np.full_like(obs, np.nan)
                case "wrong shape":
                    obs = obs[:3]
                case "a scalar":
                    obs = np.float32(0.0)
                case "nan reward":
                    reward = float("nan")
                case "infinite reward":
                    reward = float("inf")
        return obs, reward, *rest


@functools.cache
def uninterrupted(settings: tuple[str, ...]) -> list[dict[str, float]]:
    """The rows of a run with these settings in which nothing goes wrong."""
    assert command_line([*settings, failing("nothing"), "hydra.run.dir=uninterrupted"]) == 0
    return rows_without_clock(Path("uninterrupted"))


def failing(how: str) -> str:
    return f"env.wrappers=[{{name: '{__name__}:Failing', how: {how}}}]"


@pytest.mark.parametrize(
    ("how", "saying"),
    [
        ("raises", "ZeroDivisionError: of its own"),
        ("exits", "SystemExit: 0"),
        ("hangs", "TimeoutError: it took longer than env.max_step_seconds=0.2"),
        ("nan observation", "an observation that is not finite"),
        ("wrong shape", "ValueError: an observation of shape (3,), not (4,)"),
        ("a scalar", "ValueError: an observation of shape (), not (4,)"),
        ("nan reward", "a reward of nan"),
        ("infinite reward", "a reward of inf"),
    ],
)
@pytest.mark.parametrize("num_envs", [1, 2])
def test_a_failing_environment(command, quick, monkeypatch, how, saying, num_envs):
    settings = (*quick, "eval.interval=null", f"num_envs={num_envs}", "total_timesteps=400",
                "train_frequency=4")  # fmt: skip
    limit = "env.max_step_seconds=0.2" if how == "hangs" else "env.max_step_seconds=null"
    outcome = command(*settings, limit, failing(how), "hydra.run.dir=run")
    assert outcome.code == 1
    assert outcome.err.startswith("dqn-train: error: ")
    assert "environment 0 failed at step" in outcome.err
    assert saying in outcome.err
    assert outcome.err.count("\n") == 1
    assert not Path("run/result.json").exists()
    # The last checkpoint is from before, and a run whose environment recovers goes on from there
    # as if nothing had happened.
    saved = torch.load("run/checkpoints/last.pt", weights_only=True)
    assert saved["env_steps"] == (FAILING_STEP - 1) * num_envs // 100 * 100
    monkeypatch.setattr(sys.modules[__name__], "FAILING_STEP", 10**9)
    assert command("resume=run", "--trust").code == 0
    assert rows_without_clock(Path("run")) == uninterrupted(settings)


class ExitingNetwork(torch.nn.Linear):
    """Exits with code 0 when it is made, or when it is called for the 120th time in a run."""

    def __init__(self, obs_shape, num_actions, when):
        if when == "made":
            sys.exit(0)
        super().__init__(obs_shape[0], num_actions)
        self.calls = 0

    def forward(self, obs):
        self.calls += 1
        if self.calls == 120:
            sys.exit(0)
        return super().forward(obs)


class ExitingSchedule:
    """Exits with code 0 when it is made, or at env step 120."""

    def __init__(self, when):
        if when == "made":
            sys.exit(0)

    def __call__(self, env_steps, episodes):
        return sys.exit(0) if env_steps == 120 else 0.5


@pytest.mark.parametrize("when", ["made", "called"])
@pytest.mark.parametrize(
    ("group", "name", "saying"),
    [
        ("network", "ExitingNetwork", "the network ExitingNetwork failed: SystemExit: 0"),
        (
            "epsilon",
            "ExitingSchedule",
            f"epsilon.name={__name__}:ExitingSchedule: failed at env step 120: SystemExit: 0",
        ),
    ],
)
def test_a_class_of_the_users_own_that_exits(command, quick, group, name, saying, when):
    settings = [f"~{group}", f"+{group}.name={__name__}:{name}", f"+{group}.when={when}"]
    outcome = command(*quick, *settings, "hydra.run.dir=run")
    # A network is made once before anything is written.
    assert outcome.code == (2 if (group, when) == ("network", "made") else 1)
    assert outcome.err.count("\n") == 1
    made = f"{group}.name={__name__}:{name}: SystemExit: 0"
    assert outcome.err.endswith((made if when == "made" else saying) + "\n")
    assert not Path("run/result.json").exists()


def test_a_warning_of_gymnasium_is_one_line_of_ours(command, quick):
    outcome = command(*quick, "env.id=CartPole", "hydra.run.dir=run")
    assert outcome.code == 0
    (line,) = outcome.err.splitlines()
    assert line.startswith("dqn-train: WARNING: env.id=CartPole: Using the latest versioned")
    assert Path("run/train.log").read_text().count("Using the latest versioned") == 1
    outcome = command(*quick, "env.id=CartPole", "+env.kwargs.nosuch=1")
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert line.startswith("dqn-train: error: env.id=CartPole: TypeError: ")


def test_a_failing_evaluation(command, quick, monkeypatch):
    from dqn_runner.training import evaluation

    def play(*_):
        raise ZeroDivisionError("of its own")

    monkeypatch.setattr(evaluation.Evaluator, "_play", play)
    outcome = command(*quick, "hydra.run.dir=run")
    assert outcome.code == 1
    assert "an evaluation failed: ZeroDivisionError: of its own" in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_loss_that_is_no_number(command, quick):
    settings = ["agent.optimizer.name=sgd", "agent.lr=1e30", "agent.max_grad_norm=null"]
    outcome = command(*quick, *settings, "agent.loss=mse", "hydra.run.dir=run")
    assert outcome.code == 1
    assert "learning diverged before env step 100" in outcome.err
    assert "try a smaller agent.lr" in outcome.err
    assert outcome.err.count("\n") == 1
    for row in read_metrics(Path("run/metrics.jsonl")):
        assert all(np.isfinite(value) for value in row.values())


def test_a_diverged_network_is_never_the_last_checkpoint(command, quick):
    settings = ["agent.optimizer.name=sgd", "agent.lr=1e30", "agent.max_grad_norm=null"]
    often = ["checkpoint.interval=10", "log.interval=null", "eval.interval=null"]
    outcome = command(*quick, *settings, *often, "agent.loss=mse", "hydra.run.dir=run")
    assert (outcome.code, "learning diverged" in outcome.err) == (1, True)
    saved = torch.load("run/checkpoints/last.pt", weights_only=True)
    assert torch.isfinite(saved["agent"]["params"]).all()


def test_a_buffer_larger_than_memory_is_refused_with_its_bytes(command):
    outcome = command("buffer.capacity=1000000000000")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("dqn-train: error: buffer.capacity=1000000000000: takes 48.0 TB")
    assert not Path("outputs").exists()


def test_a_buffer_larger_than_memory_is_refused_before_a_sweep_begins(command, quick):
    outcome = command("-m", *quick, "buffer.capacity=1000,1000000000000", "hydra.sweep.dir=sweep")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("dqn-train: error: buffer.capacity=1000000000000: takes 48.0 TB")
    assert not Path("sweep").exists()


def test_one_failing_job_leaves_the_others_of_a_sweep_alone(command, quick):
    outcome = command(
        "-m", *quick, "agent.optimizer.name=sgd", "agent.max_grad_norm=null", "agent.loss=mse",
        "agent.lr=1e30,1e-3", "hydra.sweep.dir=sweep",
    )  # fmt: skip
    assert outcome.code == 1
    assert outcome.err.count("dqn-train: error: ") == 1
    results = [path.parent.name for path in Path("sweep").glob("*/result.json")]
    assert results == ["agent.lr=0.001"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 kB."""
    path = tmp_path / "disk"
    path.mkdir()
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mounting = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(path)]
    if subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_disk(small_disk, quick):
    settings = [*quick, "total_timesteps=20000", "buffer.capacity=20000", "checkpoint.interval=500",
                "network.hidden_sizes=[32]"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", "from dqn_runner.train import main; main()", *settings,
         f"hydra.run.dir={small_disk}/run"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "dqn-train: error" in line]
    assert "No space left on device" in line
    assert "Traceback" not in done.stderr
    # The last checkpoint is whole.
    from dqn_runner.training.checkpoint import Checkpoints

    state = Checkpoints(small_disk / "run" / "checkpoints").load_last()
    assert state is not None
    assert state["env_steps"] >= 500
    assert json.loads((small_disk / "run" / "metrics.jsonl").read_text().splitlines()[0])
