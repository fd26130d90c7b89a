"""A run that was killed at any moment and resumed ends bit for bit as if nothing had happened."""

from __future__ import annotations

import functools
import itertools
import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from resuming import COMMON, GAMES, KINDS, Killed, assert_same_runs, kill_at_step
from rich.console import Console
from watching import rows_without_clock

from dqn_runner.buffers.frames import FrameStorage
from dqn_runner.envs.episode import EpisodePlayer
from dqn_runner.envs.vector import Environments
from dqn_runner.errors import ConfigError, RunError, Stopped
from dqn_runner.runs import lifecycle as run_module
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.runs.lifecycle import resume, run
from dqn_runner.runs.metrics_file import read_metrics
from dqn_runner.training import checkpoint as checkpoint_module
from dqn_runner.training.checkpoint import load
from dqn_runner.training.evaluation import Evaluator, never_stop


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


@pytest.fixture(scope="module")
def reference(tmp_path_factory, compose):
    """A finished run that was never interrupted; made once for all tests, which only read it."""

    @functools.cache
    def reference(*overrides: str) -> Path:
        path = tmp_path_factory.mktemp("reference") / "run"
        run(compose(*COMMON, *overrides), path, Console(quiet=True))
        return path

    return reference


@pytest.fixture
def finished(tmp_path, reference) -> Path:
    """A finished run of the test's own."""
    return shutil.copytree(reference(), tmp_path / "finished")


@pytest.fixture(scope="module")
def killed_once(tmp_path_factory, compose) -> Path:
    path = tmp_path_factory.mktemp("killed") / "run"
    killed_at_step(200, run, compose(*COMMON), path, Console(quiet=True))
    return path


@pytest.fixture
def killed(tmp_path, killed_once) -> Path:
    """A run of the test's own that was killed at env step 200."""
    return shutil.copytree(killed_once, tmp_path / "killed")


def go_on(path: Path, **budgets: int) -> None:
    resume(path, budgets, Console(quiet=True), trust=True)


def killed_at_step(number: int, action: Callable[..., object], *arguments: object) -> None:
    """Do `action`, and be killed at the environments' step `number`."""
    with pytest.MonkeyPatch.context() as patch:
        kill_at_step(patch, number)
        with pytest.raises(Killed):
            action(*arguments)


