"""dqn-dashboard: what SwanLab's dashboard tells of our runs, asked over HTTP and in a browser."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import psutil
import pytest
import yaml
from rich.console import Console
from watching import wait_for

from dqn_runner.analysis.groups import group_color
from dqn_runner.board.board import Board
from dqn_runner.board.server import _app
from dqn_runner.board.tables import SWANBOARD_VERSION
from dqn_runner.dashboard import command_line, open_browser, store_parent, updating
from dqn_runner.program import guarded
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.runs.metrics_file import MetricsFile, read_metrics
from dqn_runner.types import flatten

needs_swanboard = pytest.mark.skipif(
    importlib.util.find_spec("swanboard") is None,
    reason=f"needs swanboard: pip install swanboard=={SWANBOARD_VERSION}",
)
FINISHED, RUNNING, STOPPED = 1, 0, -1


class Dashboard:
    """A dqn-dashboard process and its address."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self.child = child
        self.said: list[str] = []
        assert child.stdout is not None
        for line in child.stdout:
            self.said.append(line.rstrip())
            if address := re.match(r"http://\S+", line):
                self.address = address[0]
                return
        raise AssertionError(child.communicate())

    def get(self, path: str, **headers: str) -> Any:
        url = f"{self.address}/api/v1/{urllib.parse.quote(path)}"
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return json.load(answer)["data"]

    def runs(self) -> dict[str, dict[str, Any]]:
        return {run["name"]: run for run in self.get("project")["experiments"]}

    def points(self, run: str, metric: str) -> list[tuple[int, float]]:
        answer = self.get(f"experiment/{self.runs()[run]['id']}/tag/{metric}")
        return [(point["index"], point["data"]) for point in answer["list"]]

    def wait(self, condition: Callable[[], bool]) -> None:
        wait_for(condition, self.child, seconds=10)


@contextlib.contextmanager
def opened(directory: Path, temporary: Path, *arguments: str) -> Iterator[Dashboard]:
    temporary.mkdir(exist_ok=True)
    code = "from dqn_runner.dashboard import main; main()"
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(directory), "--no-browser", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    try:
        yield Dashboard(child)
    finally:
        child.kill()
        child.communicate()


def write_run(path: Path, group: str, rows: list[dict[str, float]], **config: Any) -> RunDirectory:
    """A run as dqn-train leaves it when it is killed."""
    run_dir = RunDirectory(path)
    run_dir.claim_new()
    run_dir.start({"tracker": {"name": path.name, "group": group}, **config})
    run_dir.close()
    append(run_dir, *rows)
    return run_dir


def append(run_dir: RunDirectory, *rows: dict[str, float]) -> None:
    file = MetricsFile(run_dir.metrics)
    for row in rows:
        file.log(row)
    file.close()


def row(env_steps: int, value: float = 1.0) -> dict[str, float]:
    return {"env_steps": env_steps, "episodes": 0, "train/td_loss": value}


LONG = [row(10 * i, value=i / 7) for i in range(1, 10_501)]
TORN = '{"env_steps": 40, "train/td_lo'


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, quick) -> Path:
    """Runs in every state: a real sweep, two that were killed, and one that never began."""
    cwd = tmp_path_factory.mktemp("cwd")
    sweep = [sys.executable, "-c", "from dqn_runner.train import main; main()", *quick]
    sweep += ["-m", "seed=0,1", "hydra.sweep.dir=outputs/sweeps/mine", "tracker.group=swept"]
    subprocess.run(sweep, cwd=cwd, check=True, capture_output=True)
    folder = cwd / "outputs"
    write_run(folder / "long", "by hand", LONG, seed=0, deep={"list": [64, 64], "off": False})
    torn = write_run(folder / "torn", "swept", [row(10), row(20, 5.0), row(30, -2.5)], seed=3)
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
    with opened(outputs, tmp_path_factory.mktemp("temporary")) as dashboard:
        yield dashboard


