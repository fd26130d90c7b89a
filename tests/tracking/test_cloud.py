"""SwanLab's cloud, played by a server on loopback: each point once, and nothing waits for it."""

from __future__ import annotations

import io
import itertools
import logging
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from swanlab_server import API_KEY, CloudRun, SwanLabServer
from watching import wait_for

from dqn_runner.errors import ConfigError
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.runs.metrics_file import MetricsFile, read_metrics
from dqn_runner.tracking import cloud
from dqn_runner.tracking.tracker import SwanLabSpec, SwanLabTracker

SPEC = {
    "mode": "offline", "project": "tests", "workspace": None, "name": "mine", "description": None,
    "group": "ours", "job_type": "train", "tags": ["one"], "host": None, "time_limit": 20.0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def logged_in(tmp_path, monkeypatch):
    """A user who has logged in by environment variable, and sends small batches often."""
    for name in ("SWANLAB_API_HOST", "SWANLAB_WEB_HOST", "SWANLAB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SWANLAB_ROOT", str(tmp_path / "home"))
    monkeypatch.setenv("SWANLAB_API_KEY", API_KEY)
    monkeypatch.setenv("SWANLAB_CORE_RECORD_BATCH", "20")
    monkeypatch.setenv("SWANLAB_CORE_RECORD_INTERVAL", "0.1")
    monkeypatch.setattr(cloud, "SECONDS_BETWEEN_ATTEMPTS", 3600.0)


@pytest.fixture
def server():
    server = SwanLabServer()
    yield server
    server.released.set()
    server.stop()


@pytest.fixture
def warnings(caplog) -> Callable[[], list[str]]:
    """What a user was warned of."""
    return lambda: [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.name.startswith("dqn_runner.")
    ]


def logged(run: Path) -> dict[tuple[str, int], list[float]]:
    """The points of metrics.jsonl, as the server should have them: each once."""
    return {
        (name, int(row["env_steps"])): [value]
        for row in read_metrics(run / "metrics.jsonl")
        for name, value in row.items()
        if "/" in name
    }


def only_run(server: SwanLabServer) -> CloudRun:
    (run,) = server.runs.values()
    return run


def logged_run(
    path: Path,
    rows: int = 30,
    pause: float = 0.0,
    before_close: Callable[[], object] = lambda: None,
    **changes: object,
) -> Path:
    """A run directory whose `rows` rows of three points are in both records."""
    run_dir = RunDirectory(path)
    run_dir.swanlab.mkdir(parents=True, exist_ok=True)
    tracker = SwanLabTracker(SwanLabSpec(**{**SPEC, **changes}), run_dir.swanlab, {"a": {"b": 1}})
    metrics = MetricsFile(run_dir.metrics)
    for i in range(1, rows + 1):
        row = {"env_steps": 10 * i, "episodes": i, "x/y": i / 8, "x/z": -float(i), "time/t": 0.5}
        metrics.log(row)
        tracker.log(row)
        time.sleep(pause)
    metrics.close()
    before_close()
    tracker.close("success")
    return path


def upload(
    *runs: Path, host: str | None, time_limit: float = 20.0
) -> tuple[int, list[tuple[str, str]]]:
    """The exit code, and name and result of each row of the table."""
    out = io.StringIO()
    code = cloud.upload(dict.fromkeys(runs, ""), host, time_limit, Console(file=out))
    lines = out.getvalue().splitlines()
    table = [re.split(r"\s{2,}", line.strip()) for line in lines if line.startswith(" ")]
    assert table[0] == ["run", "SwanLab run", "points", "result"]
    return code, [(row[0], row[-1]) for row in table[1:]]


def test_an_online_run_is_in_the_cloud_as_it_is_in_the_record(server, process, quick, tmp_path):
    arguments = ["tracker.mode=online", f"tracker.host={server.url}", "hydra.run.dir=run"]
    with process(*quick, *arguments, "tracker.name=mine", "tracker.tags=[one]") as child:
        out, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (0, "")
    run, path = only_run(server), tmp_path / "run"
    columns = {(name, 300): [value] for name, value in run.table_row("result/").items()}
    assert run.training_points() == logged(path) | columns
    assert len(columns) == 11
    assert run.states == ["RUNNING", "FINISHED"]
    assert run.about["name"] == "mine"
    assert (run.about["job"], run.about["labels"]) == ("train", [{"name": "one"}])
    assert run.profile["config"]["env.id"]["value"] == "CartPole-v1"
    assert "metadata" in run.profile
    assert len(server.columns) == len(set(server.columns))
    assert run.media == [("curve", 300)]
    (picture,) = path.glob("swanlab/run-*/media/*/*.png")
    assert list(server.files.values()) == [picture.read_bytes()]
    assert f"cloud  {server.url}/@tester/dqn_runner/runs/{run.about['cuid']}" in out
    assert "POST /api/house/experiments" in " ".join(server.requests)
    assert upload(path, host=server.url) == (0, [(str(path), "sent before")])
    secret = API_KEY.encode()
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and secret in p.read_bytes()]