@pytest.mark.parametrize(
    "kind", [*KINDS, *(pytest.param(game, marks=pytest.mark.slow) for game in GAMES)]
)
def test_killed_twice_and_resumed_equals_uninterrupted(start, reference, compose, tmp_path, kind):
    settings = (KINDS | GAMES)[kind]
    uninterrupted = reference(*settings)
    env_steps = json.loads((uninterrupted / "result.json").read_text())["env_steps"]
    steps = env_steps // compose(*settings).num_envs
    rng, killed = random.Random(kind), tmp_path / "killed"
    killed_at_step(rng.randint(steps // 3, steps // 2), start, "killed", *settings)
    assert (killed / "checkpoints" / "last.pt").exists()
    killed_at_step(rng.randint(2, steps // 3), go_on, killed)
    go_on(killed)
    assert_same_runs(killed, uninterrupted)


def test_stacks_of_frames_go_on_where_they_were(start, tmp_path, monkeypatch):
    """Also when every step writes a piece, and the checkpoints are few."""
    monkeypatch.setattr(checkpoint_module, "PIECE", 1)
    monkeypatch.setattr("dqn_runner.training.loop.STEPS_BETWEEN_PIECES", 1)
    settings = [*KINDS["frames, prioritized, cut short"], "buffer.capacity=64", "num_envs=4"]
    uninterrupted, killed = start("uninterrupted", *settings), tmp_path / "killed"
    killed_at_step(33, start, "killed", *settings)
    killed_at_step(25, go_on, killed)
    go_on(killed)
    assert_same_runs(killed, uninterrupted)
    for ring in ("replay", "frames"):
        states = [load(killed / "checkpoints" / name) for name in ("last.pt", "previous.pt")]
        named = {f"{first}-{last}.pt" for s in states for first, last, _ in s[ring]["chunks"]}
        assert {file.name for file in (killed / "checkpoints" / ring).iterdir()} == named


def test_an_environment_that_strays_begins_a_new_stack(start, tmp_path, monkeypatch):
    killed, stack = tmp_path / "killed", ["env.wrappers=['pixels:Pixels']", "env.frame_stack=2"]
    killed_at_step(90, start, "killed", *stack, "agent.n_step=3")
    forgotten = []
    monkeypatch.setattr(Environments, "set_state", lambda self, _: [0])
    real = FrameStorage.forget

    def forget(self, i):
        forgotten.append(i)
        real(self, i)

    monkeypatch.setattr(FrameStorage, "forget", forget)
    go_on(killed)
    assert forgotten == [0]


@pytest.mark.parametrize("budgets", [{}, {"total_timesteps": 600}])
def test_a_finished_run_need_not_keep_its_replay(start, monkeypatch, budgets):
    """It is removed when there is a result, and not before; then nothing extends the run."""
    removed = []

    def remove(self):
        removed.append((self._folder.parent / "result.json").exists())
        return real(self)

    real = checkpoint_module.Checkpoints.remove_replay
    monkeypatch.setattr(checkpoint_module.Checkpoints, "remove_replay", remove)
    path = start("run", "checkpoint.keep_replay=until_finished", "env.wrappers=['pixels:Pixels']")
    assert removed == [True]
    left = {file.name for file in (path / "checkpoints").iterdir() if file.suffix != ".sha256"}
    assert left == {"last.pt", "previous.pt", "best.pt"}
    with pytest.raises(ConfigError, match=r"removed its transitions .* cannot be extended$"):
        go_on(path, **budgets)
    assert (path / "result.json").exists()


def test_a_stopped_run_keeps_its_replay(start, tmp_path):
    settings = ["checkpoint.keep_replay=until_finished"]
    killed_at_step(200, start, "killed", *settings)
    go_on(tmp_path / "killed")
    assert not (tmp_path / "killed" / "checkpoints" / "replay").exists()


def test_a_stop_between_checkpoints_loses_nothing(start, reference, monkeypatch, tmp_path):
    real, steps = Environments.step, [0]

    def step(self, action):
        steps[0] += 1
        if steps[0] == 136:
            signal.raise_signal(signal.SIGTERM)
        return real(self, action)

    with monkeypatch.context() as patch:
        patch.setattr(Environments, "step", step)
        with pytest.raises(Stopped):
            start("stopped")
    stopped = tmp_path / "stopped"
    assert torch.load(stopped / "checkpoints" / "last.pt")["env_steps"] == 136
    assert not (stopped / "result.json").exists()
    go_on(stopped)
    assert_same_runs(stopped, reference())


def stop_in_evaluation(
    patch: pytest.MonkeyPatch, number: int, stop: Callable[[], None]
) -> Callable[[], bool]:
    """Call `stop` at check 15 of evaluation `number` from now on.

    Returns what says whether that evaluation has been the last.
    """
    real, begun, ended = Evaluator.evaluate, [0], [0]

    def evaluate(self, policy, seeds, check_stop=never_stop):
        begun[0] += 1
        checks = itertools.count(1)

        def check():
            if begun[0] == number and next(checks) == 15:
                stop()
            check_stop()

        evaluation = real(self, policy, seeds, check)
        ended[0] += 1
        return evaluation

    patch.setattr(Evaluator, "evaluate", evaluate)
    return lambda: (begun[0], ended[0]) == (number, number - 1)


def one_signal() -> None:
    signal.raise_signal(signal.SIGTERM)


def two_signals() -> None:
    """The second one does not wait for a safe point."""
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    ("kind", "number", "stop"),
    [
        ("defaults", 2, one_signal),  # of rows and a checkpoint that are due at the same step
        ("defaults", 2, two_signals),
        ("defaults", 5, one_signal),  # of the last step
        ("four environments", 3, one_signal),
        ("softmax", 4, one_signal),
        ("sarsa in phases", 2, one_signal),
        ("per-episode epsilon", 3, one_signal),
    ],
)
def test_a_stop_in_an_evaluation_repeats_that_evaluation(
    start, reference, tmp_path, kind, number, stop
):
    """Twice in the same one: the seeds are drawn anew, and no training is lost."""
    settings = ["eval.interval=60", *KINDS[kind]]
    stopped = tmp_path / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        was_the_last = stop_in_evaluation(patch, number, stop)
        with pytest.raises(Stopped):
            start("stopped", *settings)
        assert was_the_last()
    with pytest.MonkeyPatch.context() as patch:
        was_the_last = stop_in_evaluation(patch, 1, stop)
        kill_at_step(patch, 1)  # no step of training is taken again
        with pytest.raises(Stopped):
            go_on(stopped)
        assert was_the_last()
    go_on(stopped)
    assert_same_runs(stopped, reference(*settings))


def films(path: Path) -> dict[str, int]:
    """The films of a run, and when they were made."""
    return {film.name: film.stat().st_mtime_ns for film in (path / "videos").iterdir()}


@pytest.mark.parametrize("kind", ["defaults", "softmax"])
def test_films_are_made_once_and_change_nothing(start, reference, records, tmp_path, kind):
    settings = [*KINDS[kind], "eval.unit=env_step", "eval.interval=70"]
    filming = [*settings, "eval.video_interval=100", "tracker.mode=offline"]
    killed = tmp_path / "killed"
    step = 220 // {"defaults": 1, "softmax": 2}[kind]
    killed_at_step(step, start, "killed", *filming)
    before = films(killed)
    go_on(killed)
    at = [140, 210] if kind != "four environments" else [140, 212]
    assert before.keys() == {f"eval_{n}.{ending}" for n in at for ending in ("gif", "mp4")}
    assert films(killed) == before  # the second is later than the checkpoint
    assert_same_runs(killed, reference(*settings))
    (store,) = (killed / "swanlab").glob("run-*/run-*.swanlab")
    media = [record.media for record in records(store) if record.HasField("media")]
    assert [entry.step for entry in media if entry.key == "eval/video"] == at


def test_a_stop_in_a_film_repeats_its_evaluation(start, reference, monkeypatch, tmp_path):
    real, pictures = EpisodePlayer.render, itertools.count(1)

    def render(self):
        if next(pictures) == 5:
            one_signal()
        return real(self)

    stopped = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(EpisodePlayer, "render", render)
        with pytest.raises(Stopped):
            start("stopped", "eval.video_interval=70")
    assert films(stopped) == {}
    assert torch.load(stopped / "checkpoints" / "last.pt")["env_steps"] == 70
    assert not any("eval/" in name for row in rows_without_clock(stopped) for name in row)
    go_on(stopped)
    assert {"eval_70.gif", "eval_280.gif"} <= films(stopped).keys()
    assert_same_runs(stopped, reference())


@pytest.mark.parametrize("number", [5, 6])
def test_a_stop_in_the_closing_evaluation_ends_with_the_same_result(
    start, reference, tmp_path, number
):
    """Of the final policy or of the best one, when four evaluations have been in training."""
    with pytest.MonkeyPatch.context() as patch:
        was_the_last = stop_in_evaluation(patch, number, one_signal)
        with pytest.raises(Stopped):
            start("stopped")
        assert was_the_last()
    stopped = tmp_path / "stopped"
    assert not (stopped / "result.json").exists()
    with pytest.MonkeyPatch.context() as patch:
        kill_at_step(patch, 1)  # no step of training is taken again
        go_on(stopped)
    assert_same_runs(stopped, reference())


def test_a_checkpoint_of_an_older_version_has_nothing_left_to_report(start, reference, tmp_path):
    killed_at_step(200, start, "killed", "eval.interval=60")
    killed = tmp_path / "killed"
    path = killed / "checkpoints" / "last.pt"
    state = torch.load(path, weights_only=True)
    for name in ("reported_env_steps", "reported_episodes"):
        del state["progress"][name]
    checkpoint_module.save(state, path)
    go_on(killed)
    assert_same_runs(killed, reference("eval.interval=60"))


def test_a_kill_in_the_final_evaluation_loses_no_training(start, reference, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "score", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            start("killed")
    killed = tmp_path / "killed"
    kill_at_step(monkeypatch, 1)  # no step of training is taken again
    go_on(killed)
    assert_same_runs(killed, reference())


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
        patch.setattr(os, name, counted(name, getattr(os, name)))
    patch.setattr(Path, "unlink", counted("unlink", Path.unlink))
    return done


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 9])
def test_a_kill_at_any_operation_of_a_checkpoint(start, monkeypatch, tmp_path, every):
    short = ("total_timesteps=200", "learning_starts=100", "buffer.capacity=64",
             "eval.num_episodes=1", "eval.final_episodes=1")  # fmt: skip
    reference = start("reference", *short)
    with monkeypatch.context() as patch:
        done = kill_at_operation(patch, 10**9)
        start("counted", *short)
    assert set(done) == set(OPERATIONS)
    for number in range(1, len(done) + 1, every):
        name = f"killed at {number}"
        with monkeypatch.context() as patch:
            kill_at_operation(patch, number)
            with pytest.raises(Killed):
                start(name, *short)
        if not (tmp_path / name / "config.yaml").exists():  # killed before it began
            start(name, *short)
        elif not (tmp_path / name / "result.json").exists():  # else killed when all was done
            go_on(tmp_path / name)
        assert_same_runs(tmp_path / name, reference)


def test_a_damaged_last_checkpoint_is_passed_over(killed, reference, caplog):
    last = killed / "checkpoints" / "last.pt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    go_on(killed)
    assert "last.pt: damaged" in caplog.text
    assert_same_runs(killed, reference())


def test_a_damaged_replay_chunk_is_passed_over(killed, reference, caplog):
    newest = max((killed / "checkpoints" / "replay").iterdir(), key=lambda p: p.stat().st_mtime_ns)
    newest.write_bytes(b"nothing")
    go_on(killed)
    assert f"{newest}: damaged" in caplog.text
    assert_same_runs(killed, reference())


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"", b"0123\n", bytes(130), b"x" * 10_000])
def test_a_damaged_checksum_is_no_missing_one(killed, reference, caplog, content):
    (killed / "checkpoints" / "last.pt.sha256").write_bytes(content)
    go_on(killed)
    (line,) = [r.getMessage() for r in caplog.records if r.name == checkpoint_module.__name__]
    assert line.startswith(f"{killed / 'checkpoints' / 'last.pt.sha256'}: damaged")
    assert line.endswith("going on from previous.pt")
    assert_same_runs(killed, reference())


