"""Sends runs to SwanLab's cloud, in separate processes, so that no training waits.

They send SwanLab's offline record of a run, under the run's own id, and only what the server does
not have yet. So a process that failed, hung or was killed can be repeated at any time.
"""

from __future__ import annotations

import json
import logging
import math
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dqn_runner.errors import ConfigError
from dqn_runner.runs.directory import RunDirectory, write_whole
from dqn_runner.swanlab_internals import check_client

logger = logging.getLogger(__name__)

# A run that lost its server tries again after this time, then after twice this time, and so on.
SECONDS_BETWEEN_ATTEMPTS = 30.0


class Task(NamedTuple):
    """What a sending process has to do.

    `store` is SwanLab's file, and `metrics` our own record of the same run. With `follow` the run
    is still running; `time_limit` (seconds) then starts when it ends. `color` takes the place of
    the one that the run was given when it began and did not know the others.
    """

    store: str
    metrics: str
    host: str
    time_limit: float
    follow: bool
    color: str = ""


class Outcome(NamedTuple):
    """The result of a sending process; it has sent everything if `problem` is empty.

    `points` is the number of points in the run, including those that were sent before. `is_lost`
    means that the server did not answer. `remark` names points that could not be read.
    """

    problem: str = ""
    points: int = 0
    url: str = ""
    is_lost: bool = False
    remark: str = ""


class Server(NamedTuple):
    """One of SwanLab's servers, and whether the user has logged in to it."""

    host: str
    has_key: bool

    @property
    def no_key(self) -> str:
        """The message for a user who has not logged in."""
        return f"no API key for {self.host} (`swanlab login` or SWANLAB_API_KEY gives one)"


def find_server(host: str | None) -> Server:
    """The server at `host`, or SwanLab's configured one; contacts no server and asks no user.

    Raises ConfigError if SwanLab is not of the version that can be sent with.
    """
    import swanlab

    check_client()
    settings = swanlab.Settings(**({"api_host": host} if host else {}))
    return Server(settings.api_host, bool(settings.api_key))


class _Sent(NamedTuple):
    bytes: int
    points: int
    url: str


class SentFile:
    """sent.json beside SwanLab's file: to which servers the file was sent, and its size then."""

    def __init__(self, store: Path) -> None:
        self._store, self._path = store, store.with_name("sent.json")

    def outcome(self, host: str) -> Outcome | None:
        """The result of sending the whole file to `host`; None if that was not done."""
        entry = self._read().get(host)
        if entry is None or entry.bytes != self._store.stat().st_size:
            return None
        return Outcome(points=entry.points, url=entry.url)

    def write(self, host: str, outcome: Outcome) -> None:
        """Note that the whole file was sent to `host`."""
        entry = _Sent(self._store.stat().st_size, outcome.points, outcome.url)
        entries = {name: sent._asdict() for name, sent in {**self._read(), host: entry}.items()}
        write_whole(self._path, json.dumps(entries, indent=2) + "\n")

    def _read(self) -> dict[str, _Sent]:
        if not self._path.exists():
            return {}
        try:
            return TypeAdapter(dict[str, _Sent]).validate_json(self._path.read_bytes())
        except ValueError:  # send again: the server is asked first, so nothing arrives twice
            return {}


class Sending:
    """A running process that does `task`."""

    def __init__(self, task: Task) -> None:
        self._time_limit = task.time_limit
        # In its own session: Ctrl-C must end only the run, whose last rows are still to be sent.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dqn_runner.tracking.sending", json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )

    def outcome(self) -> Outcome | None:
        """The result of the process; None while it runs."""
        return None if self._process.poll() is None else self.end()

    def end(self) -> Outcome:
        """Tell the process that the run has ended, wait, and kill it after the time limit."""
        try:
            text, _ = self._process.communicate(timeout=self._time_limit)
        except subprocess.TimeoutExpired:
            return Outcome(f"not all was sent within {self._time_limit:g} s", is_lost=True)
        finally:
            self._process.kill()
            self._process.wait()
        try:
            return Outcome(*json.loads(text))
        except ValueError:
            return Outcome(f"the sending process ended with code {self._process.returncode}")


