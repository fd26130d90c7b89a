"""The process that sends one SwanLab run to a server. `cloud` starts it, and may kill it.

It takes a Task as its argument and the end of its input for the end of the run; it writes an
Outcome. Everything else that SwanLab prints is thrown away.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import swanlab
from filelock import FileLock, Timeout
from requests.adapters import HTTPAdapter
from requests.exceptions import RequestException
from swanlab.exceptions import DataStoreError
from swanlab.proto.swanlab.grpc.core.v1.sync_pb2 import DeliverSyncStartRequest
from swanlab.proto.swanlab.metric.column.v1.column_pb2 import COLUMN_TYPE_SCALAR
from swanlab.proto.swanlab.metric.data.v1.data_pb2 import ScalarRecord, ScalarValue
from swanlab.proto.swanlab.record.v1.record_pb2 import Record
from swanlab.proto.swanlab.run.v1.run_pb2 import RUN_STATE_CRASHED, FinishRecord, StartRecord
from swanlab.sdk.internal.core_python.heartbeat import Heartbeat
from swanlab.sdk.internal.core_python.store import DataStoreReader
from swanlab.sdk.internal.core_python.sync import CoreSyncPython
from swanlab.sdk.internal.pkg.helper import fmt_run_path
from urllib3.util import Retry

from dqn_runner.runs.metrics_file import MetricsReader
from dqn_runner.tracking.cloud import Outcome, SentFile, Task

# Between two looks at the file of a run that is going on.
POLL_SECONDS = 0.5
# For one answer of the server.
REQUEST_SECONDS = 10.0
# SwanLab numbers records; these are ours, far from its own.
FIRST_OWN_NUMBER = 1 << 30
# Of a run whose process ended without a word.
KILLED = "the process was killed"


def main() -> NoReturn:
    """Do what the first argument says; never returns, whatever threads SwanLab has left."""
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
        outcome = Outcome(_in_one_line(error))
    report(outcome)


def _wait_for_end(task: Task, ended: threading.Event) -> None:
    """Set `ended` when the run has ended; die when time is up, should nobody be left to kill us."""
    if task.follow:
        sys.stdin.read()
    ended.set()
    threading.Timer(task.time_limit + 1.0, os._exit, [1]).start()


def send(task: Task, ended: threading.Event, fail: Callable[[Outcome], NoReturn]) -> Outcome:
    """Send all of the run that the server lacks; calls `fail` from any thread where it cannot."""
    store = Path(task.store)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(FileLock(store.with_name(".sending.lock")).acquire(timeout=0))
        except Timeout:
            return Outcome("another process is sending this run")
        reader = RunReader(Path(task.metrics), ended)
        _end_with_first_failure(min(REQUEST_SECONDS, task.time_limit), reader, fail)
        settings = swanlab.Settings(api_host=task.host, interactive=False)
        swanlab.login(api_key=settings.api_key, host=settings.api_host)
        core = CoreSyncPython()
        core._reader = reader
        _check(core.deliver_sync_start(_request(settings, store)))
        started = core.deliver_sync_flush()
        _check(started)
        if task.follow:
            Heartbeat(core._ctx.experiment_id).start()
        _check(core.confirm_sync_finish())
        url = settings.web_host + fmt_run_path(started.path)
        outcome = Outcome(points=len(reader.points), url=url, remark=reader.damage)
        SentFile(store).write(settings.api_host, outcome)
    return outcome


def _request(settings: Any, store: Path) -> Any:
    """The order to sync `store` under the run's own id, and in its own project."""
    start = _start_record(store)
    core_settings = settings.to_core_proto(start.id, store.parent)
    return DeliverSyncStartRequest(core_settings=core_settings, id=start.id)


def _start_record(store: Path) -> Any:
    reader = DataStoreReader()
    reader.open(store)
    content = reader.scan()
    reader.close()
    return Record.FromString(content or b"").start


def _check(response: Any) -> None:
    if not response.success:
        raise RuntimeError(response.message)


def _in_one_line(error: Exception) -> str:
    return " ".join(f"{error}".split()) or type(error).__name__


