"""Serves SwanLab's dashboard of a store, to this machine only."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

LOOPBACK = "127.0.0.1"
LONGEST_REQUEST = 2**24  # bytes; one address of the page names every run
SECONDS_TO_ANSWER = 1
SECONDS_BETWEEN_CHECKS = 0.1


def listen(port: int) -> socket.socket:
    """A socket on the loopback interface; port 0 means any free one. Raises OSError if taken."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
    except BaseException:
        listener.close()
        raise
    return listener


def serve(
    store: Path,
    listener: socket.socket,
    update: Callable[[], None],
    seconds: float,
    *,
    ready: Callable[[], None],
    check_stop: Callable[[], None],
) -> None:
    """Serve the dashboard in `store` and call `update` every so many seconds.

    `ready` is called once, when the dashboard answers. `check_stop` is called often, and may raise.
    """
    import uvicorn

    with _app(store) as app:
        settings = uvicorn.Config(
            app,
            http="h11",  # the only one with a limit for the length of a request
            h11_max_incomplete_event_size=LONGEST_REQUEST,
            lifespan="off",
            log_level="critical",
            timeout_graceful_shutdown=SECONDS_TO_ANSWER,
        )
        server = uvicorn.Server(settings)
        # In its own thread, so that signals reach the caller and not uvicorn.
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            ready()
            while thread.is_alive():
                for _ in range(round(seconds / SECONDS_BETWEEN_CHECKS)):
                    check_stop()
                    time.sleep(SECONDS_BETWEEN_CHECKS)
                update()
        finally:
            server.should_exit = True
            thread.join(timeout=2 * SECONDS_TO_ANSWER)


@contextlib.contextmanager
def _app(store: Path) -> Iterator[Any]:
    """The dashboard's application, which shows `store` and changes nothing in it."""
    # swanboard reads this when it is imported, and again later.
    with mock.patch.dict(os.environ, SWANLAB_LOG_DIR=str(store)):
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.responses import JSONResponse
        from swanboard.app import app
        from swanboard.utils import swanlog

        # It would warn, for each metric, of a summary that older versions did not write either.
        swanlog.level = "critical"

        async def only_show(scope: Any, receive: Any, send: Any) -> None:
            """Refuse to stop or delete runs, which is not possible, and to send other files."""
            path, method = scope.get("path", ""), scope.get("method")
            if method == "DELETE" or path.endswith("/stop") or "/media" in path:
                reason = {"code": 403, "message": "this dashboard only shows runs"}
                await JSONResponse(reason, status_code=403)(scope, receive, send)
            else:
                await app(scope, receive, send)

        # A page of another site can make its own host name point at this address.
        hosts = [LOOPBACK, "localhost"]
        with _faster_swanboard():
            yield TrustedHostMiddleware(only_show, allowed_hosts=hosts)


@contextlib.contextmanager
def _faster_swanboard() -> Iterator[None]:
    """Make swanboard's pages faster; without this a thousand runs take a minute.

    Only names in swanboard's own modules are replaced, and they are restored at the end.
    """
    import yaml
    from swanboard.controller import experiment, project
    from swanboard.db.models import Chart, Experiment, Source, Tag

    def lines(chart: Any) -> Any:
        """A chart's lines, their metrics and runs in one query instead of three for each line."""
        joined = Source.select(Source, Tag, Experiment).join(Tag).join(Experiment)
        return joined.where(Source.chart_id == chart.id).order_by(Source.sort)

    # It reads the config.yaml of each run for each page; the loader in C is ten times faster.
    fast_yaml = SimpleNamespace(load=yaml.load, FullLoader=yaml.CFullLoader)
    with (
        mock.patch.object(project, "yaml", fast_yaml),
        mock.patch.object(experiment, "yaml", fast_yaml),
        # It asks the database for each metric's run and project, and uses neither.
        mock.patch.object(project, "__to_list", lambda rows: list(rows.dicts())),
        mock.patch.object(Chart, "sources", property(lines)),
    ):
        yield