NAMES = {
    "seed=0 in sweeps/mine": "sweeps/mine/seed=0",
    "seed=1 in sweeps/mine": "sweeps/mine/seed=1",
    "long": "long",
    "torn": "torn",
}


@needs_swanboard
@pytest.mark.parametrize("name", NAMES)
def test_points_and_table_say_what_metrics_jsonl_says(outputs, dashboard, name):
    rows = read_metrics(outputs / NAMES[name] / "metrics.jsonl")
    metrics = {key for row in rows for key in row} - {"env_steps", "episodes"}
    last = dashboard.get("project/summaries")["summaries"][name]
    assert set(last) == metrics
    for metric in metrics:
        expected = [(row["env_steps"], row[metric]) for row in rows if metric in row]
        points = dashboard.points(name, metric)
        assert last[metric] == expected[-1][1]
        assert points[0] == expected[0]
        assert points[-1] == expected[-1]
        # swanboard thins out what has more than 1,500 points.
        assert points == expected if len(expected) <= 1500 else set(points) <= set(expected)


@needs_swanboard
@pytest.mark.parametrize("name", NAMES)
def test_the_table_holds_settings_and_results(outputs, dashboard, name):
    run = dashboard.runs()[name]
    columns = {key: column["value"] for key, column in run["config"].items()}
    assert list(columns)[:3] == ["final_return", "best_return", "seed"]
    config = flatten(yaml.safe_load((outputs / NAMES[name] / "config.yaml").read_text()))
    for key, value in config.items():
        assert columns[key] == (value if isinstance(value, str) else json.dumps(value))
    assert set(columns) == {*config, "final_return", "best_return"}
    result = RunDirectory(outputs / NAMES[name]).read_result()
    for key in ("final", "best"):
        score = result and f"{result[key]['mean']:.1f} ± {result[key]['std']:.1f}"
        assert columns[f"{key}_return"] == score
    assert run["status"] == (FINISHED if "seed" in name else STOPPED)


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
def test_a_group_keeps_its_colour(dashboard):
    colors = {name: {run["light"], run["dark"]} for name, run in dashboard.runs().items()}
    assert colors["long"] == {group_color("by hand", None)}
    assert colors["torn"] == colors["seed=0 in sweeps/mine"]
    assert colors["torn"] == {group_color("swept", "anything")} != colors["long"]


@needs_swanboard
def test_what_never_began_is_named_and_left_out(outputs, dashboard):
    (line,) = (line for line in dashboard.said if line.startswith("left out"))
    assert str(outputs / "failed") in line
    assert "no config.yaml" in line
    assert set(dashboard.runs()) == set(NAMES)
    assert "shows 4 runs" in dashboard.said[-1]


