"""A run directory made before the code moved into rooms is evaluated, compared and shown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dqn_runner.analysis import compare, load_runs
from dqn_runner.evaluate import command_line as evaluate_line
from dqn_runner.policy import load_policy

OLD_RUN = Path(__file__).with_name("old_run")


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD_RUN, tmp_path / "old_run"))


def result() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((OLD_RUN / "result.json").read_text())
    return loaded


def rows() -> list[dict[str, float]]:
    return [json.loads(line) for line in (OLD_RUN / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["last", "best"])
def test_its_policies_are_evaluated(
    old_run: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = evaluate_line([str(old_run), "--checkpoint", name, "--episodes", "20", "--videos", "0"])
    assert code == 0
    policy = load_policy(old_run, "best" if name == "best" else "last")
    assert policy.env_steps == (result()["best"]["env_steps"] if name == "best" else 600)
    assert f"policy of env step {policy.env_steps:,}: return mean " in capsys.readouterr().out


def test_it_is_compared_with_another_run(old_run: Path) -> None:
    (run,) = load_runs([old_run])
    assert run.status == "finished"
    (group,) = compare([run]).groups
    (scores,) = group.scores["final"]
    assert scores.tolist() == [result()["final"]["mean"]]
    assert run.config["network.hidden_sizes"] == [16]


def test_it_is_shown_in_the_dashboard(old_run: Path, tmp_path: Path) -> None:
    from dqn_runner.board.board import Board

    board = Board(tmp_path / "old_run", "runs")
    board.update()
    assert board.left_out == {}
    (entry,) = board.entries
    assert entry.columns["final_return"] == round(result()["final"]["mean"], 2)
    points = sum("rollout/episode_return" in row for row in rows())
    assert len(entry.points["rollout/episode_return"].shown()) == points