def test_points_come_while_the_run_goes_on_and_all_after_it_was_killed(
    server, process, quick, tmp_path
):
    arguments = ["tracker.mode=online", f"tracker.host={server.url}", "hydra.run.dir=run"]
    with process(*quick, *arguments, "total_timesteps=10000000") as child:
        wait_for(lambda: any(len(run.points) > 100 for run in server.runs.values()), seconds=60)
        assert child.poll() is None
        child.send_signal(signal.SIGKILL)
        child.wait()
    run = only_run(server)
    wait_for(lambda: run.states[-1] != "RUNNING")
    assert run.states[-1] == "CRASHED"
    assert run.training_points() == logged(tmp_path / "run")


def test_few_points_come_as_soon_as_many(server, tmp_path):
    """SwanLab writes after half a second, and then keeps it to itself until there are 8 KB."""

    def has_come() -> bool:
        return any(run.training_points() for run in server.runs.values())

    logged_run(
        tmp_path / "run",
        rows=3,
        pause=0.7,
        before_close=lambda: wait_for(has_come, seconds=10),
        **{"mode": "online", "host": server.url},
    )


def test_without_a_key_a_run_is_offline(server, tmp_path, warnings, monkeypatch):
    monkeypatch.delenv("SWANLAB_API_KEY")
    path = logged_run(tmp_path / "run", mode="online", host=server.url)
    (warning,) = warnings()
    assert "no API key" in warning
    assert f"dqn-dashboard --upload {path}" in warning
    assert server.requests == []
    with pytest.raises(ConfigError, match="no API key for http://127"):
        upload(path, host=server.url)
    monkeypatch.setenv("SWANLAB_API_KEY", API_KEY)
    assert upload(path, host=server.url) == (0, [(str(path), "sent")])
    assert only_run(server).training_points() == logged(path)


def test_the_key_of_one_server_is_not_shown_to_another(server, tmp_path, monkeypatch):
    monkeypatch.delenv("SWANLAB_API_KEY")
    (tmp_path / "home").mkdir()
    netrc = tmp_path / "home" / ".netrc"
    netrc.write_text("machine https://elsewhere.test login https://elsewhere.test password k\n")
    assert cloud.find_server(None) == ("https://elsewhere.test", True)
    assert cloud.find_server(server.url) == (server.url, False)


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        ("gone", "does not answer"),
        ("hang", "does not answer|not all was sent within 1 s"),
        ("refuse", "refuses the API key"),
        ("break", "answers 500"),
    ],
)
def test_a_run_whose_server_fails_from_the_start(server, tmp_path, warnings, failure, says):
    server.stop() if failure == "gone" else server.fail(failure)
    limit = 1.0 if failure == "hang" else 20.0
    path = logged_run(tmp_path / "run", mode="online", host=server.url, time_limit=limit)
    (warning,) = warnings()
    assert re.search(says, warning)
    assert f"`dqn-dashboard --upload {path}` sends it later" in warning
    assert server.runs == {}


@pytest.mark.parametrize("failure", ["hang", "die", "die after storing"])
def test_a_run_whose_server_fails_in_the_middle(server, tmp_path, warnings, failure):
    server.fail(failure, at=3)
    limit = 1.0 if failure == "hang" else 20.0
    path = logged_run(
        tmp_path / "run",
        before_close=lambda: wait_for(lambda: server.posts == 3),
        **{"mode": "online", "host": server.url, "time_limit": limit},
    )
    (warning,) = warnings()
    assert "the run is kept offline" in warning
    some, every = only_run(server).training_points(), logged(path)
    assert 0 < len(some) < len(every)
    server.restart()
    assert upload(path, host=server.url) == (0, [(str(path), "sent")])
    assert only_run(server).training_points() == every
    assert only_run(server).states[-1] == "FINISHED"


