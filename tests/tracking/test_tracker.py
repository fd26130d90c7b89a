"""The record of a run, SwanLab's view of it, and what a person watches."""

from __future__ import annotations

import io
import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dqn_runner.runs.metrics_file import MetricsFile, read_metrics
from dqn_runner.runs.progress_bar import ProgressDisplay
from dqn_runner.tracking.tracker import SwanLabSpec, SwanLabTracker, swanlab_config
from dqn_runner.types import Progress


def test_metrics_file_leaves_out_what_is_not_finite(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    nan, inf = float("nan"), float("inf")
    file.log({"env_steps": 1, "a": nan, "b": inf, "c": -inf, "d": 0.5})
    text = (tmp_path / "metrics.jsonl").read_text()  # on disk before the file is closed
    assert json.loads(text) == {"env_steps": 1, "d": 0.5}
    file.close()


def test_metrics_file_appends(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for i in range(3):
        file = MetricsFile(path)
        file.log({"env_steps": i})
        file.close()
    assert read_metrics(path) == [{"env_steps": i} for i in range(3)]


@pytest.mark.parametrize("torn", ["", "{", '{"env_steps": 3', '{"env_steps": 30, "x'])
def test_a_torn_last_line_is_skipped(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"env_steps": 1, "a/b": 0.25}\n{"env_steps": 2}\n' + torn)
    assert read_metrics(path) == [{"env_steps": 1, "a/b": 0.25}, {"env_steps": 2}]


@pytest.fixture
def stored(records) -> Callable[[Path], list[Any]]:
    """The records of the one SwanLab run under a directory."""

    def stored(log_dir: Path) -> list[Any]:
        (path,) = log_dir.glob("run-*/*.swanlab")
        return records(path)

    return stored


def scalars(records: list[Any]) -> dict[tuple[str, int], float]:
    return {
        (r.scalar.key, r.scalar.step): r.scalar.value.number
        for r in records
        if r.HasField("scalar")
    }


def stored_config(log_dir: Path) -> dict[str, Any]:
    import yaml

    (path,) = log_dir.glob("run-*/files/config.yaml")
    return {key: entry["value"] for key, entry in yaml.safe_load(path.read_text()).items()}


def spec(**changes: object) -> SwanLabSpec:
    given: dict[str, Any] = {
        "mode": "offline",
        "project": "tests",
        "workspace": None,
        "name": None,
        "description": None,
        "group": None,
        "job_type": "train",
        "tags": [],
        "host": None,
        "time_limit": 5.0,
    }
    return SwanLabSpec(**{**given, **changes})


def test_swanlab_holds_the_metrics_and_the_configuration_of_a_run(train, stored):
    run = train("run", "tracker.mode=offline", "tracker.name=mine", "tracker.group=together",
                "tracker.tags=[one,two]", "tracker.description=what it is for")  # fmt: skip
    kept = stored(run / "swanlab")
    (start,) = [r.start for r in kept if r.HasField("start")]
    assert (start.project, start.name, start.group) == ("dqn_runner", "mine", "together")
    assert (start.job_type, list(start.tags)) == ("train", ["one", "two"])
    assert start.description == "what it is for"
    logged = {
        (name, row["env_steps"]): value
        for row in read_metrics(run / "metrics.jsonl")
        for name, value in row.items()
        if "/" in name
    }
    kept_scalars = scalars(kept)
    results = {key for key in kept_scalars if key[0].startswith("result/")}
    assert {key: v for key, v in kept_scalars.items() if key not in results} == logged
    assert ("result/final_return", 300) in results
    names = {name for name, _ in logged}
    assert {"train/td_loss", "eval/episode_return_mean", "time/elapsed_seconds"} <= names
    config = stored_config(run / "swanlab")
    assert config["env.id"] == "CartPole-v1"
    assert config["agent.optimizer.name"] == "adam"
    assert config["eval.interval"] == 100
    assert config["epsilon.decay_steps"] == 2000
    assert config["network.hidden_sizes"] == [128, 128]
    assert (config["device"], config["torch_threads"]) == ("cpu", 1)
    assert not any(isinstance(value, dict) and value for value in config.values())


def test_swanlab_config_has_dotted_keys_and_names_nulls():
    nested = {"a": {"b": {"c": 1, "d": None}, "e": [1, {"f": 2}]}, "g": "h"}
    assert swanlab_config(nested) == {"a.b.c": 1, "a.b.d": "null", "a.e": [1, {"f": 2}], "g": "h"}


@pytest.mark.parametrize("name", [None, "given"])
def test_swanlab_leaves_pythons_generator_alone(tmp_path, name):
    random.seed(3)
    before = random.getstate()
    tracker = SwanLabTracker(spec(name=name), tmp_path, {"a": 1})
    tracker.log({"env_steps": 1, "x/y": 0.5})
    tracker.close("success")
    assert random.getstate() == before


def test_swanlab_prints_nothing(tmp_path, capfd, stored):
    tracker = SwanLabTracker(spec(name="n"), tmp_path, {})
    tracker.log({"env_steps": 10, "episodes": 2, "x/y": 0.5})
    tracker.close("success")
    assert capfd.readouterr() == ("", "")
    # Counters are the axis, not metrics.
    assert scalars(stored(tmp_path)) == {("x/y", 10): 0.5}


def test_of_what_swanlab_prints_warnings_and_errors_are_logged(tmp_path, monkeypatch, caplog):
    import swanlab
    from swanlab.sdk.internal.pkg import console

    def talkative(**settings: object) -> None:
        console.info("💾 Run data saved at " + "a-very-long-path/" * 20)
        console.warning("the disk is " + "nearly " * 30 + "full")
        console.info("🏠 View project at", "https://swanlab.cn/x")
        console.error("\x1b[31mno key\x1b[0m")
        print("x.py:3: UserWarning: an old protocol", file=sys.stderr)

    monkeypatch.setattr(swanlab, "init", talkative)
    with caplog.at_level("INFO", "dqn_runner.tracking.tracker"):
        SwanLabTracker(spec(name="n"), tmp_path, {})
    told = " ".join(r.getMessage() for r in caplog.records if r.levelname == "INFO")
    assert "WARNING" in told
    assert re.search(r"the disk is ( *nearly){30} +full", told)
    assert re.search(r"ERROR +\|.* no key", told)
    assert "UserWarning: an old protocol" in told
    assert "Run data" not in told
    assert "a-very-long-path" not in told
    assert "View project" not in told
    assert "\x1b" not in told


def test_rows_of_episodes_reach_swanlab_with_those_of_intervals(tmp_path, monkeypatch):
    sent = []
    tracker = SwanLabTracker(spec(name="n"), tmp_path, {})
    monkeypatch.setattr(tracker._run, "log", lambda metrics, step: sent.append((step, metrics)))
    episodes = [
        {"env_steps": i, "episodes": i, "rollout/episode_return": 1.0 * i} for i in range(250)
    ]
    expected = [(i, {"rollout/episode_return": i}) for i in range(250)]
    for row in episodes[:30]:
        tracker.log(row)
    assert sent == []
    tracker.log({"env_steps": 29, "episodes": 29, "time/elapsed_seconds": 1.0})
    assert sent == [*expected[:30], (29, {"time/elapsed_seconds": 1.0})]
    sent.clear()
    for row in episodes[30:]:
        tracker.log(row)
    assert sent == expected[30:230]  # no more than a hundred are held
    tracker.close("success")
    assert sent == expected[30:]


def test_two_runs_of_one_process_are_two_runs(tmp_path, stored):
    for i in range(2):
        (tmp_path / str(i)).mkdir()
        tracker = SwanLabTracker(spec(name=f"run {i}"), tmp_path / str(i), {})
        tracker.log({"env_steps": 1, "x/y": float(i)})
        tracker.close("success")
    for i in range(2):
        assert scalars(stored(tmp_path / str(i))) == {("x/y", 1): float(i)}


def test_disabled_never_imports_swanlab(quick, tmp_path):
    code = (
        "import sys; from dqn_runner.train import command_line; "
        "print('code', command_line(sys.argv[1:]), 'swanlab' in sys.modules)"
    )
    arguments = [*quick, "total_timesteps=60", "hydra.run.dir=run"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.stdout.splitlines()[-1] == "code 0 False", done.stderr
    assert not (tmp_path / "run" / "swanlab").exists()


@pytest.fixture
def clock(monkeypatch):
    """The display's clock, set by hand."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_plain_lines_where_there_is_no_terminal(clock):
    out = io.StringIO()
    progress = Progress()
    row = {"env_steps": 1, "time/env_steps_per_second": 1234.5}
    with ProgressDisplay(progress, 1000, None, Console(file=out, width=120)) as display:
        display.log(row)
        assert out.getvalue() == ""  # not due yet
        progress.env_steps, progress.episodes, progress.epsilon = 250, 7, 0.5
        progress.td_loss = 0.0625
        progress.recent_returns.extend([10.0, 20.0])
        clock[0] = 10.0
        display.log(row)
        clock[0] = 19.0
        display.log(row)
    (line,) = out.getvalue().splitlines()
    assert line.split("  ") == [
        " 25%", "250 steps", "7 episodes", "return 15.0", "loss 0.0625", "ε 0.500",
        "1,234 steps/s", "30 s left",
    ]  # fmt: skip
    assert "\x1b" not in line


def test_the_time_left_of_a_run_that_goes_on(clock):
    out, progress = io.StringIO(), Progress(env_steps=500)
    with ProgressDisplay(progress, 1000, None, Console(file=out, width=120)) as display:
        progress.env_steps = 600
        clock[0] = 20.0  # for a hundred steps
        display.log({"env_steps": 600})
    assert out.getvalue().rstrip().endswith("80 s left")


@pytest.mark.parametrize(
    ("total_timesteps", "total_episodes", "shown"),
    [
        (1000, None, " 40%"),
        (None, 10, " 60%"),
        (1000, 10, " 60%"),  # the budget that will be reached first
        (500, 10, " 80%"),
        (100, None, "100%"),
    ],
)
def test_fraction_respects_both_budgets(clock, total_timesteps, total_episodes, shown):
    out = io.StringIO()
    progress = Progress(env_steps=400, episodes=6)
    console = Console(file=out, width=120)
    with ProgressDisplay(progress, total_timesteps, total_episodes, console) as display:
        clock[0] = 60.0
        display.log({"env_steps": 400})
    assert out.getvalue().startswith(shown)


def test_a_bar_on_a_terminal():
    out = io.StringIO()
    progress = Progress(env_steps=400, episodes=6)
    console = Console(file=out, width=120, force_terminal=True)
    with ProgressDisplay(progress, 1000, None, console) as display:
        display.log({"env_steps": 400})
    assert "40%" in out.getvalue()
    assert "400 steps" in out.getvalue()
    assert "training" in out.getvalue()


def shown_bar(width: int, **progress: Any) -> str:
    """The bar as a terminal of that width shows it, half a minute after it began to move."""
    done = Progress(episodes=1230, epsilon=0.05, td_loss=1.19, **progress)
    done.recent_returns.extend([-247.9])
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, color_system=None)
    now = [0.0]
    console.get_time = lambda: now[0]
    display = ProgressDisplay(done, 200_000, None, console)
    for _ in range(3):
        display._render()
        now[0] += 10.0
        done.env_steps += 10_000 * (not done.to_score)
        done.scored += 10 * bool(done.to_score)
    console.print(display._render())
    (line,) = out.getvalue().splitlines()
    assert len(line) <= width
    return line


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_narrow_bar_keeps_percentage_return_and_time_left(width):
    line = shown_bar(width, env_steps=100_000)
    assert line.startswith("training ")
    for text in (" 65% ", " return -247.9 ", " 0:01:10 left"):
        assert text in line
    # Of the rest there is as much as fits, and no number that is cut.
    rest = line.partition(" left")[2].strip()
    whole = "130,000 steps  1,230 episodes  loss 1.19  ε 0.050  0 steps/s"
    assert whole.startswith(rest)
    assert whole[len(rest) :][:2] in ("", "  ") or not rest
    assert (rest == whole) == (width >= 120)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_final_evaluation_has_a_bar_of_its_own(width):
    line = shown_bar(width, env_steps=200_000, activity="final evaluation", to_score=200)
    assert line.startswith("final evaluation 30/200 ")
    for text in (" 15% ", " return -247.9 ", " 0:02:51 left"):
        assert text in line


def test_before_its_first_episode_ends_the_final_evaluation_is_timed_by_the_last_one(clock):
    out, progress = io.StringIO(), Progress(env_steps=1000, seconds_per_episode=0.15)
    with ProgressDisplay(progress, 1000, None, Console(file=out, width=120)) as display:
        clock[0] = 10.0
        display.log({"env_steps": 1000})
        progress.activity, progress.to_score = "final evaluation", 200
        display.look()
        clock[0] = 20.0
        display.look()
    assert out.getvalue().splitlines()[1:] == [
        "  0%  final evaluation 0/200  about 30 s left",
        "  0%  final evaluation 0/200  about 20 s left",
    ]
    done = Progress(activity="final evaluation", to_score=200, seconds_per_episode=0.15)
    terminal = Console(file=(out := io.StringIO()), width=100, force_terminal=True)
    terminal.print(ProgressDisplay(done, 1000, None, terminal)._render())
    assert "0:00:30 left" in out.getvalue()


def test_plain_lines_of_the_final_evaluation(clock):
    out, progress = io.StringIO(), Progress(env_steps=1000)
    with ProgressDisplay(progress, 1000, None, Console(file=out, width=120)) as display:
        clock[0] = 10.0
        display.log({"env_steps": 1000})
        progress.activity, progress.to_score = "final evaluation", 200
        display.look()
        clock[0], progress.scored = 20.0, 50
        display.look()
        clock[0], progress.scored = 25.0, 100
        display.look()
        clock[0], progress.scored = 30.0, 200
        display.look()
    lines = out.getvalue().splitlines()
    assert "left" not in lines[0]  # nothing but the evaluation, of which nothing is known yet
    assert lines[1:] == [
        "  0%  final evaluation 0/200",
        " 25%  final evaluation 50/200  30 s left",
        "100%  final evaluation 200/200",
    ]
