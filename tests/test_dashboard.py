"""dqn-dashboard: the command, and what its server answers over HTTP."""

from __future__ import annotations

import hashlib
import io
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from dashboards import (
    FINISHED,
    RUNNING,
    STOPPED,
    Dashboard,
    append,
    needs_swanboard,
    opened,
    row,
    write_run,
)
from rich.console import Console

from dqn_runner.analysis.groups import group_colors, shade
from dqn_runner.board.board import Board
from dqn_runner.dashboard import command_line, damage_printer, open_browser
from dqn_runner.program import guarded
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.runs.metrics_file import read_metrics
from dqn_runner.types import flatten

LONG = [row(10 * i, value=i / 7) for i in range(1, 10_501)]
TORN = '{"env_steps": 40, "train/td_lo'


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, quick) -> Path:
    """Runs in every state: a real sweep, two that were killed, and one that never began."""
    cwd = tmp_path_factory.mktemp("cwd")
    sweep = [sys.executable, "-c", "from dqn_runner.train import main; main()", *quick]
    sweep += ["-m", "seed=0,1", "hydra.sweep.dir=outputs/sweeps/mine"]
    subprocess.run(sweep, cwd=cwd, check=True, capture_output=True)
    folder = cwd / "outputs"
    config = yaml.safe_load((folder / "sweeps" / "mine" / "seed=0" / "config.yaml").read_text())
    config["agent"]["lr"] = 0.5
    write_run(folder / "long", LONG, config | {"seed": 7})
    torn = write_run(folder / "torn", [row(10), row(20, 5.0), row(30, -2.5)], config | {"seed": 3})
    with torn.metrics.open("a") as file:
        file.write(TORN)
    (folder / "failed" / ".hydra").mkdir(parents=True)
    return folder