def test_a_run_finds_a_server_that_comes_back(server, tmp_path, warnings, monkeypatch):
    monkeypatch.setattr(cloud, "SECONDS_BETWEEN_ATTEMPTS", 0.5)
    server.fail("die after storing", at=2)
    run_dir = RunDirectory(tmp_path / "run")
    run_dir.swanlab.mkdir(parents=True)
    spec = SwanLabSpec(**{**SPEC, "mode": "online", "host": server.url})
    tracker, metrics = SwanLabTracker(spec, run_dir.swanlab, {}), MetricsFile(run_dir.metrics)

    steps = itertools.count(1)

    def log(condition: Callable[[], object]) -> None:
        until = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < until
            step = next(steps)
            row = {"env_steps": step, "x/y": step / 8}
            metrics.log(row)
            tracker.log(row)
            time.sleep(0.02)

    log(warnings)
    server.restart()
    seen = server.posts
    log(lambda: server.posts > seen)
    metrics.close()
    tracker.close("success")
    assert only_run(server).training_points() == logged(run_dir.path)
    assert only_run(server).states[-1] == "FINISHED"
    assert len(warnings()) == 1


def test_an_upload_that_was_killed_and_is_repeated_sends_each_point_once(server, tmp_path):
    path = logged_run(tmp_path / "run")
    (store,) = path.glob("swanlab/run-*/*.swanlab")
    server.fail("hang", at=3)
    sending = cloud.Sending(cloud.Task(str(store), "none", server.url, 20.0, follow=False))
    wait_for(lambda: server.posts == 3)
    code, ((_, result),) = upload(path, host=server.url)
    assert (code, result) == (1, "failed: another process is sending this run")
    sending._process.kill()
    sending._process.wait()
    assert 0 < len(only_run(server).training_points()) < 90
    server.restart()
    assert upload(path, host=server.url) == (0, [(str(path), "sent")])
    assert only_run(server).training_points() == logged(path)
    asked = len(server.requests)
    assert upload(path, host=server.url) == (0, [(str(path), "sent before")])
    assert len(server.requests) == asked
    # Whoever forgets what was sent is told by the server.
    store.with_name("sent.json").unlink()
    assert upload(path, host=server.url) == (0, [(str(path), "sent")])
    assert only_run(server).training_points() == logged(path)
    # Another server has had nothing yet.
    assert cloud.SentFile(store).outcome(server.url)
    assert cloud.SentFile(store).outcome("http://127.0.0.1:1") is None


def test_an_upload_tells_of_damaged_lines(server, tmp_path):
    path = logged_run(tmp_path / "run", rows=3)
    metrics = path / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes() + b"\xff\n")
    _, ((_, result),) = upload(path, host=server.url)
    assert result.startswith(f"sent, but {metrics}: line 4 is damaged")
    assert only_run(server).training_points() == logged(path)


@pytest.mark.parametrize("content", [b"", b"\xff", b'{"http://127.0.0.1:1": 3}'])
def test_a_damaged_note_of_what_was_sent_has_it_sent_again(server, tmp_path, content):
    path = logged_run(tmp_path / "run", rows=3)
    (store,) = path.glob("swanlab/run-*/*.swanlab")
    store.with_name("sent.json").write_bytes(content)
    assert upload(path, host=server.url) == (0, [(str(path), "sent")])
    assert cloud.SentFile(store).outcome(server.url)


def test_an_upload_ends_with_its_time_limit(server, tmp_path):
    path = logged_run(tmp_path / "run", rows=2)
    server.fail("hang")
    code, ((_, result),) = upload(path, host=server.url, time_limit=0.5)
    assert (code, result) == (1, "failed: not all was sent within 0.5 s")


def test_the_command_line_sends_runs_and_comparisons(server, tmp_path, capsys):
    from dqn_runner.dashboard import command_line
    from dqn_runner.program import guarded

    run = logged_run(tmp_path / "a" / "run", rows=2)
    (run / "config.yaml").write_text("seed: 0\n")
    (tmp_path / "a" / "compare" / "swanlab").mkdir(parents=True)
    (kept,) = (logged_run(tmp_path / "other", rows=3) / "swanlab").glob("run-*")
    kept.rename(tmp_path / "a" / "compare" / "swanlab" / kept.name)
    arguments = ["--upload", str(tmp_path / "a"), "--host", server.url, "--time-limit"]
    assert guarded("dqn-dashboard", command_line, [*arguments, "20"]) == 0
    out = capsys.readouterr().out
    assert len(re.findall(r"  sent *$", out, re.MULTILINE)) == 2
    assert f"see {server.url}/@tester/tests\n" in out
    assert sorted(len(run.training_points()) for run in server.runs.values()) == [6, 9]
    server.stop()
    assert guarded("dqn-dashboard", command_line, [*arguments, "20"]) == 0  # sent before
    assert guarded("dqn-dashboard", command_line, [*arguments, "0"]) == 2
    assert "--time-limit: 0: must be seconds, greater than 0" in capsys.readouterr().err


