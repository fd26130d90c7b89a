"""Environments in processes of their own do what they do in the process that trains."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import psutil
import pytest
from watching import rows_without_clock, wait_for

from dqn_runner.envs import processes
from dqn_runner.envs.atari import AtariSpec
from dqn_runner.envs.make import EnvSpec, make_player
from dqn_runner.envs.processes import PlayerProcess
from dqn_runner.envs.vector import Environments
from dqn_runner.errors import ConfigError, EnvironmentFailedError

BREAKOUT = {"game": "breakout", "preset": "dqn_2015", "frame_stack": 4}


class Odd(gym.Wrapper):
    """CartPole that does something bad when it is made, reset, or stepped for the third time.

    Or it waits in each step until `where` holds as many files as there are environments.
    """

    def __init__(self, env, how, where="", num_envs=0):
        super().__init__(env)
        self.how, self.where, self.num_envs, self.steps = how, Path(where), num_envs, 0
        self.do("in make")

    def do(self, when):
        if self.how == f"raises {when}":
            raise ZeroDivisionError("of its own")
        if self.how == f"is killed {when}":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == f"hangs {when}":
            time.sleep(1000)

    def reset(self, **kwargs):
        self.do("in reset")
        return self.env.reset(**kwargs)

    def step(self, action):
        self.steps += 1
        if self.steps == 3:
            self.do("in step")
        if self.how == "waits for the others":
            (self.where / str(os.getpid())).touch()
            wait_for(lambda: len(list(self.where.iterdir())) == self.num_envs)
        return self.env.step(action)


def environments(spec, num_envs, seed=0, *, own_processes=True):
    make: Any = functools.partial(make_player, spec, training=True)
    if own_processes:
        make = functools.partial(PlayerProcess, make)
    return Environments(make, num_envs, np.random.default_rng(seed))


def odd(how, **settings):
    wrapper = {"name": f"{__name__}:Odd", "how": how, **settings}
    limit = 1.0 if "hangs" in how else 30.0
    return EnvSpec(id="CartPole-v1", wrappers=[wrapper], max_step_seconds=limit)


def assert_same(step, other):
    """That all that two steps hold is equal."""
    for one, two in zip(step, other, strict=True):
        if isinstance(one, np.ndarray):
            np.testing.assert_array_equal(one, two)
        else:
            assert one == two


@pytest.mark.parametrize(
    ("spec", "num_envs", "num_steps"),
    [
        (EnvSpec(id="CartPole-v1", frame_stack=3), 2, 100),
        (EnvSpec(id="Taxi-v4", action_masks=True, kwargs={"max_episode_steps": 30}), 1, 70),
        (AtariSpec.model_validate(BREAKOUT), 1, 150),
    ],
    ids=["stacks", "masks", "lives"],
)
def test_they_see_and_replay_the_same(spec, num_envs, num_steps):
    ours = environments(spec, num_envs)
    theirs = environments(spec, num_envs, own_processes=False)
    rng, ended = np.random.default_rng(1), 0
    for _ in range(num_steps):
        np.testing.assert_array_equal(ours.obs, theirs.obs)
        action = rng.integers(4 if spec.id != "CartPole-v1" else 2, size=num_envs).tolist()
        step = theirs.step(action)
        assert_same(ours.step(action), step)
        ended += len(step.episodes)
    assert ended
    other = environments(spec, num_envs, seed=1)
    assert other.set_state(theirs.get_state()) == []
    assert_same(other.step(action), theirs.step(action))
    for each in (ours, theirs, other):
        each.close()


def test_they_are_stepped_at_the_same_time(tmp_path):
    together = environments(odd("waits for the others", where=str(tmp_path), num_envs=3), 3)
    together.step([0, 1, 0])
    together.close()
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    ("how", "saying"),
    [
        ("raises in step", "step: ZeroDivisionError: of its own"),
        ("is killed in step", "step: its process has ended, with exit code -9"),
        ("hangs in step", "step: TimeoutError: it took longer than env.max_step_seconds=1"),
    ],
)
def test_a_failure_is_told_as_in_the_process_that_trains(how, saying):
    failing = environments(odd(how), 1)
    failing.step([0])
    failing.step([1])
    seed = failing.get_state()["seeds"][0]
    with pytest.raises(EnvironmentFailedError) as caught:
        failing.step([0])
    failing.close()
    assert str(caught.value) == (
        f"environment 0 failed at step 2 of the episode with seed {seed}, in {saying}"
    )
    if "killed" not in how:  # the log has where it came from
        assert "in step" in "".join(caught.value.__notes__)


@pytest.mark.parametrize(
    ("how", "error", "saying"),
    [
        ("raises in make", ConfigError, "ZeroDivisionError: of its own"),
        ("is killed in make", EnvironmentFailedError,
         "environment 0 could not be made: its process has ended, with exit code -9"),
        ("raises in reset", EnvironmentFailedError, "in reset: ZeroDivisionError: of its own"),
        ("is killed in reset", EnvironmentFailedError,
         "in reset: its process has ended, with exit code -9"),
    ],
)  # fmt: skip
def test_a_failure_before_the_first_step(how, error, saying):
    with pytest.raises(error, match=saying):
        environments(odd(how), 2)


def test_an_environment_that_hangs_is_killed_when_it_is_closed(monkeypatch):
    monkeypatch.setattr(processes, "SECONDS_TO_END", 0.2)
    spec = odd("hangs in step").model_copy(update={"max_step_seconds": None})
    player = PlayerProcess(functools.partial(make_player, spec), "environment 0")
    player.reset(0, np.zeros(4, np.float32))
    for action in (0, 1):
        player.step(action, np.zeros(4, np.float32))
    player.begin(0)
    child = psutil.Process(player._process.pid)
    player.close()
    player.close()  # once more does nothing
    assert not child.is_running()


def test_a_run_with_processes_is_the_run_without(train):
    paths = [
        train(name, f"env.vectorization={name}", "num_envs=2", "total_timesteps=200")
        for name in ("sync", "processes")
    ]
    rows, others = map(rows_without_clock, paths)
    assert rows == others


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGKILL])
def test_they_end_with_the_run(tmp_path, quick, signal_number):
    """After Ctrl-C, which the terminal sends to all of them, the run saves what it has."""
    settings = [*quick, "env.vectorization=processes", "num_envs=2", "total_timesteps=10000000"]
    run = subprocess.Popen(
        [sys.executable, "-c", "from dqn_runner.train import main; main()", *settings,
         "eval.interval=null", f"hydra.run.dir={tmp_path}/run"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (tmp_path / "run/checkpoints/last.pt").exists():
        assert time.monotonic() < deadline
        assert run.poll() is None, run.communicate()[1]
        time.sleep(0.1)
    children = psutil.Process(run.pid).children(recursive=True)
    assert len([child for child in children if "serve()" in " ".join(child.cmdline())]) == 2
    os.killpg(run.pid, signal_number) if signal_number == signal.SIGINT else run.kill()
    _, err = run.communicate(timeout=60)
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    if signal_number == signal.SIGINT:
        assert run.returncode == 130
        assert "Traceback" not in err
        assert "failed" not in err
