"""One damaged or foreign run directory leaves the others on the page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dashboards import needs_swanboard, opened, row, write_run

from dqn_runner.runs.directory import RunDirectory

SCORE = {"mean": 1.0, "std": 1.0, "episodes": 3}
RESULT: dict[str, Any] = {
    "env_steps": 10, "wall_time_seconds": 1.0, "final": SCORE, "best": SCORE
}  # fmt: skip


def write_rows(text: str) -> Callable[[RunDirectory], object]:
    return lambda run_dir: run_dir.metrics.write_text(text + "\n")


def write_result(**changed: Any) -> Callable[[RunDirectory], object]:
    return lambda run_dir: run_dir.result.write_text(json.dumps({**RESULT, **changed}))


DAMAGES: dict[str, Callable[[RunDirectory], object]] = {
    "a number of 400 digits": write_rows(f'{{"env_steps": 10, "train/td_loss": {"9" * 400}}}'),
    "a huge time": write_rows('{"env_steps": 10, "time/elapsed_seconds": 1e308, "eval/x": 1.0}'),
    "no time": write_rows('{"env_steps": 10, "time/elapsed_seconds": NaN, "eval/x": 1.0}'),
    "half a character": write_rows('{"env_steps": 10, "\\ud800/x": 1.0}'),
    "a spread in words": write_result(final={**SCORE, "std": "2.0"}),
    "no number of episodes": write_result(final={**SCORE, "episodes": float("nan")}),
    "an endless run": write_result(wall_time_seconds=1e308),
    "settings without a limit": lambda d: d.config.write_text("{seed: .nan, agent: {lr: .inf}}"),
}


@needs_swanboard
def test_the_others_are_shown(tmp_path):
    folder = tmp_path / "outputs"
    config = {"env": {"id": "CartPole-v1"}, "seed": 0}
    write_run(folder / "good", [row(10, 3.0)], config, **RESULT)
    for seed, (name, damage) in enumerate(DAMAGES.items(), 1):
        damage(write_run(folder / name, [row(10)], config | {"seed": seed}))
    (folder / "caf\udce9").mkdir()  # no UTF-8, as a name on a disk may be
    damage = write_rows('{"env_steps": 10, "eval/x": 1.0}')
    damage(write_run(folder / "caf\udce9" / "run", [row(10)], config | {"seed": 99}))
    for show in ("runs", "groups", "both"):
        with opened(folder, tmp_path / "temporary", "--show", show) as dashboard:
            names = set(dashboard.runs())
            for number in [run["id"] for run in dashboard.runs().values()]:
                for page in ("", "/chart", "/summary", "/status"):
                    dashboard.get(f"experiment/{number}{page}")
            charts = [chart["name"] for chart in dashboard.get("project/charts")["charts"]]
            assert any(name.startswith("train/td_loss") for name in charts)
            dashboard.get("project/summaries")
            if show != "groups":
                (good,) = (name for name in names if name.endswith("CartPole-v1 seed=0"))
                assert dashboard.points(good, "train/td_loss") == [(10, 3.0)]


@pytest.mark.parametrize("when", ["before", "later"])
def test_what_cannot_be_read_is_left_out_with_its_reason(tmp_path, when, monkeypatch):
    from dqn_runner.board.board import Board
    from dqn_runner.board.copies import RunCopy

    write_run(tmp_path / "good", [row(10)], {"seed": 0})
    bad = write_run(tmp_path / "bad", [row(10)], {"seed": 1})
    board, update = Board(tmp_path, "runs"), RunCopy.update
    if when == "later":
        board.update()
        assert len(board) == 2

    def fail(copy: RunCopy) -> bool:
        if copy.run.path == Path(bad.path):
            raise PermissionError(13, "Permission denied", str(bad.path))
        return update(copy)

    monkeypatch.setattr(RunCopy, "update", fail)
    board.update()
    assert "seed=1" not in {entry.name for entry in board.entries}
    assert "seed=0" in {entry.name for entry in board.entries}
    assert "Permission denied" in board.left_out[bad.path]
