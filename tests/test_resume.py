"""A run that was killed at any moment and resumed ends bit for bit as if nothing had happened."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from rich.console import Console
from watching import rows_without_clock

from dqn_runner import checkpoint as checkpoint_module
from dqn_runner import run as run_module
from dqn_runner.envs import Environments
from dqn_runner.errors import ConfigError, RunError
from dqn_runner.run import resume, run
from dqn_runner.run_directory import RunDirectory
from dqn_runner.tracking import read_metrics

# What the kills are tried on; each run has about 300 env steps and a checkpoint every 60.
KINDS = {
    "defaults": [],
    "four environments": ["num_envs=4", "train_frequency=2"],
    "small buffer": ["buffer.capacity=64", "agent.optimizer.name=rmsprop"],
    "acrobot": ["env=acrobot", "+env.kwargs.max_episode_steps=50", "num_envs=4"],
    "lunarlander": ["env=lunarlander", "total_timesteps=200"],
    "frozen lake": ["env.id=FrozenLake-v1", "target_update=hard", "target_update.unit=update"],
    "softmax": ["agent.behaviour=softmax", "num_envs=2", "eval.unit=episode", "eval.interval=2"],
    "sarsa in phases": [
        "agent.td_target=sarsa", "agent.double=false", "agent.n_step=1", "phase.episodes=3",
        "phase.epochs=2", "learning_starts=0",
    ],
    "mountaincar": ["env=mountaincar", "num_envs=4", "target_update=hard"],
    "hands_on_rl": ["experiment=hands_on_rl"],
    "joyrl": ["experiment=joyrl"],
    "pytorch_tutorial": ["experiment=pytorch_tutorial"],
    "lunarlander_sarsa": ["experiment=lunarlander_sarsa", "learning_starts=0", "phase.episodes=2"],
    "swanlab_cartpole": ["experiment=swanlab_cartpole", "eval.interval=2"],
    "per-episode epsilon": ["epsilon=multiplicative", "total_timesteps=null", "total_episodes=12"],
}  # fmt: skip
COMMON = ["checkpoint.interval=60", "eval.interval=70", "log.interval=40"]


class Killed(BaseException):
    """Stands for SIGKILL within this process: nothing handles it."""


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch):
    monkeypatch.setattr(run_module, "draw_curve", lambda _, target: target.touch())


@pytest.fixture
def start(tmp_path, compose):
    """Begin a run in tmp_path/name."""

    def start(name: str, *overrides: str) -> Path:
        path = tmp_path / name
        run(compose(*COMMON, *overrides), path, Console(quiet=True))
        return path

    return start


def go_on(path: Path, **budgets: int) -> None:
    resume(path, budgets, Console(quiet=True))


def kill_at_step(patch: pytest.MonkeyPatch, number: int) -> None:
    """Let the environments' step `number` from now on be the last thing that happens."""
    real, calls = Environments.step, [0]

    def step(self, action):
        calls[0] += 1
        if calls[0] == number:
            raise Killed
        return real(self, action)

    patch.setattr(Environments, "step", step)


def killed_at_step(number: int, action: Callable[..., object], *arguments: object) -> None:
    """Do `action`, and be killed at the environments' step `number`."""
    with pytest.MonkeyPatch.context() as patch:
        kill_at_step(patch, number)
        with pytest.raises(Killed):
            action(*arguments)


def assert_same(value: object, other: object) -> None:
    if isinstance(value, torch.Tensor):
        assert torch.equal(value, other)
    elif isinstance(value, dict):
        assert value.keys() == other.keys()
        for key in value:
            if key != "elapsed_seconds":
                assert_same(value[key], other[key])
    elif isinstance(value, list | tuple):
        assert len(value) == len(other)
        for pair in zip(value, other, strict=True):
            assert_same(*pair)
    else:
        assert value == other


