"""The answers that SwanLab's dashboard page asks its server for, made from a Board.

The page is swanboard's; its own server reads a database and a file for each metric of each run.
Ours answers from memory, and sends the points of a chart in one answer instead of one a run.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from dqn_runner.analysis.groups import COLORS
from dqn_runner.board.board import SHOWS, Board
from dqn_runner.board.charts import ALL, Charts, metric_of, with_charts
from dqn_runner.board.entries import Entry
from dqn_runner.board.files import Pictures, compared, log_lines, machine, packages, pictures
from dqn_runner.board.points import MOST_POINTS, Points

MOST_IN_A_CHART = 12_000  # points; a browser draws them in some hundred milliseconds
FEWEST_OF_A_LINE = 50
STATUSES = {"finished": 1, "running": 0, "stopped": -1}

Data = dict[str, Any]


class Answers:
    """The page's requests and their answers; `figures` holds dqn-compare's pictures."""

    def __init__(self, board: Board, figures: Path) -> None:
        self._board, self._figures = board, figures
        self._charts = Charts()
        self._hidden: set[int] = set()  # entries whose eye is closed on the page
        self._began = datetime.now(UTC).isoformat()

    def routes(self) -> list[Route]:
        """A route for each request of the page."""
        of_one: dict[str, Callable[[Entry], Data]] = {
            "": self._experiment,
            "/status": self._status,
            "/chart": lambda entry: self._page(entry.id),
            "/summary": lambda entry: {"summaries": _pairs(entry)},
            "/recent_log": self._log,
            "/requirements": lambda entry: {"requirements": packages(entry)},
        }
        return [
            _get("/project", lambda request: self._project()),
            _get("/state", lambda request: self._state()),
            _get("/project/summaries", lambda request: self._summaries()),
            _get("/project/charts", lambda request: self._page(ALL)),
            _get("/points/{metric:path}", self._points),
            _get("/experiment/{id:int}/tag/{metric:path}", self._tag),
            *(
                _get("/experiment/{id:int}" + name, self._of_entry(answer))
                for name, answer in of_one.items()
            ),
            Route("/api/v1/media/{file}", self._media),
            _change("/chart/{id:int}/status", self._pin),
            _change("/namespace/{id:int}/opened", lambda request, body: {}),
            _change("/experiment/{id:int}/show", self._hide),
            _change("/show/{what}", self._show),
        ]

    def _project(self) -> Data:
        """All entries with the columns of the table, of which those without a value are left out.

        The page reverses their order.
        """
        entries = self._board.entries
        filled = {
            key for entry in entries for key, value in entry.columns.items() if value is not None
        }
        listed = [self._listed(entry, filled) for entry in reversed(entries)]
        directory = self._board.directory.resolve()
        return {
            "id": 1,
            "name": directory.name,
            "description": "",
            "logdir": str(directory),
            "create_time": min((entry["create_time"] for entry in listed), default=self._began),
            "update_time": max((entry["update_time"] for entry in listed), default=self._began),
            "colors": {"light": COLORS, "dark": COLORS},
            "experiments": listed,
        }

    def _state(self) -> Data:
        """What the page asks for every few seconds; a new `entries` makes it load again."""
        shown = [(entry.id, entry.name, entry.color) for entry in self._board.entries]
        return {
            "version": self._board.version,
            "show": self._board.shown,
            "runs": len(self._board),
            "entries": zlib.crc32(repr(shown).encode(errors="replace")),
        }

    def _listed(self, entry: Entry, columns: set[str]) -> Data:
        until = _time(entry.started + entry.seconds)
        return {
            "id": entry.id,
            "experiment_id": entry.id,
            "run_id": entry.place,  # the page shows it behind the directory
            "name": entry.name,
            "description": entry.place,
            "light": entry.color,
            "dark": entry.color,
            "status": STATUSES[entry.status],
            "show": int(entry.id not in self._hidden),
            "create_time": _time(entry.started),
            "update_time": until,
            "finish_time": None if entry.status == "running" else until,
            "config": {
                key: {"value": entry.columns[key]} for key in entry.columns if key in columns
            },
        }

    def _experiment(self, entry: Entry) -> Data:
        filled = {key for key, value in entry.columns.items() if value is not None}
        return {**self._listed(entry, filled), "system": machine(entry)}

    def _status(self, entry: Entry) -> Data:
        listed = self._listed(entry, set())
        times = {key: listed[key] for key in ("status", "update_time", "finish_time")}
        return {**times, "charts": self._page(entry.id)}

    def _summaries(self) -> Data:
        """The last value of each metric of each entry."""
        entries = self._board.entries
        names = dict.fromkeys(name for entry in entries for name in entry.points)
        values = {entry.name: {p["key"]: p["value"] for p in _pairs(entry)} for entry in entries}
        return {"tags": list(names), "summaries": values}

    def _log(self, entry: Entry) -> Data:
        lines, errors = log_lines(entry, self._figures)
        if not lines and not errors:
            raise HTTPException(404)
        return {"recent": ["", ""], "logs": lines, **({"error": errors} if errors else {})}

    def _points(self, request: Request) -> Data:
        """The points of one metric of several entries, as columns of numbers; or a picture."""
        wanted = {int(number) for number in request.query_params["ids"].split(",")}
        metric = metric_of(request.path_params["metric"])
        entries = [entry for entry in self._board.entries if entry.id in wanted]
        if paths := compared(self._figures).get(metric):
            return {str(entry.id): _images(entry, paths) for entry in entries}
        most = max(FEWEST_OF_A_LINE, MOST_IN_A_CHART // max(1, len(entries)))
        return {
            str(entry.id): {"began": _time(entry.started), **_columns(entry.points[metric], most)}
            for entry in entries
            if metric in entry.points
        }

    def _tag(self, request: Request) -> Data:
        """The points or pictures of one metric of one entry."""
        entry, metric = self._entry(request), request.path_params["metric"]
        if paths := self._pictures(entry).get(metric):
            return _images(entry, paths)
        if metric not in entry.points:
            raise HTTPException(404)
        columns = _columns(entry.points[metric], MOST_POINTS)
        points = [
            {"index": step, "data": value, "create_time": _time(entry.started + seconds)}
            for step, value, seconds in zip(*columns.values(), strict=True)
        ]
        return _listing(entry, points)

    def _pictures(self, entry: Entry) -> Pictures:
        return {**pictures(entry), **compared(self._figures)}

    def _media(self, request: Request) -> Response:
        """One of the pictures that `_tag` lists, and no other file."""
        with _checked():
            query = request.query_params
            entry, name = self._find(int(query["experiment_id"])), query["tag"]
        for _, path in self._pictures(entry).get(name, []):
            if path.name == request.path_params["file"]:
                return FileResponse(path)
        raise HTTPException(404)

    def _page(self, number: int) -> Data:
        if number == ALL:
            return self._charts.of_all(self._board.entries, compared(self._figures))
        entry = self._find(number)
        return self._charts.of_one(entry, pictures(entry), compared(self._figures))

    def _pin(self, request: Request, body: Data) -> Data:
        number = self._charts.set_status(request.path_params["id"], int(body["status"]))
        return {"groups": with_charts(self._page(number))}

    def _hide(self, request: Request, body: Data) -> Data:
        entry = self._entry(request)
        (self._hidden.discard if body["show"] else self._hidden.add)(entry.id)
        return {"experiment": {"id": entry.id, "show": int(bool(body["show"]))}}

    def _show(self, request: Request, body: Data) -> Data:
        """Show runs, groups or both from now on."""
        what = request.path_params["what"]
        if what not in SHOWS:
            raise HTTPException(404)
        self._board.show = what
        return {}

    def _of_entry(self, answer: Callable[[Entry], Data]) -> Callable[[Request], Data]:
        return lambda request: answer(self._entry(request))

    def _entry(self, request: Request) -> Entry:
        return self._find(request.path_params["id"])

    def _find(self, number: int) -> Entry:
        for entry in self._board.entries:
            if entry.id == number:
                return entry
        raise HTTPException(404)


def _get(path: str, answer: Callable[[Request], Data]) -> Route:
    async def endpoint(request: Request) -> Response:
        return _wrapped(lambda: answer(request))

    return Route(f"/api/v1{path}", endpoint)


def _change(path: str, answer: Callable[[Request, Data], Data]) -> Route:
    """A request that changes what the page shows; browsers let only our own page send it."""

    async def endpoint(request: Request) -> Response:
        content = await request.body()
        return _wrapped(lambda: answer(request, json.loads(content)))

    return Route(f"/api/v1{path}", endpoint, methods=["PATCH"])


def _wrapped(answer: Callable[[], Data]) -> Response:
    with _checked():
        content = {"code": 0, "message": "success", "data": answer()}
        # Escaped, because a name from somebody else's run may be no valid UTF-8.
        return Response(json.dumps(content, allow_nan=False), media_type="application/json")


@contextlib.contextmanager
def _checked() -> Iterator[None]:
    """Answer 400 to what the page would not ask."""
    try:
        yield
    except (KeyError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise HTTPException(400) from error


def _pairs(entry: Entry) -> Sequence[Data]:
    return [
        {"key": name, "value": points.last[1]}
        for name, points in entry.points.items()
        if points.last
    ]


def _images(entry: Entry, found: Sequence[tuple[int, Path]]) -> Data:
    pictures = [
        {"index": step, "data": [path.name], "more": [{"caption": path.name}]}
        for step, path in found
    ]
    return _listing(entry, pictures)


def _listing(entry: Entry, points: list[Data]) -> Data:
    points[-1]["_last"] = True
    return {"sum": len(points), "list": points, "experiment_id": entry.id}


def _columns(points: Points, most: int) -> Data:
    steps, values, seconds = points.shown(most).T
    return {
        "index": steps.astype(int).tolist(),
        "data": values.tolist(),
        "seconds": seconds.tolist(),
    }


def _time(seconds: float) -> str:
    """ISO 8601; a damaged time, which no year has, becomes 1970."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC).isoformat()