def _end_with_first_failure(
    patience: float, reader: RunReader, fail: Callable[[Outcome], NoReturn]
) -> None:
    """Let no request of this process wait longer than `patience` seconds or be made twice.

    SwanLab repeats what may have arrived, and goes on without what was refused: points would be
    there twice, or never. Another process asks the server first what it has.
    """
    send_once = HTTPAdapter.send

    def send_strictly(self: Any, request: Any, *arguments: Any, **options: Any) -> Any:
        self.max_retries = Retry(0, read=False)
        host = "/".join(request.url.split("/")[:3])
        try:
            response = send_once(self, request, *arguments, **{**options, "timeout": patience})
        except RequestException as error:
            fail(Outcome(f"{host} does not answer ({type(error).__name__})", is_lost=True))
        status = response.status_code
        if status in (401, 403):
            fail(Outcome(f"{host} refuses the API key ({status} {response.reason})"))
        # At first SwanLab asks for a project that may not be there; heartbeats are a courtesy.
        may_be = not reader.is_reading or request.url.endswith("/heartbeat")
        if status >= 400 and not (status == 404 and may_be):
            lost = status >= 500 or status == 429
            fail(Outcome(f"{host} answers {status} {response.reason}", is_lost=lost))
        return response

    HTTPAdapter.send = send_strictly


class RunReader:
    """SwanLab's records of a run, and then what metrics.jsonl has beyond them.

    A process that was killed leaves SwanLab's file without its last rows and without an end.
    Stands where SwanLab has its DataStoreReader, whose methods it has.
    """

    def __init__(self, metrics: Path, ended: threading.Event) -> None:
        self._metrics, self._ended = metrics, ended
        self._store = DataStoreReader()
        self._start = StartRecord()
        self.is_reading = False
        self.points: set[tuple[str, int]] = set()
        self.damage = ""  # which lines of metrics.jsonl hold no row

    def open(self, path: Path) -> None:
        self._store.open(path)

    def scan(self) -> bytes | None:
        """The first record, which tells of the start."""
        content: bytes | None = self._store.scan()
        self._start = Record.FromString(content or b"").start
        return content

    def close(self) -> None:
        self._store.close()

    def __iter__(self) -> Iterator[bytes]:
        self.is_reading, has_end = True, False
        for content in self._stored():
            record = Record.FromString(content)
            if record.HasField("scalar") and not record.scalar.key.startswith("__swanlab__"):
                self.points.add((record.scalar.key, record.scalar.step))
            has_end |= record.HasField("finish")
            yield content
        for record in self._missing():
            yield record.SerializeToString()
        if not has_end:
            end = FinishRecord(state=RUN_STATE_CRASHED, error=KILLED)
            end.finished_at.GetCurrentTime()
            yield Record(finish=end).SerializeToString()

    def _stored(self) -> Iterator[bytes]:
        """The records in SwanLab's file, until the run has ended and all is read."""
        while True:
            is_last_look = self._ended.is_set()
            content = self._next_whole()
            if content is not None:
                yield content
            elif is_last_look:
                return
            else:
                self._ended.wait(POLL_SECONDS)

    def _next_whole(self) -> bytes | None:
        """The next record; None, and nothing read, where it is not there or still half written."""
        place = self._store._fp.tell(), self._store._index
        content: bytes | None = None
        with contextlib.suppress(AssertionError, IndexError, struct.error, DataStoreError):
            content = self._store.scan()
        if content is None:
            self._store._fp.seek(place[0])
            self._store._index = place[1]
        return content

    def _missing(self) -> Iterator[Any]:
        """Records of the points that only metrics.jsonl has; it is the training's."""
        if self._start.job_type == "evaluation" or not self._metrics.exists():
            return
        numbers = itertools.count(FIRST_OWN_NUMBER)
        began, elapsed = self._start.started_at.ToNanoseconds(), 0.0
        rows = MetricsReader(self._metrics)
        for row in rows.new_rows():
            elapsed = row.get("time/elapsed_seconds", elapsed)
            step = int(row["env_steps"])
            for name, value in row.items():
                if "/" not in name or (name, step) in self.points:
                    continue
                self.points.add((name, step))
                scalar = ScalarRecord(key=name, step=step, type=COLUMN_TYPE_SCALAR)
                scalar.value.CopyFrom(ScalarValue(number=value))
                scalar.timestamp.FromNanoseconds(began + int(elapsed * 1e9))
                yield Record(num=next(numbers), scalar=scalar)
        self.damage = rows.problem


if __name__ == "__main__":
    main()
