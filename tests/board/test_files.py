"""What the page of a run shows of its directory, which may come from somebody else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from dashboards import row, write_run

from dqn_runner.board.board import Board
from dqn_runner.board.entries import Entry
from dqn_runner.board.files import MOST_OF_A_LOG, log_lines, machine, packages, pictures
from dqn_runner.runs.directory import End, RunDirectory

NO_FIGURES = Path("nothing")


@pytest.fixture
def run_dir(tmp_path) -> RunDirectory:
    return write_run(tmp_path / "outputs" / "run", [row(10)], {"seed": 0})


def entry(run_dir: RunDirectory) -> Entry:
    board = Board(run_dir.path.parent, "runs")
    board.update()
    return board.entries[0]


def test_a_log_is_shown_without_control_characters_and_from_its_end(run_dir):
    log = run_dir.path / "train.log"
    end = b"\n\x1b[31mred\x1b[0m \x07bell\ttab \xff\n"
    log.write_bytes(b"first\n" + b"x" * MOST_OF_A_LOG + end)
    run_dir.end(End("failed", "it broke"))
    lines, errors = log_lines(entry(run_dir), NO_FIGURES)
    assert lines[-1] == "red bell\ttab \N{REPLACEMENT CHARACTER}"
    assert "first" not in lines
    assert errors == ["failed: it broke"]


def test_films_are_in_the_order_of_training(run_dir):
    run_dir.videos.mkdir()
    for name in ("eval_5000", "eval_10000", "best_episode_0"):
        (run_dir.videos / f"{name}.gif").touch()
    (run_dir.videos / "eval_5000.mp4").touch()
    run_dir.curve.touch()
    found = pictures(entry(run_dir))
    assert list(found) == ["curve", "eval/video", "best_episode_0"]
    assert [step for step, _ in found["eval/video"]] == [5000, 10_000]


def test_links_are_not_followed(run_dir, tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    for name in ("train.log", "eval_1.gif", "curve.png"):
        (secret / name).write_text("secret")
    (run_dir.path / "train.log").symlink_to(secret / "train.log")
    run_dir.curve.symlink_to(secret / "curve.png")
    run_dir.videos.symlink_to(secret)
    shown = entry(run_dir)
    assert log_lines(shown, NO_FIGURES) == ([], [])
    assert pictures(shown) == {}


def test_nothing_waits_for_a_pipe(run_dir):
    shown = entry(run_dir)
    for path in (run_dir.path / "train.log", run_dir.started, run_dir.result, run_dir.ended):
        os.mkfifo(path)
    assert log_lines(shown, NO_FIGURES) == ([], [])
    assert machine(shown) == {}
    assert packages(shown) == []


def test_a_damaged_result_does_not_end_the_dashboard(run_dir):
    shown = entry(run_dir)
    run_dir.result.write_text("{")
    assert packages(shown) == []
