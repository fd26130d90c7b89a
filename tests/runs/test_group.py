"""Runs that are trained together are the runs that each would be alone."""

from __future__ import annotations

import json
import logging
import math
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
import torch
from resuming import COMMON, KINDS, Killed, assert_same_runs, kill_at_step
from rich.console import Console
from watching import rows_without_clock

from dqn_runner.agents.agent import Agent
from dqn_runner.config.root import read
from dqn_runner.envs.processes import PlayerProcess
from dqn_runner.envs.vector import Environments
from dqn_runner.errors import EnvironmentFailedError, Stopped
from dqn_runner.learning.compilation import CompilationError
from dqn_runner.learning.together import LearnerGroup
from dqn_runner.runs import lifecycle
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.runs.group import train_together
from dqn_runner.runs.lifecycle import resume, run
from dqn_runner.runs.metrics_file import read_metrics
from dqn_runner.runs.stop_signals import StopSignals
from dqn_runner.tracking.tracker import LateTracker

# What may differ between the runs of a group, beside their seeds.
NUMBERS = (
    ["seed=1"],
    ["seed=2", "agent.lr=3e-4", "agent.gamma=0.9", "total_timesteps=180"],
    ["seed=3", "agent.lr=2e-3", "log.interval=30"],
)
OF_HARD_TARGETS: tuple[list[str], ...] = (
    ["target_update.interval=11"],
    [],
    ["target_update.interval=30"],
)
LAST = "checkpoints/last.pt"
# Each of these takes another way through acting, learning or storing.
TOGETHER = (
    *("defaults", "four environments", "softmax", "sarsa in phases", "prioritized"),
    *("resets and munchausen", "rainbow: c51, prioritized, noisy, dueling"),
    *("range found in the rewards", "implicit quantiles, noisy, eight environments"),
    *("frames, prioritized, cut short", "masks and sarsa", "per-episode epsilon"),
)


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch):
    monkeypatch.setattr("dqn_runner.runs.lifecycle.draw_curve", lambda _, target: target.touch())


@pytest.fixture
def group(tmp_path, compose):
    """Train runs together in tmp_path/name/0, 1, …, one for each list of settings."""

    def group(name, *settings, rows=None):
        runs = {}
        for row, overrides in enumerate(settings):
            path = tmp_path / name / str(row)
            path.mkdir(parents=True, exist_ok=True)
            if not RunDirectory(path).has_finished():
                runs[row] = compose(*COMMON, *overrides), path
        train_together(runs, len(settings), rows or len(settings))
        return [tmp_path / name / str(row) for row in range(len(settings))]

    return group


def of_kind(kind: str) -> list[list[str]]:
    """The settings of three runs of that kind that differ in numbers."""
    own = [*KINDS[kind]]
    numbers = [[*line] for line in NUMBERS]
    if "munchausen" in kind:
        numbers = [[*line, *more] for line, more in zip(numbers, OF_HARD_TARGETS, strict=True)]
    if "lunarlander" in " ".join(own) or "epsilon" in kind:
        numbers = [[line for line in lines if "total" not in line] for lines in numbers]
    return [[*own, *lines] for lines in numbers]