class LiveSending:
    """Sends a run while it runs. The first failure gives a warning; later ones only retry."""

    def __init__(self, store: Path, run_path: Path, host: str | None, time_limit: float) -> None:
        self.url = ""
        self._run_path = run_path
        server = find_server(host)
        metrics = RunDirectory(run_path).metrics
        self._task = Task(str(store), str(metrics), server.host, time_limit, follow=True)
        self._sending: Sending | None = None
        self._next_attempt, self._pause = -math.inf, SECONDS_BETWEEN_ATTEMPTS
        self._has_warned = False
        if server.has_key:
            self.check()
        else:
            self._fall_back(Outcome(server.no_key))

    def check(self) -> None:
        """Check that the process still runs; start it again if it is time for that."""
        if self._sending is not None:
            outcome = self._sending.outcome()
            if outcome is not None:
                self._fall_back(outcome)
        elif time.monotonic() >= self._next_attempt:
            self._sending = Sending(self._task)

    def close(self) -> None:
        """Wait until everything is sent, or the time limit is reached."""
        if self._sending is not None:
            outcome = self._sending.end()
            self.url = outcome.url
            if outcome.problem:
                self._fall_back(outcome)

    def _fall_back(self, outcome: Outcome) -> None:
        self._sending = None
        self._next_attempt = time.monotonic() + self._pause if outcome.is_lost else math.inf
        self._pause *= 2
        if not self._has_warned:
            logger.warning(
                "tracker.mode=online: %s; the run is kept offline, and "
                "`dqn-dashboard --upload %s` sends it later",
                outcome.problem,
                shlex.quote(str(self._run_path)),
            )
        self._has_warned = True


def upload(
    colors: Mapping[Path, str], host: str | None, time_limit: float, console: Console
) -> int:
    """Send SwanLab's records of runs to its server, and print the result for each.

    `colors` has the color that each run directory gets; empty for the one that it has.
    `time_limit` is in seconds, for each run. Returns 1 if something could not be sent, else 0.
    Raises ConfigError if there is no API key.
    """
    for path in colors:
        RunDirectory(path).check_settings()
    server = find_server(host)
    if not server.has_key:
        raise ConfigError(server.no_key)
    table = Table(box=None)
    for title in ("run", "SwanLab run", "points", "result"):
        table.add_column(title, overflow="fold")
    projects: set[str] = set()
    failed = False
    with console.status("") as status:
        for i, (path, color) in enumerate(colors.items(), 1):
            status.update(f"sending to {server.host}: {i} of {len(colors)}, {escape(str(path))}")
            for store, result, outcome in _upload_run(path, color, server.host, time_limit):
                failed |= bool(outcome.problem)
                projects |= {outcome.url.rpartition("/runs/")[0]} - {""}
                points = f"{outcome.points:,}" if outcome.points else ""
                table.add_row(escape(str(path)), store, points, escape(result))
                if outcome.is_lost:
                    time_limit = 0.0
    # Without a terminal rich would cut the table to 80 columns.
    wide = console if console.is_terminal else Console(file=console.file, width=1000)
    wide.print(table)
    for project in sorted(projects):
        console.print(f"see {project}", highlight=False, markup=False)
    return int(failed)


def _upload_run(
    path: Path, color: str, host: str, time_limit: float
) -> Iterator[tuple[str, str, Outcome]]:
    """Name, result text and outcome of each SwanLab run; with time limit 0 nothing is tried."""
    run_dir = RunDirectory(path)
    stores = sorted(run_dir.swanlab.glob("run-*/run-*.swanlab"))
    if not stores:
        yield "", "nothing to send", Outcome()
    for store in stores:
        name = store.stem.removeprefix("run-")
        before = SentFile(store).outcome(host)
        if before:
            yield name, "sent before", before
        elif run_dir.is_locked():
            yield name, "still running: not sent", Outcome()
        elif time_limit == 0:
            yield name, "failed: not tried, for the server was lost", Outcome("not tried")
        else:
            task = Task(str(store), str(run_dir.metrics), host, time_limit, False, color)
            outcome = Sending(task).end()
            sent = f"sent, but {outcome.remark}" if outcome.remark else "sent"
            yield name, f"failed: {outcome.problem}" if outcome.problem else sent, outcome