def test_a_checksum_that_is_gone_is_told_of(killed, caplog):
    (killed / "checkpoints" / "last.pt.sha256").unlink()
    go_on(killed)
    assert "last.pt: its checksum is gone" in caplog.text


def test_both_checkpoints_damaged_is_an_error(killed):
    for name in ("last.pt", "previous.pt"):
        (killed / "checkpoints" / name).write_bytes(b"nothing")
    with pytest.raises(RunError, match=r"previous\.pt: damaged"):
        go_on(killed)


@pytest.mark.parametrize("buffer", [[], ["buffer=prioritized", "buffer.beta_steps=400"]])
def test_a_finished_run_can_be_extended(start, buffer):
    """Where no schedule ends with the budget, which differs."""
    longer = start("longer", "total_timesteps=480", "agent.lr_decay_steps=400", *buffer)
    run_dir = start("extended", "total_timesteps=240", "agent.lr_decay_steps=400", *buffer)
    with pytest.raises(ConfigError, match="has finished"):
        go_on(run_dir)
    with pytest.raises(
        ConfigError, match="total_timesteps=200: must be more than the run had, 240"
    ):
        go_on(run_dir, total_timesteps=200)
    go_on(run_dir, total_timesteps=480)
    assert_same_runs(run_dir, longer)
    assert "total_timesteps: 480" in (run_dir / "config.yaml").read_text()


