"""Serving SwanLab's dashboard of a store to this machine alone."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LOOPBACK = "127.0.0.1"
LONGEST_REQUEST = 2**24  # bytes: the page names every run in one address
SECONDS_TO_ANSWER = 1
SECONDS_BETWEEN_CHECKS = 0.1


def listen(port: int) -> socket.socket:
    """A socket on the loopback interface; port 0 is any free one. Raises OSError where taken."""
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

    `ready` is called once, when the first page can be asked for; `check_stop` often, and may raise.
    """
    import uvicorn

    # h11 takes a limit for the length of a request.
    settings = uvicorn.Config(
        _app(store),
        http="h11",
        h11_max_incomplete_event_size=LONGEST_REQUEST,
        lifespan="off",
        log_level="critical",
        timeout_graceful_shutdown=SECONDS_TO_ANSWER,
    )
    server = uvicorn.Server(settings)
    # In a thread of its own, so that signals reach the caller and not uvicorn.
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


def _app(store: Path) -> Any:
    """swanboard's application, told where the store is and kept from what it must not do."""
    # swanboard reads this when it is imported, and again later.
    os.environ["SWANLAB_LOG_DIR"] = str(store)

    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from swanboard.app import app
    from swanboard.utils import swanlog

    # It would warn, for each metric, of a summary that older versions did not write either.
    swanlog.level = "critical"
    _hasten()

    @app.middleware("http")  # type: ignore[untyped-decorator]
    async def only_show(request: Request, call_next: Any) -> Response:
        """Refuse to stop or delete runs, which this could not, and to send files of the disk."""
        path = request.url.path
        if request.method == "DELETE" or path.endswith("/stop") or "/media" in path:
            reason = "this dashboard only shows runs"
            return JSONResponse({"code": 403, "message": reason}, status_code=403)
        response: Response = await call_next(request)
        return response

    # A page of another site may point its own name at this address.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[LOOPBACK, "localhost"])
    return app


def _hasten() -> None:
    """Spare swanboard what makes a thousand runs take a minute, table and charts alike."""
    import yaml
    from swanboard.controller import project
    from swanboard.db.models import Chart, Experiment, Source, Tag

    # It reads each run's config.yaml for each page; in C that is ten times faster.
    yaml.FullLoader = yaml.CFullLoader  # type: ignore[misc, assignment]
    # It asks the database for each metric's run and project, and uses neither.
    setattr(project, "__to_list", lambda rows: list(rows.dicts()))

    def lines(chart: Any) -> Any:
        """A chart's lines, their metrics and runs in one query instead of three for each line."""
        joined = Source.select(Source, Tag, Experiment).join(Tag).join(Experiment)
        return joined.where(Source.chart_id == chart.id).order_by(Source.sort)

    Chart.sources = property(lines)
