"""Serves SwanLab's dashboard page and its answers, to this machine only."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from dqn_runner.swanlab_internals import page

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
    routes: Sequence[BaseRoute],
    listener: socket.socket,
    update: Callable[[], None],
    seconds: float,
    *,
    ready: Callable[[], None],
    check_stop: Callable[[], None],
) -> None:
    """Serve the dashboard whose answers are `routes`, and call `update` every so many seconds.

    `ready` is called once, when the dashboard answers. `check_stop` is called often, and may raise.
    """
    import uvicorn

    settings = uvicorn.Config(
        application(routes),
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


def application(routes: Sequence[BaseRoute]) -> ASGIApp:
    """The page and its answers, for browsers on this machine only."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    # A page of another site can make its own host name point at this address.
    only_here = Middleware(TrustedHostMiddleware, allowed_hosts=[LOOPBACK, "localhost"])
    files = Route("/{name:path}", _page)
    return Starlette(routes=[*routes, files], middleware=[only_here])


def _page(request: Request) -> Response:
    """A file of the page; the page itself for its other addresses, which its script knows."""
    name = request.path_params["name"]
    if name.startswith("api/"):
        raise HTTPException(404)
    content, kind = page.file(name) or page.file("index.html") or (b"", "")
    return Response(content, media_type=kind)