def replay_of(path: Path) -> list[torch.Tensor]:
    """The stored transitions in their order, put together from the chunks."""
    replay = torch.load(path / "checkpoints" / "last.pt", weights_only=True)["replay"]
    columns = []
    for first, last, _ in replay["chunks"]:
        content = torch.load(path / "checkpoints" / "replay" / f"{first}-{last}.pt")
        skip = max(0, replay["num_added"] - replay["size"] - first)
        columns.append([column[skip:] for column in content["columns"]])
    return [torch.cat(pieces) for pieces in zip(*columns, strict=True)]


def assert_same_runs(path: Path, other: Path) -> None:
    assert rows_without_clock(path) == rows_without_clock(other)
    for name in ("last.pt", "best.pt"):
        states = [torch.load(p / "checkpoints" / name, weights_only=True) for p in (path, other)]
        for state in states:
            state.get("replay", {}).pop("chunks", None)  # how it is cut into files may differ
        assert_same(*states)
    assert_same(replay_of(path), replay_of(other))
    results = [json.loads((p / "result.json").read_text()) for p in (path, other)]
    assert results[0]["final"] == results[1]["final"]
    assert results[0]["best"] == results[1]["best"]


@pytest.mark.parametrize("kind", KINDS)
def test_killed_twice_and_resumed_equals_uninterrupted(start, compose, kind):
    reference = start("reference", *KINDS[kind])
    env_steps = json.loads((reference / "result.json").read_text())["env_steps"]
    steps = env_steps // compose(*KINDS[kind]).num_envs
    rng, killed = random.Random(kind), reference.parent / "killed"
    killed_at_step(rng.randint(steps // 3, steps // 2), start, "killed", *KINDS[kind])
    assert (killed / "checkpoints" / "last.pt").exists()
    killed_at_step(rng.randint(2, steps // 3), go_on, killed)
    go_on(killed)
    assert_same_runs(killed, reference)


def test_a_stop_between_checkpoints_loses_nothing(start, monkeypatch):
    reference = start("reference")
    real, calls = run_module.StopSignals.check, [0]

    def check(self):
        calls[0] += 1
        if calls[0] == 137:
            signal.raise_signal(signal.SIGTERM)
        real(self)

    monkeypatch.setattr(run_module.StopSignals, "check", check)
    with pytest.raises(run_module.Stopped):
        start("stopped")
    stopped = reference.parent / "stopped"
    assert torch.load(stopped / "checkpoints" / "last.pt")["env_steps"] == 136
    assert not (stopped / "result.json").exists()
    go_on(stopped)
    assert_same_runs(stopped, reference)


def test_a_kill_in_the_final_evaluation_loses_no_training(start, monkeypatch):
    reference = start("reference")
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "score", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            start("killed")
    killed = reference.parent / "killed"
    kill_at_step(monkeypatch, 1)  # no step of training is taken again
    go_on(killed)
    assert_same_runs(killed, reference)


OPERATIONS = ("open", "write", "fsync", "replace", "unlink")


def kill_at_operation(patch, number: int) -> list[str]:
    """Be killed at file operation `number` of the checkpoints; returns the list of those done."""
    done: list[str] = []

    def counted(name, function):
        def call(*args, **kwargs):
            done.append(name)
            if len(done) == number:
                raise Killed
            return function(*args, **kwargs)

        return call

    real_open = Path.open

    def open_and_count(self, mode="r", *args, **kwargs):
        file = real_open(self, mode, *args, **kwargs)
        if mode == "wb" and self.name.endswith(".partial"):
            done.append("open")
            if len(done) == number:
                file.close()
                raise Killed
            real_write = file.write

            class Torn:
                def __enter__(self):
                    return self

                def __exit__(self, *_):
                    file.close()

                def write(self, content):
                    done.append("write")
                    if len(done) == number:
                        real_write(bytes(content)[: len(content) // 2])
                        raise Killed
                    return real_write(content)

                def __getattr__(self, name):
                    return getattr(file, name)

            return Torn()
        return file

    patch.setattr(Path, "open", open_and_count)
    for name in ("fsync", "replace"):
        patch.setattr(checkpoint_module.os, name, counted(name, getattr(os, name)))
    patch.setattr(Path, "unlink", counted("unlink", Path.unlink))
    return done


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 5])
def test_a_kill_at_any_operation_of_a_checkpoint(start, monkeypatch, tmp_path, every):
    reference = start("reference", "total_timesteps=200", "buffer.capacity=64")
    with monkeypatch.context() as patch:
        done = kill_at_operation(patch, 10**9)
        start("counted", "total_timesteps=200", "buffer.capacity=64")
    assert set(done) == set(OPERATIONS)
    for number in range(1, len(done) + 1, every):
        name = f"killed at {number}"
        with monkeypatch.context() as patch:
            kill_at_operation(patch, number)
            with pytest.raises(Killed):
                start(name, "total_timesteps=200", "buffer.capacity=64")
        if not (tmp_path / name / "config.yaml").exists():  # killed before it began
            start(name, "total_timesteps=200", "buffer.capacity=64")
        elif not (tmp_path / name / "result.json").exists():  # else killed when all was done
            go_on(tmp_path / name)
        assert_same_runs(tmp_path / name, reference)


def test_a_damaged_last_checkpoint_is_passed_over(start, monkeypatch, caplog):
    reference = start("reference")
    killed_at_step(200, start, "killed")
    killed = reference.parent / "killed"
    last = killed / "checkpoints" / "last.pt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    go_on(killed)
    assert "last.pt: damaged" in caplog.text
    assert_same_runs(killed, reference)


def test_a_damaged_replay_chunk_is_passed_over(start, monkeypatch, caplog):
    reference = start("reference")
    killed_at_step(200, start, "killed")
    killed = reference.parent / "killed"
    newest = max((killed / "checkpoints" / "replay").iterdir(), key=lambda p: p.stat().st_mtime_ns)
    newest.write_bytes(b"nothing")
    go_on(killed)
    assert f"{newest}: damaged" in caplog.text
    assert_same_runs(killed, reference)


def test_both_checkpoints_damaged_is_an_error(start, monkeypatch, tmp_path):
    killed_at_step(200, start, "killed")
    for name in ("last.pt", "previous.pt"):
        (tmp_path / "killed" / "checkpoints" / name).write_bytes(b"nothing")
    with pytest.raises(RunError, match=r"previous\.pt: damaged"):
        go_on(tmp_path / "killed")


def test_a_finished_run_can_be_extended(start):
    longer = start("longer", "total_timesteps=480")
    run_dir = start("extended", "total_timesteps=240")
    with pytest.raises(ConfigError, match="has finished"):
        go_on(run_dir)
    with pytest.raises(
        ConfigError, match="total_timesteps=200: must be more than the run had, 240"
    ):
        go_on(run_dir, total_timesteps=200)
    go_on(run_dir, total_timesteps=480)
    assert_same_runs(run_dir, longer)
    assert "total_timesteps: 480" in (run_dir / "config.yaml").read_text()


def test_the_budget_that_ended_a_run_is_the_one_that_extends_it(start):
    episodes = start("episodes", "total_timesteps=null", "total_episodes=8")
    with pytest.raises(ConfigError, match="has finished; a larger total_episodes extends it"):
        go_on(episodes)
    with pytest.raises(
        ConfigError, match="total_timesteps=999: the run has none; a larger total_episodes"
    ):
        go_on(episodes, total_timesteps=999)
    both = start("both", "total_timesteps=100000", "total_episodes=8")
    for budgets in ({}, {"total_timesteps": 200000}):
        with pytest.raises(ConfigError, match="has finished; a larger total_episodes extends it"):
            go_on(both, **budgets)
    go_on(both, total_episodes=9)
    assert json.loads((both / "result.json").read_text())["episodes"] == 9


@pytest.mark.parametrize("budget", ["4e2", "4_00", "400.0"])
def test_a_budget_is_written_as_elsewhere(command, quick, budget):
    assert command(*quick, "hydra.run.dir=run").code == 0
    outcome = command("resume=run", f"total_timesteps={budget}")
    assert outcome.code == 0, outcome.err
    assert json.loads(Path("run/result.json").read_text())["env_steps"] == 400


def test_a_folder_of_runs_names_the_newest(command):
    for number in range(5):
        run_dir = RunDirectory(Path(f"outputs/sweeps/a/seed={number}"))
        run_dir.path.mkdir(parents=True)
        run_dir.start({})
        run_dir.metrics.touch()
        os.utime(run_dir.config, (number, number))
    Path("outputs/b/.hydra").mkdir(parents=True)  # which failed before it began
    newest = ", ".join(f"outputs/sweeps/a/seed={number}" for number in (4, 3, 2))
    assert command("resume=outputs").err == (
        "dqn-train: error: resume=outputs: holds no run: it has no config.yaml; the newest of the "
        f"5 runs below it: {newest}\n"
    )


def test_torn_and_late_rows_are_cut(start, monkeypatch, tmp_path):
    reference = start("reference")
    killed_at_step(200, start, "killed")
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
        file.write('{"env_steps": 199, "train/')
    go_on(tmp_path / "killed")
    assert rows_without_clock(tmp_path / "killed") == rows_without_clock(reference)


class Restless(gym.Wrapper):
    """An environment that never plays the same episode twice."""

    def step(self, action):
        obs, *rest = self.env.step(action)
        return obs + np.float32(random.random() * 1e-3), *rest


def test_an_environment_that_is_not_deterministic_begins_a_new_episode(
    start, monkeypatch, caplog, tmp_path
):
    killed_at_step(200, start, "killed", f"env.wrappers=[{__name__}:Restless]")
    resume(tmp_path / "killed", {}, Console(quiet=True), trust=True)
    assert "environment 0 is not deterministic" in caplog.text
    assert (tmp_path / "killed" / "result.json").exists()


def test_swanlab_shows_one_continuous_history(start, records, tmp_path):
    killed_at_step(200, start, "killed", "tracker.mode=offline")
    killed_at_step(40, go_on, tmp_path / "killed")
    go_on(tmp_path / "killed")
    (store,) = (tmp_path / "killed" / "swanlab").glob("run-*/run-*.swanlab")
    stored = records(store)
    logged = [(r.scalar.step, r.scalar.key, r.scalar.value.number) for r in stored
              if r.HasField("scalar")]  # fmt: skip
    expected = [
        (row["env_steps"], name, value)
        for row in read_metrics(tmp_path / "killed" / "metrics.jsonl")
        for name, value in row.items()
        if "/" in name
    ]
    assert sorted(logged) == sorted(expected)


def test_two_processes_on_one_run_directory(start, tmp_path, monkeypatch):
    killed_at_step(200, start, "killed")
    other = RunDirectory(tmp_path / "killed")
    other.claim()
    with pytest.raises(RunError, match="another process is at work"):
        go_on(tmp_path / "killed")
    other.close()
    go_on(tmp_path / "killed")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["resume=nowhere"], "resume=nowhere: no such run directory"),
        (["resume=.", "agent.lr=1"], "agent.lr=1: beside resume only a larger total_timesteps or"),
        (["resume=.", "total_timesteps=many"], "total_timesteps=many: beside resume only"),
        (["resume=."], "resume=.: holds no run"),
        (["resume="], "resume=: must name a run directory"),
        (["resume=", "total_timesteps=9"], "resume=: must name a run directory"),
        (["resume=.", "-m"], "-m: beside resume only a larger total_timesteps or"),
    ],
)
def test_bad_input_to_resume_is_a_line(command, arguments, line):
    outcome = command(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"dqn-train: error: {line}")
    assert outcome.err.count("\n") == 1


def command_of(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from dqn_runner.train import main; main()", *arguments]


def killed_after(seconds: float, cwd: Path, *arguments: str) -> int:
    """Run dqn-train, kill it after `seconds`; returns its exit code."""
    child = subprocess.Popen(
        command_of(*arguments), cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
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
            arguments = ["resume=killed"]
    else:
        assert killed_after(1000.0, cwd, *arguments) == 0
    assert_same_runs(cwd / "killed", cwd / "reference")


def settings_of(kind: str, quick: tuple[str, ...]) -> list[str]:
    budget = "total_episodes=150" if kind == "per-episode epsilon" else "total_timesteps=6000"
    return [*quick, *COMMON, *KINDS[kind], budget, "tracker.mode=offline"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
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