def test_after_a_lost_server_the_others_are_not_tried(server, tmp_path):
    runs = [logged_run(tmp_path / name, rows=2) for name in "ab"]
    server.stop()
    code, ((_, first), (_, second)) = upload(*runs, host=server.url)
    assert code == 1
    assert "does not answer" in first
    assert second == "failed: not tried, for the server was lost"


def test_runs_that_are_going_on_or_have_nothing_are_left_alone(server, tmp_path):
    going_on, empty = logged_run(tmp_path / "on", rows=2), tmp_path / "empty"
    empty.mkdir()
    holder = RunDirectory(going_on)
    holder.claim_new()
    holder.start({})
    code, rows = upload(going_on, empty, host=server.url)
    holder.close()
    assert (code, [result for _, result in rows]) == (
        0,
        ["still running: not sent", "nothing to send"],
    )
    assert server.requests == []


def test_a_killed_run_is_completed_from_the_record(server, tmp_path):
    """SwanLab's file without its last kilobyte: points, the end, and half a record are gone."""
    path = logged_run(tmp_path / "run")
    logged_run(path, rows=1, job_type="evaluation")
    first, second = sorted(path.glob("swanlab/run-*/*.swanlab"), key=lambda p: -p.stat().st_size)
    content = first.read_bytes()
    first.write_bytes(content[: len(content) - 1000])
    assert upload(path, host=server.url)[0] == 0
    training = server.runs[first.stem.removeprefix("run-")]
    expected = logged(path)
    assert training.training_points() == expected
    assert training.states == ["RUNNING", "CRASHED"]
    first.with_name("sent.json").unlink()  # as if that had been cut off just before its end
    assert upload(path, host=server.url)[0] == 0
    assert training.states[-1] == "CRASHED"
    assert training.training_points() == expected
    evaluation = server.runs[second.stem.removeprefix("run-")]
    assert {step for _, step in evaluation.training_points()} == {10}


def test_a_growing_file_is_read_as_it_grows(tmp_path, records):
    from dqn_runner.tracking.sending import RunReader

    path = logged_run(tmp_path / "run", rows=300)
    (store,) = path.glob("swanlab/run-*/*.swanlab")
    content = store.read_bytes()
    assert len(content) > 32768  # a block, whose end splits a record
    growing, ended = tmp_path / "run-x.swanlab", threading.Event()
    growing.write_bytes(content[:600])
    reader = RunReader(tmp_path / "none", ended)
    reader.open(growing)
    read = [reader.scan()]
    thread = threading.Thread(target=lambda: read.extend(reader))
    thread.start()
    with growing.open("ab") as file:
        for i in range(600, len(content), 997):
            file.write(content[i : i + 997])
            file.flush()
            time.sleep(0.001)
    ended.set()
    thread.join()
    reader.close()
    assert read == [record.SerializeToString() for record in records(store)]


@pytest.fixture
def broken(monkeypatch):
    """Breaks one of SwanLab's three calls."""
    import swanlab

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("on\nfire")

    def broken(where: str) -> None:
        monkeypatch.setattr(*((swanlab, "init") if where == "init" else (swanlab.Run, where)), fail)

    yield broken
    monkeypatch.undo()
    if swanlab.has_run():
        swanlab.finish()


ONE_WARNING = "SwanLab failed, metrics.jsonl has what it lacks: on fire"


@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_a_training_outlives_swanlab(train, warnings, broken, where):
    broken(where)
    path = train("run", "tracker.mode=offline", "log.interval=100")
    assert warnings() == [ONE_WARNING]
    assert RunDirectory(path).read_result()
    rows = [row for row in read_metrics(path / "metrics.jsonl") if "train/epsilon" in row]
    assert [row["env_steps"] for row in rows] == [100, 200, 300]


@pytest.mark.parametrize("mode", ["online", "local"])
@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_no_mode_of_swanlab_raises(tmp_path, warnings, broken, mode, where):
    broken(where)
    logged_run(tmp_path / "run", mode=mode, host="http://127.0.0.1:9")
    assert [line for line in warnings() if "tracker.mode=online" not in line] == [ONE_WARNING]


def test_what_swanlab_failed_to_log_is_sent_all_the_same(server, tmp_path, broken):
    broken("log")
    path = logged_run(tmp_path / "run", mode="online", host=server.url)
    assert only_run(server).training_points() == logged(path)
