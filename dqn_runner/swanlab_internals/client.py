"""What SwanLab's client keeps internal and is used here; each entry says why it is needed.

SwanLab may change any of this without notice, so pyproject.toml allows only one minor version.
"""

from __future__ import annotations

import contextlib
import html
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from requests.adapters import BaseAdapter
from swanlab.exceptions import DataStoreError
from swanlab.plugin import notification
from swanlab.proto.swanlab.grpc.core.v1.sync_pb2 import DeliverSyncStartRequest
from swanlab.proto.swanlab.metric.column.v1.column_pb2 import COLUMN_TYPE_SCALAR
from swanlab.proto.swanlab.metric.data.v1.data_pb2 import ScalarRecord, ScalarValue
from swanlab.proto.swanlab.record.v1.record_pb2 import Record
from swanlab.proto.swanlab.run.v1.run_pb2 import RUN_STATE_CRASHED, FinishRecord
from swanlab.sdk.internal.core_python import sync
from swanlab.sdk.internal.core_python.heartbeat import Heartbeat
from swanlab.sdk.internal.core_python.store import DataStoreReader
from swanlab.sdk.internal.core_python.sync import CoreSyncPython
from swanlab.sdk.internal.pkg.client import session
from swanlab.sdk.internal.pkg.helper import fmt_run_path


def flush(run: Any) -> None:
    """Write what SwanLab buffers of `run` to its file.

    SwanLab has no public call for this. Without it the file stays empty for dozens of points, and
    the process that sends the file would see nothing new.
    """
    store = getattr(run._core, "_store", None)
    if store:
        store.ensure_flushed()


class StoreReader:
    """Reads the records of a SwanLab file, also while the file grows.

    SwanLab's own reader expects a finished file: at a half-written record it raises and loses its
    place.
    """

    def __init__(self, path: Path) -> None:
        self._reader = DataStoreReader()
        self._reader.open(path)

    def next_record(self) -> bytes | None:
        """The next record; None, without moving on, if it is missing or only half written."""
        place = self._reader._fp.tell(), self._reader._index
        content: bytes | None = None
        with contextlib.suppress(AssertionError, IndexError, struct.error, DataStoreError):
            content = self._reader.scan()
        if content is None:
            self._reader._fp.seek(place[0])
            self._reader._index = place[1]
        return content

    def close(self) -> None:
        """Close the file."""
        self._reader.close()


def parse(content: bytes | None) -> Any:
    """The record that SwanLab wrote as `content`. Its format is only in SwanLab's own classes."""
    return Record.FromString(content or b"")


def read_records(store: Path) -> list[Any]:
    """All whole records in a SwanLab file."""
    reader = StoreReader(store)
    records = [parse(content) for content in iter(reader.next_record, None)]
    reader.close()
    return records


def scalar_record(number: int, name: str, step: int, value: float, nanoseconds: int) -> bytes:
    """A record of one point, as SwanLab would have written it; for points its file lacks."""
    scalar = ScalarRecord(key=name, step=step, type=COLUMN_TYPE_SCALAR)
    scalar.value.CopyFrom(ScalarValue(number=value))
    scalar.timestamp.FromNanoseconds(nanoseconds)
    content: bytes = Record(num=number, scalar=scalar).SerializeToString()
    return content


def crash_record(error: str) -> bytes:
    """A record of a run that crashed; for a file without an end, as a killed process leaves it."""
    end = FinishRecord(state=RUN_STATE_CRASHED, error=error)
    end.finished_at.GetCurrentTime()
    content: bytes = Record(finish=end).SerializeToString()
    return content


@contextlib.contextmanager
def sessions_with(make_adapter: Callable[[], BaseAdapter]) -> Iterator[None]:
    """Give each session that SwanLab's client opens an adapter from `make_adapter`.

    SwanLab repeats requests and has no setting to change that. All its sessions come from one
    function, which is replaced here while the context lasts; other users of requests are not
    affected.
    """
    create = session.create

    def create_with_adapter(*arguments: Any, **options: Any) -> Any:
        created = create(*arguments, **options)
        created.mount("https://", make_adapter())
        created.mount("http://", make_adapter())
        return created

    session.create = create_with_adapter
    try:
        yield
    finally:
        session.create = create


def send_records(reader: Any, store: Path, settings: Any, is_running: bool, color: str = "") -> str:
    """Send the records of `reader` under the id of the run in `store`; returns the page's path.

    `reader` replaces SwanLab's own and has its methods: open, scan, close and iteration.
    `swanlab sync` reads finished files only, and under a new id unless it is told one. With
    `is_running` the server is told that the run is alive. `color` replaces the run's own. Raises
    RuntimeError if SwanLab fails.
    """
    first = StoreReader(store)
    start = parse(first.next_record()).start
    first.close()
    run_id = start.id
    core = CoreSyncPython()
    core._reader = reader
    core_settings = settings.to_core_proto(run_id, store.parent)
    request = DeliverSyncStartRequest(core_settings=core_settings, id=run_id)
    _check(core.deliver_sync_start(request))
    with _color_sent(color or start.color):
        started = _check(core.deliver_sync_flush())
    if is_running:
        Heartbeat(core._ctx.experiment_id).start()
    _check(core.confirm_sync_finish())
    return str(fmt_run_path(started.path))


class Refused(Exception):  # noqa: N818
    """A service answered that it does not take a message; the text is its own."""


def send_notification(class_name: str, arguments: dict[str, str], headline: str, text: str) -> None:
    """Send `text` with a class of swanlab.plugin.notification.

    The classes can only tell of SwanLab's own runs when these end, with a text of their own, and
    hide what fails or print it with the address. Raises whatever goes wrong, and Refused.
    """
    port = {"port": int(arguments["port"])} if "port" in arguments else {}
    plugin = vars(notification)[class_name](**{**arguments, **port})
    plugin._build_content = lambda *_: text
    plugin._build_subject = lambda *_: headline
    plugin._build_html = lambda *_: f"<pre>{html.escape(text)}</pre>"
    module = sys.modules[type(plugin).__module__]
    # Each class is alone in its module, so what is replaced here is used by no other.
    former = module.safe, module.console
    module.safe = module.console = _Raising()  # type: ignore[attr-defined]
    try:
        plugin._send_notification("", None)
    finally:
        module.safe, module.console = former  # type: ignore[attr-defined]


class _Raising:
    """In place of what hides and prints errors in SwanLab."""

    def block(self, *_: Any, **__: Any) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def warning(self, text: str) -> None:
        raise Refused(text.partition(": ")[2])

    def info(self, text: str) -> None:
        """Say nothing of what went well."""


@contextlib.contextmanager
def _color_sent(color: str) -> Iterator[None]:
    """Create the run with its own color: SwanLab empties that of a run that is sent later."""
    prepare = sync.prepare_experiment_start

    def prepare_with_color(record: Any) -> Any:
        record.color = color
        return prepare(record)

    sync.prepare_experiment_start = prepare_with_color
    try:
        yield
    finally:
        sync.prepare_experiment_start = prepare


def _check(response: Any) -> Any:
    if not response.success:
        raise RuntimeError(response.message)
    return response