def test_an_extended_run_keeps_its_learning_rates(start):
    """The schedule of the first budget goes on, at its final value where it has ended."""
    path = start("run", "agent.lr_schedule=linear", "agent.lr=0.01")
    config = RunDirectory(path).config
    assert yaml.safe_load(config.read_text())["agent"]["lr_decay_steps"] == 300
    go_on(path, total_timesteps=400)
    rates = {
        r["env_steps"]: r["train/lr"]
        for r in read_metrics(path / "metrics.jsonl")
        if "train/lr" in r
    }
    assert rates[200] == pytest.approx(0.01 * (1 - 0.99 * 200 / 300))
    assert rates[300] == rates[400] == pytest.approx(0.0001)


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


def test_torn_and_late_rows_are_cut(killed, reference):
    with (killed / "metrics.jsonl").open("a") as file:
        file.write('{"env_steps": 199, "train/')
    go_on(killed)
    assert rows_without_clock(killed) == rows_without_clock(reference())


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, but for its lock."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_one_bad_byte_in_metrics_stops_a_resume_and_loses_nothing(killed, reference):
    metrics = killed / "metrics.jsonl"
    whole = metrics.read_bytes()
    at = whole.index(b"\n") + 5  # in the second line
    metrics.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
    before = contents(killed)
    with pytest.raises(RunError, match=r"metrics\.jsonl: line 2 is damaged .*mend or remove"):
        go_on(killed)
    after = contents(killed)
    assert after.pop("metrics.jsonl.damaged-2") == before["metrics.jsonl"]
    assert after == before
    metrics.write_bytes(whole)
    go_on(killed)
    assert_same_runs(killed, reference())


def test_damage_to_a_finished_run_leaves_it_finished(finished):
    result = (finished / "result.json").read_bytes()
    metrics = finished / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes().replace(b":", b";", 1))
    with pytest.raises(RunError, match="line 1 is damaged"):
        go_on(finished, total_timesteps=480)
    assert (finished / "result.json").read_bytes() == result
    assert "total_timesteps: 300" in (finished / "config.yaml").read_text()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{}", b'{"env_steps": 1'])
def test_a_result_that_cannot_be_read_is_made_again(finished, caplog, content):
    result = json.loads((finished / "result.json").read_text())
    (finished / "result.json").write_bytes(content)
    go_on(finished)
    again = json.loads((finished / "result.json").read_text())
    assert (again["final"], again["best"]) == (result["final"], result["best"])
    assert "result.json holds no result; it is made again" in caplog.text


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
              if r.HasField("scalar") and not r.scalar.key.startswith("result/")]  # fmt: skip
    expected = [
        (row["env_steps"], name, value)
        for row in read_metrics(tmp_path / "killed" / "metrics.jsonl")
        for name, value in row.items()
        if "/" in name
    ]
    assert sorted(logged) == sorted(expected)


def test_two_processes_on_one_run_directory(killed):
    other = RunDirectory(killed)
    other.claim()
    with pytest.raises(RunError, match="another process is at work"):
        go_on(killed)
    other.close()
    go_on(killed)


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
