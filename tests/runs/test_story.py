"""What a run tells: the lines of its train.log."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from watching import rows_without_clock, wait_for

LINE = re.compile(
    r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}\]\[[\w.]+\]\[(?:INFO|WARNING)\] - (\S.*)"
)


def story(run: Path) -> list[str]:
    """What the lines of train.log say, each of which must have a time and a logger."""
    found = [LINE.fullmatch(line) for line in (run / "train.log").read_text("utf-8").splitlines()]
    assert all(found)
    return [match[1] for match in found if match]


@pytest.fixture
def quick_run(command, quick) -> Callable[..., tuple[list[str], str]]:
    """A run in run/ with these overrides: its log and what it printed."""

    def quick_run(*overrides: str) -> tuple[list[str], str]:
        outcome = command(*quick, *overrides, "hydra.run.dir=run")
        assert outcome.code == 0, outcome.err
        return story(Path("run")), outcome.out

    return quick_run


def test_a_log_tells_of_the_settings_the_evaluations_and_the_result(quick_run, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    log, _ = quick_run("seed=7", "agent.lr=0.002", "tracker.mode=offline", "learning_starts=500")
    (settings,) = [line for line in log if line.startswith("settings that differ")]
    differing = settings.partition(": ")[2].split()
    assert {"seed=7", "agent.lr=0.002", "total_timesteps=300", "compile=never"} < {*differing}
    assert not any(line.startswith(("agent.gamma", "tracker.mode", "env")) for line in differing)
    (opening,) = [line for line in log if line.startswith("CartPole-v1, seed 7, ")]
    assert "on cpu with 1 torch thread" in opening
    assert "replay buffer of 1,000 transitions takes" in opening
    assert any(line.startswith("learning_starts=500: the run ends") for line in log)
    evaluations = [line for line in log if line.startswith("env step ")]
    rows = [row for row in rows_without_clock(Path("run")) if "eval/episode_return_mean" in row]
    assert len(evaluations) == len(rows) == 3
    best = float("-inf")
    for line, row in zip(evaluations, rows, strict=True):
        mean, std = row["eval/episode_return_mean"], row["eval/episode_return_std"]
        start = f"env step {row['env_steps']}: evaluation return {mean:.1f} ± {std:.1f} ("
        assert line.startswith(start)
        assert "2 episodes)" in line
        assert line.endswith("the best so far") == (mean >= best)
        best = max(best, mean)
    result = json.loads(Path("run/result.json").read_text())
    for name in ("final", "best"):
        (told,) = [line for line in log if re.match(rf"{name} +return ", line)]
        assert f"return {result[name]['mean']:.1f} ± {result[name]['std']:.1f} (min" in told
    assert log[-1] == f"finished, after {result['wall_time_seconds']:.1f} s"
    text = Path("run/train.log").read_text("utf-8")
    assert "swanlab" not in text.lower()
    assert "\x1b" not in text


def test_the_console_says_what_the_log_says(quick_run):
    log, out = quick_run()
    opening, final, best, *_ = out.splitlines()
    assert [line for line in log if line in (opening, final, best)] == [opening, final, best]


def test_a_log_without_settings_of_its_own_says_so(command):
    from dqn_runner.composing.command import Command
    from dqn_runner.config.root import parse
    from dqn_runner.runs.job import differing_settings

    (job,) = Command(["env=acrobot"]).jobs
    assert differing_settings(parse(job.config)) == [
        "env.id=Acrobot-v1", "'env.return_range=[-horizon,0.0]'",
    ]  # fmt: skip
    (job,) = Command([]).jobs
    assert differing_settings(parse(job.config)) == []
    (job,) = Command(["+env.kwargs.size=8", "epsilon=fixed", 'tracker.description="a  b\nc"']).jobs
    assert differing_settings(parse(job.config)) == [
        "env.kwargs.size=8", "epsilon.name=fixed", "epsilon.value=0.1",
        "'tracker.description=a b c'",
    ]  # fmt: skip


def test_a_stop_and_a_resume_are_told_of_in_the_same_log(process, quick, tmp_path):
    run = tmp_path / "run"
    arguments = [*quick, "total_timesteps=100_000_000", "checkpoint.interval=null"]
    with process(*arguments, "hydra.run.dir=run") as child:
        wait_for(lambda: "evaluation return" in _text(run), child)
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=60)
    before = story(run)
    assert re.fullmatch(r"stopped at env step .*; dqn-train resume=run goes on", before[-1])
    step = int(re.findall(r"env step ([\d,]+)", before[-1])[0].replace(",", ""))
    config = (run / "config.yaml").read_text()
    budget = f"total_timesteps: {step + 200}"
    (run / "config.yaml").write_text(config.replace("total_timesteps: 100000000", budget))
    with process("resume=run") as child:
        child.communicate(timeout=60)
    assert child.returncode == 0
    after = story(run)
    assert after[: len(before)] == before
    assert after[len(before)] == f"goes on at env step {step:,}"
    assert after[-1].startswith("finished, after ")


def _text(run: Path) -> str:
    path = run / "train.log"
    return path.read_text("utf-8") if path.exists() else ""
