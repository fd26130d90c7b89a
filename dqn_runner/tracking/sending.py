"""The process that sends one SwanLab run to a server. `cloud` starts it, and may kill it.

Its argument is a Task. The end of its input means that the run has ended. It writes an Outcome;
everything else that SwanLab prints is thrown away.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import swanlab
from filelock import FileLock, Timeout
from requests.adapters import HTTPAdapter
from requests.exceptions import RequestException
from urllib3.util import Retry

from dqn_runner.errors import in_a_line
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.runs.metrics_file import MetricsReader
from dqn_runner.swanlab_internals.client import (
    StoreReader,
    crash_record,
    parse,
    scalar_record,
    send_records,
    sessions_with,
)
from dqn_runner.tracking.cloud import Outcome, SentFile, Task
from dqn_runner.tracking.tracker import result_metrics
from dqn_runner.types import Row

# How often the file of a running run is read.
POLL_SECONDS = 0.5
# How long to wait for one answer of the server.
REQUEST_SECONDS = 10.0
# SwanLab numbers its records from 1. Ours start here, so that no number is used twice.
FIRST_OWN_NUMBER = 1 << 30
# The error that a run without an end is given.
KILLED = "the process was killed"


def main() -> NoReturn:
    """Send the run that the first argument names; exits even if SwanLab's threads still run."""
    task = Task(*json.loads(sys.argv[1]))
    output = os.fdopen(os.dup(1), "w")
    for number in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    reporting = threading.Lock()

    def report(outcome: Outcome) -> NoReturn:
        with reporting:
            output.write(json.dumps(outcome))
            output.flush()
            os._exit(bool(outcome.problem))

    ended = threading.Event()
    threading.Thread(target=_wait_for_end, args=(task, ended), daemon=True).start()
    try:
        outcome = send(task, ended, report)
    except Exception as error:
        outcome = Outcome(in_a_line(error) or type(error).__name__)
    report(outcome)


def _wait_for_end(task: Task, ended: threading.Event) -> None:
    """Set `ended` when the run has ended; exit after the time limit if nobody has killed us."""
    if task.follow:
        sys.stdin.read()
    ended.set()
    threading.Timer(task.time_limit + 1.0, os._exit, [1]).start()


def send(task: Task, ended: threading.Event, fail: Callable[[Outcome], NoReturn]) -> Outcome:
    """Send all of the run that the server lacks; a request that fails calls `fail`.

    `fail` may be called from any thread.
    """
    store = Path(task.store)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(FileLock(store.with_name(".sending.lock")).acquire(timeout=0))
        except Timeout:
            return Outcome("another process is sending this run")
        reader = RunReader(Path(task.metrics), ended)
        patience = min(REQUEST_SECONDS, task.time_limit)
        stack.enter_context(sessions_with(lambda: StrictAdapter(patience, reader, fail)))
        settings = swanlab.Settings(api_host=task.host, interactive=False)
        swanlab.login(api_key=settings.api_key, host=settings.api_host)
        url = settings.web_host + send_records(reader, store, settings, task.follow, task.color)
        outcome = Outcome(points=len(reader.points), url=url, remark=reader.damage)
        SentFile(store).write(settings.api_host, outcome)
    return outcome


class StrictAdapter(HTTPAdapter):  # type: ignore[misc]
    """Sends each request once, waits at most `patience` seconds, and calls `fail` if it fails.

    SwanLab repeats a request that may have arrived, and continues after one that was refused. So
    points would be stored twice, or never. We stop instead: the next process asks the server first
    which points it has.
    """

    def __init__(
        self, patience: float, reader: RunReader, fail: Callable[[Outcome], NoReturn]
    ) -> None:
        super().__init__(max_retries=Retry(0, read=False))
        self._patience, self._reader, self._fail = patience, reader, fail

    def send(self, request: Any, *arguments: Any, **options: Any) -> Any:
        """Send `request`; returns only if it was answered without an error."""
        host = "/".join(request.url.split("/")[:3])
        options["timeout"] = self._patience
        try:
            response = super().send(request, *arguments, **options)
        except RequestException as error:
            problem = f"{host} does not answer ({type(error).__name__})"
            self._fail(Outcome(problem, is_lost=True))
        status = response.status_code
        if status in (401, 403):
            self._fail(Outcome(f"{host} refuses the API key ({status} {response.reason})"))
        # SwanLab first asks for a project that may not exist; a heartbeat may be lost.
        may_be_missing = not self._reader.is_reading or request.url.endswith("/heartbeat")
        if status >= 400 and not (status == 404 and may_be_missing):
            is_lost = status >= 500 or status == 429
            self._fail(Outcome(f"{host} answers {status} {response.reason}", is_lost=is_lost))
        return response


class RunReader:
    """SwanLab's records of a run, followed by the points that only its other files have.

    A process that was killed leaves SwanLab's file without its last rows and without an end.
    SwanLab uses this class in place of its own reader, so it has the same methods.
    """

    def __init__(self, metrics: Path, ended: threading.Event) -> None:
        self._metrics, self._ended = metrics, ended
        self._store: StoreReader
        self._start: Any = None
        self.is_reading = False
        self.points: set[tuple[str, int]] = set()
        self.damage = ""  # which lines of metrics.jsonl hold no row

    def open(self, path: Path) -> None:
        """Open SwanLab's file."""
        self._store = StoreReader(path)

    def scan(self) -> bytes | None:
        """The first record, which says how the run started."""
        content = self._store.next_record()
        self._start = parse(content).start
        return content

    def close(self) -> None:
        """Close SwanLab's file."""
        self._store.close()

    def __iter__(self) -> Iterator[bytes]:
        self.is_reading, has_end = True, False
        for content in self._stored():
            record = parse(content)
            if record.HasField("scalar") and not record.scalar.key.startswith("__swanlab__"):
                self.points.add((record.scalar.key, record.scalar.step))
            has_end |= record.HasField("finish")
            yield content
        yield from self._missing()
        if not has_end:
            yield crash_record(KILLED)

    def _stored(self) -> Iterator[bytes]:
        """The records in SwanLab's file, until the run has ended and all are read."""
        while True:
            is_last_look = self._ended.is_set()
            content = self._store.next_record()
            if content is not None:
                yield content
            elif is_last_look:
                return
            else:
                self._ended.wait(POLL_SECONDS)

    def _missing(self) -> Iterator[bytes]:
        """Records of the points that only our own files have. An evaluation has none there."""
        if self._start.job_type == "evaluation" or not self._metrics.exists():
            return
        numbers = itertools.count(FIRST_OWN_NUMBER)
        began, elapsed = self._start.started_at.ToNanoseconds(), 0.0
        for row in self._rows():
            elapsed = row.get("time/elapsed_seconds", elapsed)
            step = int(row["env_steps"])
            for name, value in row.items():
                if "/" in name and (name, step) not in self.points:
                    self.points.add((name, step))
                    when = began + int(elapsed * 1e9)
                    yield scalar_record(next(numbers), name, step, value, when)

    def _rows(self) -> Iterator[Row]:
        """The rows of metrics.jsonl, and the result as one more if the run has finished."""
        rows, elapsed = MetricsReader(self._metrics), 0.0
        for row in rows.new_rows():
            elapsed = row.get("time/elapsed_seconds", elapsed)
            yield row
        self.damage = rows.problem
        with contextlib.suppress(ValueError):  # result.json holds no result
            if result := RunDirectory(self._metrics.parent).read_result():
                yield {"env_steps": result["env_steps"], **result_metrics(result, elapsed)}


if __name__ == "__main__":
    main()