def contents(folder: Path) -> dict[str, str]:
    """Every file and folder below `folder`, with a checksum of what it holds."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
    }


@pytest.fixture(scope="module")
def dashboard(outputs, tmp_path_factory) -> Iterator[Dashboard]:
    with opened(outputs, tmp_path_factory.mktemp("temporary"), "--show", "runs") as dashboard:
        yield dashboard


# Each run's name on the page, and its directory.
NAMES = {
    "agent.lr=0.001 seed=0": "sweeps/mine/seed=0",
    "agent.lr=0.001 seed=1": "sweeps/mine/seed=1",
    "agent.lr=0.5 seed=7": "long",
    "agent.lr=0.5 seed=3": "torn",
}


@needs_swanboard
@pytest.mark.parametrize("name", NAMES)
def test_points_are_those_of_metrics_jsonl(outputs, dashboard, name):
    rows = read_metrics(outputs / NAMES[name] / "metrics.jsonl")
    metrics = {key for row in rows for key in row} - {"env_steps", "episodes"}
    last = dashboard.get("project/summaries")["summaries"][name]
    assert set(last) == metrics
    number = dashboard.runs()[name]["id"]
    for metric in metrics:
        expected = [(row["env_steps"], row[metric]) for row in rows if metric in row]
        points = dashboard.points(name, metric)
        columns = dashboard.get(f"points/{metric}?ids={number},99")[str(number)]
        assert last[metric] == expected[-1][1]
        assert points[0] == expected[0]
        assert points[-1] == expected[-1]
        for shown in (points, list(zip(columns["index"], columns["data"], strict=True))):
            # Of more than a thousand points the page gets the extremes.
            assert shown == expected if len(expected) <= 1000 else set(shown) <= set(expected)
            assert max(shown, key=lambda p: p[1]) == max(expected, key=lambda p: p[1])


@needs_swanboard
@pytest.mark.parametrize("name", NAMES)
def test_the_table_holds_results_and_settings(outputs, dashboard, name):
    run = dashboard.runs()[name]
    columns = {key: column["value"] for key, column in run["config"].items()}
    assert list(columns)[:4] == ["final_return", "best_return", "agent.lr", "seed"]
    config = flatten(yaml.safe_load((outputs / NAMES[name] / "config.yaml").read_text()))
    for key, value in config.items():
        text = isinstance(value, str) or type(value) in {int, float}
        assert columns[key] == (value if text else json.dumps(value))
    result = RunDirectory(outputs / NAMES[name]).read_result()
    for key in ("final", "best"):
        score = result[key] if result else dict.fromkeys(("mean", "std", "episodes"))
        shown = [columns[f"{key}_{name}"] for name in ("return", "return_std", "episodes")]
        expected = [score[name] for name in ("mean", "std", "episodes")]
        assert shown == (pytest.approx(expected, rel=1e-4) if result else expected)
    assert run["status"] == (FINISHED if result else STOPPED)
    assert run["run_id"] == run["description"] == NAMES[name]


@needs_swanboard
def test_charts_overlay_all_runs_that_have_the_metric(outputs, dashboard):
    answer = dashboard.get("project/charts")
    sources = {chart["name"]: set(chart["source"]) for chart in answer["charts"]}
    expected: dict[str, set[str]] = {}
    for name, path in NAMES.items():
        for metrics in read_metrics(outputs / path / "metrics.jsonl"):
            for metric in metrics.keys() - {"env_steps", "episodes"}:
                expected.setdefault(metric, set()).add(name)
    assert sources == expected
    names = {chart["id"]: chart["name"] for chart in answer["charts"]}
    sections = [space["name"] for space in answer["namespaces"]]
    assert sections == ["eval", "rollout", "train", "time"]
    for space in answer["namespaces"]:
        assert {names[chart].split("/")[0] for chart in space["charts"]} == {space["name"]}


@needs_swanboard
def test_a_group_has_one_color_and_its_seeds_have_shades_of_it(dashboard):
    colors = {name: {run["light"], run["dark"]} for name, run in dashboard.runs().items()}
    first, second = group_colors(2)
    assert colors == {
        "agent.lr=0.001 seed=0": {shade(first, 0, 2)},
        "agent.lr=0.001 seed=1": {shade(first, 1, 2)},
        "agent.lr=0.5 seed=7": {shade(second, 0, 2)},
        "agent.lr=0.5 seed=3": {shade(second, 1, 2)},
    }


@needs_swanboard
def test_a_chart_can_be_pinned_and_a_run_hidden(outputs, tmp_path):
    with opened(outputs, tmp_path / "temporary", "--show", "runs") as dashboard:
        charts = dashboard.get("project/charts")["charts"]
        loss = next(chart["id"] for chart in charts if chart["name"] == "train/td_loss")
        groups = dashboard.change(f"chart/{loss}/status", {"status": 1})["groups"]
        assert [c["name"] for c in groups[0]["charts"]] == ["train/td_loss"]
        assert dashboard.get("project/charts")["namespaces"][0]["name"] == "pinned"
        number = dashboard.runs()["agent.lr=0.5 seed=7"]["id"]
        dashboard.change(f"experiment/{number}/show", {"show": False})
        shown = {name: run["show"] for name, run in dashboard.runs().items()}
        assert shown == {name: int(name != "agent.lr=0.5 seed=7") for name in NAMES}


@needs_swanboard
def test_what_never_began_is_named_and_left_out(outputs, dashboard):
    (line,) = (line for line in dashboard.said if line.startswith("left out"))
    assert str(outputs / "failed") in line
    assert "no config.yaml" in line
    assert set(dashboard.runs()) == set(NAMES)
    assert "shows 4 runs in 2 groups" in dashboard.said[-1]


@needs_swanboard
def test_only_this_machine_can_look_and_only_look(outputs, dashboard):
    before = contents(outputs)
    listening = [c for c in psutil.Process(dashboard.child.pid).net_connections() if not c.raddr]
    assert [connection.laddr.ip for connection in listening] == ["127.0.0.1"]
    run = dashboard.runs()["agent.lr=0.001 seed=0"]["id"]  # it has a curve.png

    def status(path: str, method: str = "GET", **headers: str) -> int:
        url = f"{dashboard.address}/{path}"
        request = urllib.request.Request(url, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert status("api/v1/project") == 200
    assert status("api/v1/project", Host="evil.example") == 400
    assert status("api/v1/project", method="DELETE") == 405
    assert status(f"api/v1/experiment/{run}", method="DELETE") == 405
    assert status(f"api/v1/experiment/{run}/stop") == 404
    assert status(f"api/v1/media/curve.png?tag=curve&experiment_id={run}") == 200
    assert status("api/v1/media/curve.png?experiment_id=x") == 400
    assert status(f"api/v1/media/config.yaml?tag=curve&experiment_id={run}") == 404
    assert status(f"api/v1/media/..%2Fconfig.yaml?tag=curve&experiment_id={run}") == 404
    assert status("api/v1/experiment/99/recent_log") == 404
    assert status("api/v1/show/nothing", method="PATCH") == 400
    assert status("api/v1/points/train/td_loss?ids=x") == 400
    for name in ("..%2f..%2fapp.py", "assets/..%2f..%2f..%2fapp.py"):
        with urllib.request.urlopen(f"{dashboard.address}/{name}") as answer:
            assert answer.headers["content-type"].startswith("text/html")  # the page itself
    # The page names every run in one address.
    assert status("api/v1/project/summaries?experiment_names=" + "x" * 200_000) == 200
    assert contents(outputs) == before


@needs_swanboard
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_it_ends_cleanly_and_leaves_nothing(outputs, tmp_path, number, code):
    before = contents(outputs)
    with opened(outputs, tmp_path / "temporary") as dashboard:
        assert any((tmp_path / "temporary").iterdir())
        dashboard.runs()
        dashboard.child.send_signal(number)
        _, errors = dashboard.child.communicate(timeout=10)
    assert dashboard.child.returncode == code
    assert errors == ""
    assert list((tmp_path / "temporary").iterdir()) == []
    assert contents(outputs) == before


@needs_swanboard
def test_a_running_run_is_followed_until_it_finishes(tmp_path):
    folder = tmp_path / "outputs"
    first = RunDirectory(folder / "first")
    first.claim_new()
    first.start({"seed": 0})
    append(first, row(10))
    with opened(folder, tmp_path / "temporary", "--show", "runs") as dashboard:
        assert dashboard.runs()["seed=0"]["status"] == RUNNING
        append(first, row(20), {**row(30), "eval/episode_return_mean": 7.0})
        dashboard.wait(lambda: len(dashboard.points("seed=0", "train/td_loss")) == 3)
        assert dashboard.points("seed=0", "eval/episode_return_mean") == [(30, 7.0)]

        write_run(folder / "second", [row(10)], {"seed": 1})
        dashboard.wait(lambda: "seed=1" in dashboard.runs())
        sources = {c["name"]: c["source"] for c in dashboard.get("project/charts")["charts"]}
        assert set(sources["train/td_loss"]) == {"seed=0", "seed=1"}

        # As a resumed run does: rows after the checkpoint are taken back and written anew.
        kept = first.metrics.read_text().splitlines(keepends=True)[0]
        first.metrics.write_text(kept)
        append(first, row(20, 8.0), row(30, 9.0), row(40, 10.0))
        expected = [(10, 1.0), (20, 8.0), (30, 9.0), (40, 10.0)]
        dashboard.wait(lambda: dashboard.points("seed=0", "train/td_loss") == expected)

        score = {"mean": 412.0, "std": 3.0}
        first.finish({"env_steps": 40, "wall_time_seconds": 90.0, "final": score, "best": score})
        first.close()
        dashboard.wait(lambda: dashboard.runs()["seed=0"]["status"] == FINISHED)
        assert dashboard.runs()["seed=0"]["config"]["final_return"]["value"] == 412.0


@needs_swanboard
def test_groups_follow_their_runs_and_the_page_can_change_what_is_shown(tmp_path):
    folder = tmp_path / "outputs"
    evaluation = "eval/episode_return_mean"
    for seed in (0, 1, 2):
        rows = [{**row(10), evaluation: 1.0 + seed}, {**row(20), evaluation: 10.0 + seed}]
        write_run(folder / f"{seed}", rows, {"seed": seed, "lr": 0.1})
    with opened(folder, tmp_path / "temporary", "--show", "groups") as dashboard:
        (name,) = dashboard.runs()
        assert name == "all runs, IQM of 3 seeds"
        assert dashboard.points(name, evaluation) == [(10, 2.0), (20, 11.0)]
        append(RunDirectory(folder / "0"), {**row(30), evaluation: 5.0})
        append(RunDirectory(folder / "1"), {**row(30), evaluation: 50.0})
        append(RunDirectory(folder / "2"), {**row(30), evaluation: 500.0})
        dashboard.wait(lambda: len(dashboard.points(name, evaluation)) == 3)
        # With fewer than four seeds the middle half is all of them.
        assert dashboard.points(name, evaluation)[-1] == (30, 185.0)
        dashboard.change("show/both", {})
        assert set(dashboard.runs()) == {name, "seed=0", "seed=1", "seed=2"}
        dashboard.change("show/runs", {})
        assert set(dashboard.runs()) == {"seed=0", "seed=1", "seed=2"}


@pytest.mark.parametrize(("number", "shown"), [(1, "both"), (12, "both"), (13, "groups")])
def test_many_runs_are_shown_as_groups(tmp_path, number, shown):
    for seed in range(number):
        write_run(tmp_path / f"{seed}", [row(10)], {"seed": seed})
    board = Board(tmp_path)
    board.update()
    assert board.shown == shown
    runs = 0 if shown == "groups" else number
    assert len(board.entries) == runs + (number > 1)


def test_a_row_that_is_being_written_is_taken_when_it_is_whole(tmp_path):
    run_dir = write_run(tmp_path / "outputs" / "run", [row(10)], {"seed": 0})
    board = Board(tmp_path / "outputs", "runs")

    def steps() -> list[float]:
        board.update()
        (entry,) = board.entries
        return list(entry.points["train/td_loss"].shown()[:, 0])

    assert steps() == [10]
    with run_dir.metrics.open("a", buffering=1) as file:
        file.write(TORN)
        file.flush()
        assert steps() == [10]
        file.write('ss": 1.0}\n')
        assert steps() == [10, 40]
        assert steps() == [10, 40]


def test_damaged_lines_are_told_of_once_and_what_follows_is_shown(tmp_path):
    run_dir = write_run(tmp_path / "outputs" / "run", [row(10)], {"seed": 0})
    board, out = Board(tmp_path / "outputs", "runs"), io.StringIO()
    say_damage = damage_printer(board, Console(file=out, soft_wrap=True))
    board.update()
    for line in (b"\xff\n", json.dumps(row(30)).encode() + b"\n"):
        with run_dir.metrics.open("ab") as file:
            file.write(line)
        board.update()
        say_damage()
    assert out.getvalue().startswith(f"left out {run_dir.metrics}: line 2 is damaged")
    assert out.getvalue().count("\n") == 1
    (entry,) = board.entries
    assert list(entry.points["train/td_loss"].shown()[:, 0]) == [10, 30]


@needs_swanboard
def test_a_run_killed_in_the_middle(tmp_path, process, quick):
    with process(*quick, "total_timesteps=10000000", "hydra.run.dir=outputs/victim") as child:
        metrics = tmp_path / "outputs" / "victim" / "metrics.jsonl"
        while not (metrics.exists() and len(metrics.read_bytes().splitlines()) > 3):
            assert child.poll() is None
            time.sleep(0.1)
        with opened(tmp_path / "outputs", tmp_path / "temporary", "--show", "runs") as dashboard:
            assert dashboard.runs()["seed=0"]["status"] == RUNNING
            child.kill()
            child.wait()
            dashboard.wait(lambda: dashboard.runs()["seed=0"]["status"] == STOPPED)
            rows = [row for row in read_metrics(metrics) if "rollout/episode_return" in row]
            points = dashboard.points("seed=0", "rollout/episode_return")
            last = rows[-1]["env_steps"], rows[-1]["rollout/episode_return"]
            assert points[-1] == last


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys) -> Callable[..., str]:
    """The one line on stderr with which dqn-dashboard turns arguments down."""
    monkeypatch.chdir(tmp_path)

    def refused(*arguments: str) -> str:
        assert guarded("dqn-dashboard", command_line, list(arguments)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return refused


def test_bad_input_is_one_line(refused, tmp_path, monkeypatch):
    assert refused() == "dqn-dashboard: error: outputs: no such directory"
    assert refused("") == "dqn-dashboard: error: argument directory: must not be empty"
    for option in (["--port", "x"], ["--port", "65536"], ["--time-limit", "1e300"], ["--nosuch"]):
        assert option[0] in refused(*option)
    monkeypatch.setattr("dqn_runner.swanlab_internals.page.version", lambda name: "0.1.9")
    assert refused(str(tmp_path)) == (
        "dqn-dashboard: error: SwanLab's dashboard needs swanboard 0.1.10b2, found 0.1.9: "
        "pip install swanboard==0.1.10b2"
    )


@needs_swanboard
def test_a_port_that_is_taken(refused, dashboard, tmp_path):
    port = dashboard.address.rsplit(":", 1)[1]
    assert f"--port={port}: Address already in use" in refused(str(tmp_path), "--port", port)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there always is a screen")
def test_a_browser_is_opened_where_there_is_a_screen(monkeypatch):
    shown: list[str] = []
    monkeypatch.setattr("webbrowser.open", shown.append)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    open_browser("http://127.0.0.1:1")
    assert shown == []
    monkeypatch.setenv("DISPLAY", ":0")
    open_browser("http://127.0.0.1:1")
    assert shown == ["http://127.0.0.1:1"]