def assert_close(path: Path, other: Path) -> None:
    """That the runs have the same rows up to rounding."""
    rows, others = rows_without_clock(path), rows_without_clock(other)
    assert len(rows) == len(others) > 3
    for row, row_of_other in zip(rows, others, strict=True):
        assert row == pytest.approx(row_of_other, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("kind", TOGETHER)
def test_a_run_among_others_equals_the_run_alone(group, compose, tmp_path, kind):
    settings = of_kind(kind)
    for i, path in enumerate(group("together", *settings)[:2]):
        alone = tmp_path / f"alone {i}"
        run(compose(*COMMON, *settings[i]), alone, Console(quiet=True))
        assert_close(path, alone)
        results = [json.loads((p / "result.json").read_text()) for p in (path, alone)]
        assert results[0].pop("trained_together") == 3
        assert results[0].keys() == results[1].keys()
        assert results[0]["final"] == pytest.approx(results[1]["final"], rel=1e-4)
        names = {file.name for file in alone.iterdir()}
        assert names == {file.name for file in path.iterdir()} - {"train.log"}


@pytest.mark.parametrize("kind", ["defaults", "prioritized", "frames, prioritized, cut short"])
def test_a_group_killed_twice_ends_bit_for_bit_as_undisturbed(group, tmp_path, monkeypatch, kind):
    """Whatever checkpoints its runs have come to."""
    settings, rng = of_kind(kind), random.Random(kind)
    undisturbed = group("undisturbed", *settings)
    for at in (rng.randint(300, 500), rng.randint(50, 250)):
        with monkeypatch.context() as patch:
            kill_at_step(patch, at // (2 if kind == "prioritized" else 1))
            with pytest.raises(Killed):
                group("killed", *settings)
    for path, other in zip(group("killed", *settings), undisturbed, strict=True):
        assert_same_runs(path, other)


def test_environments_in_processes_of_all_runs_step_at_the_same_time(group, monkeypatch):
    """And the runs are those with environments in their own process."""
    settings = [["seed=1", "train_frequency=2"], ["seed=2"]]
    expected = group("sync", *settings)
    calls: list[str] = []
    for name in ("begin", "step"):
        method = getattr(PlayerProcess, name)

        def noting(self, *arguments, name=name, method=method):
            if name == "step" or not self._begun:  # step itself begins what has not
                calls.append(name)
            return method(self, *arguments)

        monkeypatch.setattr(PlayerProcess, name, noting)
    processes = [[*line, "env.vectorization=processes"] for line in settings]
    for path, other in zip(group("processes", *processes), expected, strict=True):
        assert_same_runs(path, other)
    assert len(calls) > 500
    assert calls[:4] == ["begin", "begin", "step", "step"]
    assert calls.count("begin") == calls.count("step")
    assert "begin begin begin" not in " ".join(calls)


def test_runs_that_are_behind_catch_up(group, tmp_path, monkeypatch):
    """A run without its checkpoint begins anew, and the others wait; none is disturbed."""
    settings = of_kind("four environments")
    undisturbed = group("undisturbed", *settings)
    with monkeypatch.context() as patch:
        kill_at_step(patch, 130)
        with pytest.raises(Killed):
            group("killed", *settings)
    shutil.rmtree(tmp_path / "killed" / "0" / "checkpoints")
    for path, other in zip(group("killed", *settings), undisturbed, strict=True):
        assert_same_runs(path, other)


def test_a_stopped_group_saves_all_of_its_runs_and_goes_on(group, tmp_path, monkeypatch):
    settings = of_kind("defaults")
    undisturbed = group("undisturbed", *settings)
    checks = [0]

    def check(self):
        checks[0] += 1
        if checks[0] >= 401:
            raise Stopped(15)

    with monkeypatch.context() as patch:
        patch.setattr(StopSignals, "check", check)
        with pytest.raises(Stopped):
            group("stopped", *settings)
    saved = [tmp_path / "stopped" / str(row) / "checkpoints" / "last.pt" for row in range(3)]
    steps = [torch.load(path, weights_only=True)["env_steps"] for path in saved]
    assert max(steps) - min(steps) <= 1
    assert steps[0] % 60 != 0
    for path, other in zip(group("stopped", *settings), undisturbed, strict=True):
        assert_same_runs(path, other)


@pytest.mark.parametrize("way", ["its environment", "its loss"])
def test_a_run_that_fails_leaves_the_others_as_they_are(group, tmp_path, monkeypatch, way):
    settings = [["seed=1"], ["seed=2"], ["seed=3"]]
    undisturbed = group("undisturbed", *settings)
    failing, calls = [], [0]
    real_step, real_inputs = Environments.step, Agent.next_inputs

    def step(self, action):
        calls[0] += 1
        failing.append(self) if calls[0] == 2 else None  # the second run's, in the first round
        if calls[0] > 400 and self in failing:
            raise EnvironmentFailedError("it broke")
        return real_step(self, action)

    def next_inputs(self, indices, weights):
        calls[0] += 1
        failing.append(self) if calls[0] == 2 else None
        inputs = real_inputs(self, indices, weights)
        return inputs._replace(weights=weights * math.nan) if self in failing else inputs

    with monkeypatch.context() as patch:
        if way == "its loss":
            patch.setattr(Agent, "next_inputs", next_inputs)
        else:
            patch.setattr(Environments, "step", step)
        paths = group("failing", *settings)
    end = RunDirectory(paths[1]).read_end()
    assert end is not None
    assert end.status == "failed"
    assert ("it broke" if way == "its environment" else "learning diverged") in end.reason
    assert "the run failed" in (paths[1] / "train.log").read_text()
    assert "the run failed" not in (paths[0] / "train.log").read_text()
    for row in (0, 2):
        assert_same_runs(paths[row], undisturbed[row])


def test_a_pruned_run_leaves(group, tmp_path, monkeypatch):
    """Its record in SwanLab is there from then on."""
    settings = [["seed=1"], ["seed=2", "tracker.mode=offline"]]
    undisturbed = group("undisturbed", *settings)
    real = Environments.step

    recorded = []

    def step(self, action):
        RunDirectory(tmp_path / "pruned" / "1").prune_request.touch()
        recorded.append((tmp_path / "pruned" / "1" / "swanlab" / "run_id").exists())
        return real(self, action)

    with monkeypatch.context() as patch:
        patch.setattr(Environments, "step", step)
        paths = group("pruned", *settings)
    end = RunDirectory(paths[1]).read_end()
    assert end is not None
    assert end.status == "pruned"
    assert not recorded[0]
    assert recorded[-1]
    assert len(read_metrics(paths[1] / "metrics.jsonl")) < len(rows_without_clock(paths[0]))
    assert_same_runs(paths[0], undisturbed[0])


def test_rows_of_runs_that_have_ended_stay_empty(group, tmp_path):
    """So that what is left of a group computes the same; result.json counts runs, not rows."""
    settings = [["seed=1"], ["seed=2"]]
    undisturbed = group("all", *settings, rows=3)
    shutil.copytree(undisturbed[0], tmp_path / "rest" / "0")
    left = group("rest", *settings, rows=3)
    assert_same_runs(left[1], undisturbed[1])
    result = RunDirectory(left[1]).read_result()
    assert result is not None
    assert result["trained_together"] == 2


def test_resumed_alone_it_agrees_up_to_rounding_and_says_so(group, tmp_path, monkeypatch, caplog):
    settings = [["seed=1"], ["seed=2"]]
    undisturbed = group("undisturbed", *settings)
    with monkeypatch.context() as patch:
        kill_at_step(patch, 400)
        with pytest.raises(Killed):
            group("killed", *settings)
    path = tmp_path / "killed" / "1"
    resume(path, {}, Console(quiet=True), trust=True)
    assert (
        "its updates were computed in 2 rows, one for each run of a group, and now in 1"
        in caplog.text
    )
    assert_close(path, undisturbed[1])


TRACKED = [[f"seed={seed}", "tracker.mode=offline", "total_timesteps=120"] for seed in (1, 2)]


def test_swanlab_gets_each_run_whole_when_it_ends(group):
    for path in group("tracked", *TRACKED):
        assert len(list((path / "swanlab").glob("run-*/run-*.swanlab"))) == 1
        assert (path / "swanlab" / "run_id").is_file()
        assert read_metrics(path / "metrics.jsonl")


def test_a_record_in_swanlab_that_cannot_be_written_costs_no_run(group, tmp_path):
    blocked = tmp_path / "tracked" / "0"
    blocked.mkdir(parents=True)
    (blocked / "swanlab").write_text("no folder")
    for path in group("tracked", *TRACKED):
        assert RunDirectory(path).has_finished()
    assert "SwanLab failed" in (blocked / "train.log").read_text()


@pytest.fixture
def told(tmp_path, monkeypatch):
    """For each run that SwanLab was told of, in turn, which of two runs had been saved by then."""
    told = []

    def close(self, state):
        told.append([(tmp_path / "tracked" / str(row) / LAST).exists() for row in range(2)])
        logging.getLogger("dqn_runner").info("closed as %s", state)

    monkeypatch.setattr(LateTracker, "close", close)
    return told


def signals_at(monkeypatch, owner, name: str, *calls: int) -> None:
    """Send this process SIGTERM before the calls of those numbers, as often as they are named."""
    real, made = getattr(owner, name), [0]

    def calling(*arguments, **keywords):
        made[0] += 1
        for _ in range(calls.count(made[0])):
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **keywords)

    monkeypatch.setattr(owner, name, calling)


def closings(path: Path) -> list[str]:
    lines = (path / "train.log").read_text().splitlines()
    return [line.split(" - ")[1] for line in lines if "closed as" in line]


def test_after_a_signal_all_are_saved_before_swanlab_is_told(group, tmp_path, monkeypatch, told):
    signals_at(monkeypatch, LearnerGroup, "update", 10)
    with pytest.raises(Stopped):
        group("tracked", *TRACKED)
    assert told == [[True, True]] * 2
    for row in "01":
        assert closings(tmp_path / "tracked" / row) == ["closed as aborted"]


@pytest.mark.parametrize("way", ["in an update", "in a save"])
def test_a_second_signal_waits_for_nothing(group, tmp_path, monkeypatch, told, way):
    if way == "in an update":
        signals_at(monkeypatch, LearnerGroup, "update", 10, 10)
    else:
        signals_at(monkeypatch, LearnerGroup, "update", 10)
        signals_at(monkeypatch, lifecycle, "save", 1)
    with pytest.raises(Stopped):
        group("tracked", *TRACKED)
    assert told == []
    assert [(tmp_path / "tracked" / row / LAST).exists() for row in "01"] == [False, False]


def test_runs_that_end_as_a_signal_comes_are_told_as_finished(group, monkeypatch, told):
    signals_at(monkeypatch, lifecycle, "draw_curve", 2)
    for path in group("tracked", *TRACKED):
        assert closings(path) == ["closed as success"]


def compiling(monkeypatch, *, works: bool) -> list[str]:
    """Let compilation be noted in the list that is returned, and work or fail."""
    compiled: list[str] = []

    def compile_ahead(function, constants, inputs):
        compiled.append(function.__name__)
        if not works and "update" in function.__name__:
            raise CompilationError("there is no C++ compiler (g++)")
        return lambda *given: function(*constants, *given)

    monkeypatch.setattr("dqn_runner.learning.together.compile_ahead", compile_ahead)
    return compiled


def compile_modes(*paths: Path) -> list[str]:
    return [read(path / "config.yaml").compile for path in paths]


def test_without_a_compiler_each_run_says_so_and_acts_by_itself(group, monkeypatch):
    settings = [["seed=1"], ["seed=2"]]
    eager = group("eager", *settings)
    compiled = compiling(monkeypatch, works=False)
    monkeypatch.setattr(LearnerGroup, "q_values", None)
    paths = group("compiled", *([*line, "compile=always"] for line in settings))
    assert compiled
    assert compile_modes(*paths) == ["never", "never"]
    for path, other in zip(paths, eager, strict=True):
        assert (
            "uncompiled, several times slower: there is no C++" in (path / "train.log").read_text()
        )
        assert_close(path, other)


def test_a_group_is_compiled_at_once_before_its_runs_begin(group, monkeypatch):
    settings = [[f"seed={seed}", "compile=always"] for seed in (1, 2)]
    compiled = compiling(monkeypatch, works=True)
    paths = group("compiled", *settings)
    assert compiled == ["_values_of_all", "_update_of_all"]
    assert compile_modes(*paths) == ["always", "always"]


def test_a_signal_before_they_begin_does_not_wait_for_the_compiler(group, monkeypatch):
    compiled = compiling(monkeypatch, works=True)
    signals_at(monkeypatch, lifecycle, "building", 1)
    with pytest.raises(Stopped):
        group("stopped", ["seed=1", "compile=always"], ["seed=2", "compile=always"])
    assert compiled == []


@pytest.mark.parametrize(("before", "typed"), [("never", "always"), ("always", "auto")])
def test_runs_that_have_begun_decide_whether_a_group_is_compiled(
    group, tmp_path, monkeypatch, before, typed
):
    """As when a grid has grown, and repays now what it did not."""
    compiled = compiling(monkeypatch, works=True)
    settings = [["seed=1", f"compile={before}"], ["seed=2", f"compile={before}"]]
    undisturbed = group("undisturbed", *settings)
    with monkeypatch.context() as patch:
        kill_at_step(patch, 400)
        with pytest.raises(Killed):
            group("grown", *settings)
    shutil.rmtree(tmp_path / "grown" / "0")
    compiled.clear()
    paths = group("grown", *([*line, f"compile={typed}"] for line in settings))
    assert bool(compiled) == (before == "always")
    assert compile_modes(*paths) == [before, before]
    for path, other in zip(paths, undisturbed, strict=True):
        assert_same_runs(path, other)


def test_begun_runs_that_differ_are_trained_uncompiled(group, tmp_path, monkeypatch):
    """As after one of them went on alone, where there was no compiler."""
    compiled = compiling(monkeypatch, works=True)
    with monkeypatch.context() as patch:
        kill_at_step(patch, 400)
        with pytest.raises(Killed):
            group("mixed", ["seed=1", "compile=always"], ["seed=2", "compile=always"])
    config = tmp_path / "mixed" / "0" / "config.yaml"
    config.write_text(config.read_text().replace("compile: always", "compile: never"))
    compiled.clear()
    paths = group("mixed", ["seed=1"], ["seed=2"])
    assert compiled == []
    assert compile_modes(*paths) == ["never", "never"]
    assert "others of its group are not compiled" in (paths[1] / "train.log").read_text()
