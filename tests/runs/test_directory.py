"""What a run directory's small files hold, and what is read of those that others wrote."""

from __future__ import annotations

import json
import os
import platform
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hydra.core.singleton import Singleton
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dqn_runner.runs.directory import LARGEST_FILE, RunDirectory

START = {
    "time": "2026-01-31T12:00:00+00:00",
    "command": "dqn-train seed=1",
    "path": "/data/run",
    "working_directory": "/data",
    "host": "node7",
    "os": "Linux-6.1",
    "python": "3.11.7",
    "cpu": "AMD EPYC",
    "cores": 2,
    "memory_bytes": 8_000_000_000,
    "gpu": None,
    "git_commit": None,
}
LINE = json.dumps(START) + "\n"


def read(path: Path, content: str | bytes) -> list[dict[str, object]]:
    run_dir = RunDirectory(path)
    run_dir.started.write_bytes(content.encode() if isinstance(content, str) else content)
    return run_dir.read_starts()


def test_each_start_and_resume_is_noted(command, quick):
    assert command(*quick, "hydra.run.dir=run").code == 0
    assert command("resume=run", "total_timesteps=400").code == 0
    first, second = RunDirectory(Path("run")).read_starts()
    assert first["command"] == f"dqn-train {' '.join(quick)} hydra.run.dir=run"
    assert second["command"] == "dqn-train resume=run total_timesteps=400"
    assert second["command"] == json.loads(Path("run/result.json").read_text())["command"]
    for start in (first, second):
        age = datetime.now(UTC) - datetime.fromisoformat(start["time"])
        assert timedelta(0) <= age < timedelta(minutes=10)
        assert start["path"] == os.path.realpath("run")
        assert start["working_directory"] == os.getcwd()
        assert start["host"] == platform.node()
        assert start["python"] == "{}.{}.{}".format(*sys.version_info)
        assert start["cores"] == os.cpu_count()
        assert start["memory_bytes"] == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        assert start["cpu"]
        assert start["gpu"] is None
        assert start.keys() == START.keys()


def test_bytes_that_are_no_text_are_noted_escaped(command, quick, monkeypatch):
    folder = os.fsdecode(b"caf\xe9")
    Path(folder).mkdir()
    monkeypatch.chdir(folder)
    assert command(*quick, "hydra.run.dir=run").code == 0
    (start,) = RunDirectory(Path("run")).read_starts()
    assert start["path"].endswith(r"/caf\udce9/run")


def test_a_worker_notes_the_command_of_its_sweep(command, quick, monkeypatch):
    from dqn_runner.composing.command import Command
    from dqn_runner.sweeps.launchers.worker import Shared, execute

    typed = ["dqn-train", "-m", *quick, "seed=1,2", "hydra.sweep.dir=sweep"]
    context, config = Command(typed[1:]).context()
    monkeypatch.setattr(sys, "argv", ["/somewhere/else/_submit.py", "folder"])
    shared = Shared(context, config, Singleton.get_state(), typed)
    execute(shared, 0, [*quick, "seed=1", "hydra.sweep.subdir=first"])
    run = RunDirectory(Path("sweep/first"))
    (start,) = run.read_starts()
    assert start["command"] == (run.read_result() or {})["command"]
    assert start["command"].startswith("dqn-train -m ")
    assert "seed=1,2" in start["command"]


def test_older_runs_have_no_starts(tmp_path):
    assert RunDirectory(tmp_path).read_starts() == []


@pytest.mark.parametrize(
    "damaged",
    [
        "", "{", "[]", "null", "7", "[" * 100_000, '{"time": 1}', "\0" * 50, LINE[:-20],
        json.dumps(START | {"time": "yesterday"}), json.dumps(START | {"time": "2026-01-31"}),
        json.dumps(START | {"cores": "two"}),
        json.dumps(START | {"cores": 10**20}), json.dumps(START | {"command": ["rm", "-r"]}),
        json.dumps(START | {"host": None}), json.dumps(START | {"gpu": {"a": 1}}),
        json.dumps(START | {"memory_bytes": float("nan")}), json.dumps(START | {"os": "\ud800"}),
    ],
)  # fmt: skip
def test_damaged_lines_are_left_out(tmp_path, damaged):
    assert read(tmp_path, LINE + damaged + "\n" + LINE) == [START, START]


def test_of_a_huge_file_the_last_starts_are_read(tmp_path):
    starts = read(tmp_path, LINE * (3 * LARGEST_FILE // len(LINE)))
    assert 0 < len(starts) <= LARGEST_FILE // len(LINE)
    assert all(start == START for start in starts)
    assert read(tmp_path, b"x" * (2 * LARGEST_FILE) + b"\n" + LINE.encode()) == [START]


def test_no_plain_file_holds_no_starts(tmp_path):
    started = RunDirectory(tmp_path).started
    os.mkfifo(started)
    assert RunDirectory(tmp_path).read_starts() == []
    started.unlink()
    started.mkdir()
    assert RunDirectory(tmp_path).read_starts() == []


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary())
def test_any_bytes_are_read(tmp_path, content):
    read(tmp_path, content)
    read(tmp_path, LINE.encode() + content)


def test_a_start_after_a_torn_line_is_whole(command, quick):
    assert command(*quick, "hydra.run.dir=run").code == 0
    run_dir = RunDirectory(Path("run"))
    with run_dir.started.open("a") as file:
        file.write(LINE[:30])
    assert command("resume=run", "total_timesteps=400").code == 0
    assert len(run_dir.read_starts()) == 2
    assert len(run_dir.started.read_text().splitlines()) == 3