@needs_swanboard
def test_only_this_machine_can_look_and_only_look(dashboard):
    listening = [c for c in psutil.Process(dashboard.child.pid).net_connections() if not c.raddr]
    assert [connection.laddr.ip for connection in listening] == ["127.0.0.1"]
    run = dashboard.runs()["long"]["id"]

    def status(path: str, method: str = "GET", **headers: str) -> int:
        url = f"{dashboard.address}/api/v1/{path}"
        request = urllib.request.Request(url, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    assert status("project") == 200
    assert status("project", Host="evil.example") == 400
    assert status("project", method="DELETE") == 403
    assert status(f"experiment/{run}", method="DELETE") == 403
    assert status(f"experiment/{run}/stop") == 403
    assert status(f"media//etc/hostname?tag=train/td_loss&experiment_id={run}") == 403
    assert dashboard.runs()["long"]["status"] == STOPPED
    # The page names every run in one address.
    assert status("project/summaries?experiment_names=" + "x" * 200_000) == 200


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
    first.start({"seed": 0, "tracker": {"group": None, "name": "first"}})
    append(first, row(10))
    with opened(folder, tmp_path / "temporary") as dashboard:
        assert dashboard.runs()["first"]["status"] == RUNNING
        append(first, row(20), {**row(30), "eval/episode_return_mean": 7.0})
        dashboard.wait(lambda: len(dashboard.points("first", "train/td_loss")) == 3)
        assert dashboard.points("first", "eval/episode_return_mean") == [(30, 7.0)]

        write_run(folder / "second", "other", [row(10)], seed=1)
        dashboard.wait(lambda: "second" in dashboard.runs())
        sources = {c["name"]: c["source"] for c in dashboard.get("project/charts")["charts"]}
        assert sources["train/td_loss"] == ["first", "second"]

        # As a resumed run does: rows after the checkpoint are taken back and written anew.
        kept = first.metrics.read_text().splitlines(keepends=True)[0]
        first.metrics.write_text(kept)
        append(first, row(20, 8.0), row(30, 9.0), row(40, 10.0))
        expected = [(10, 1.0), (20, 8.0), (30, 9.0), (40, 10.0)]
        dashboard.wait(lambda: dashboard.points("first", "train/td_loss") == expected)

        score = {"mean": 412.0, "std": 3.0}
        first.finish({"env_steps": 40, "wall_time_seconds": 90.0, "final": score, "best": score})
        first.close()
        dashboard.wait(lambda: dashboard.runs()["first"]["status"] == FINISHED)
        config = dashboard.runs()["first"]["config"]
        assert config["final_return"]["value"] == "412.0 ± 3.0"


@needs_swanboard
def test_a_row_that_is_being_written_is_taken_when_it_is_whole(tmp_path):
    run_dir = write_run(tmp_path / "outputs" / "run", "group", [row(10)])
    store = tmp_path / "store"
    store.mkdir()
    board = Board(tmp_path / "outputs", store)

    def steps() -> list[int]:
        board.update()
        (log,) = (store / "run-1" / "logs" / "0").glob("*.log")
        return [json.loads(line)["index"] for line in log.read_text().splitlines()]

    assert steps() == [10]
    with run_dir.metrics.open("a", buffering=1) as file:
        file.write(TORN)
        file.flush()
        assert steps() == [10]
        file.write('ss": 1.0}\n')
        assert steps() == [10, 40]
        assert steps() == [10, 40]


@needs_swanboard
def test_damaged_lines_are_told_of_once_and_what_follows_is_shown(tmp_path):
    run_dir = write_run(tmp_path / "outputs" / "run", "group", [row(10)])
    store, out = tmp_path / "store", io.StringIO()
    store.mkdir()
    update = updating(Board(tmp_path / "outputs", store), Console(file=out, soft_wrap=True))
    for line in (b"\xff\n", json.dumps(row(30)).encode() + b"\n"):
        with run_dir.metrics.open("ab") as file:
            file.write(line)
        update()
    assert out.getvalue().startswith(f"left out {run_dir.metrics}: line 2 is damaged")
    assert out.getvalue().count("\n") == 1
    (log,) = (store / "run-1" / "logs" / "0").glob("*.log")
    assert [json.loads(line)["index"] for line in log.read_text().splitlines()] == [10, 30]


@needs_swanboard
def test_the_copy_is_made_in_little_memory(tmp_path):
    """A piece at a time, whose size does not depend on that of the file."""
    store = tmp_path / "store"
    store.mkdir()
    write_run(tmp_path / "outputs" / "first", "group", LONG[:10])
    board = Board(tmp_path / "outputs", store)
    board.update()  # imports what it takes
    large = write_run(tmp_path / "outputs" / "large", "group", LONG)
    content = large.metrics.read_text()
    large.metrics.write_text(content * 10)
    tracemalloc.start()
    board.update()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no disk in memory")
def test_a_large_copy_is_not_made_in_memory(tmp_path, monkeypatch):
    monkeypatch.delenv("TMPDIR", raising=False)
    assert store_parent(tmp_path) == Path("/dev/shm")
    with (tmp_path / "metrics.jsonl").open("wb") as file:
        file.truncate(shutil.disk_usage("/dev/shm").free // 2)  # takes no room on the disk
    assert store_parent(tmp_path) is None


@needs_swanboard
def test_a_run_killed_in_the_middle(tmp_path, process, quick):
    with process(*quick, "total_timesteps=10000000", "hydra.run.dir=outputs/victim") as child:
        metrics = tmp_path / "outputs" / "victim" / "metrics.jsonl"
        while not (metrics.exists() and len(metrics.read_bytes().splitlines()) > 3):
            assert child.poll() is None
            time.sleep(0.1)
        with opened(tmp_path / "outputs", tmp_path / "temporary") as dashboard:
            assert dashboard.runs()["victim"]["status"] == RUNNING
            child.kill()
            child.wait()
            dashboard.wait(lambda: dashboard.runs()["victim"]["status"] == STOPPED)
            rows = [row for row in read_metrics(metrics) if "rollout/episode_return" in row]
            points = dashboard.points("victim", "rollout/episode_return")
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
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.1.9")
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


@pytest.fixture(scope="module")
def browse(dashboard, tmp_path_factory) -> Callable[..., tuple[str, np.ndarray]]:
    """What a page of the dashboard holds, and a picture of it [H, W, 3]."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs chromium: apt-get install chromium")

    def browse(path: str) -> tuple[str, np.ndarray]:
        folder = tmp_path_factory.mktemp("browser")
        command = [
            chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--lang=en-US", f"--user-data-dir={folder / 'profile'}",
            # Any host but this one cannot be found: the page must do without the internet.
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            "--window-size=9000,1400", "--virtual-time-budget=8000",
            f"--screenshot={folder / 'page.png'}", "--dump-dom", f"{dashboard.address}{path}",
        ]  # fmt: skip
        page = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
        return page.stdout, imageio.imread(folder / "page.png")[..., :3]

    return browse


def colored(picture: np.ndarray, color: str) -> int:
    """How many pixels have the colour, written as #rrggbb."""
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return int((picture == wanted).all(axis=-1).sum())


@needs_swanboard
@pytest.mark.slow
def test_the_page_in_a_browser_lists_and_overlays_the_runs(outputs, dashboard, browse):
    page, _ = browse("/")
    text = re.sub(r"<[^>]+>", "\n", page)
    assert all(name in text for name in NAMES)
    for name in list(NAMES)[:2]:
        result = RunDirectory(outputs / NAMES[name]).read_result()
        assert result is not None
        assert f"{result['final']['mean']:.1f} ± {result['final']['std']:.1f}" in text
    assert all(title in text for title in ("agent.lr", "deep.list", "eval/episode_return_mean"))
    assert "1500" in text  # the last loss of the long run
    assert "TypeError" not in text
    assert "[object Object]" not in text

    page, picture = browse("/charts")
    text = re.sub(r"<[^>]+>", "\n", page)
    assert all(text.count(name) >= 2 for name in NAMES)
    for group in ("by hand", "swept"):
        assert colored(picture, group_color(group, None)) > 500


@needs_swanboard
def test_what_is_replaced_for_a_dashboard_is_restored(tmp_path):
    from swanboard.controller import experiment, project
    from swanboard.db.models import Chart

    def state() -> list[Any]:
        places = [(yaml, "FullLoader"), (project, "yaml"), (experiment, "yaml")]
        places += [(project, "__to_list"), (Chart, "sources")]
        return [vars(owner)[name] for owner, name in places] + [os.environ.get("SWANLAB_LOG_DIR")]

    before = state()
    with _app(tmp_path):
        assert yaml.FullLoader is before[0]
        assert all(new is not old for new, old in zip(state()[1:], before[1:], strict=True))
    assert state() == before
