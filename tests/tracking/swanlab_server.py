"""A stand-in for SwanLab's server on loopback: what it was sent is kept, and it can fail."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

API_KEY = "key-of-the-tests"
CREATED = "2026-01-01T00:00:00.000000Z"

Failure = Literal["", "hang", "die", "die after storing", "break", "refuse"]


@dataclass
class CloudRun:
    """What the server has of one run; a point that came twice has two values."""

    about: dict[str, Any]
    points: dict[tuple[str, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    media: list[tuple[str, int]] = field(default_factory=list)
    media_files: dict[str, list[str]] = field(default_factory=dict)  # the names of each media's
    logs: list[dict[str, Any]] = field(default_factory=list)
    profile: dict[str, Any] = field(default_factory=dict)
    states: list[str] = field(default_factory=list)

    def table_row(self, prefix: str) -> dict[str, float]:
        """The columns that begin with `prefix`, as the table shows them: the last values."""
        last = sorted((step, key, values[-1]) for (key, step), values in self.points.items())
        return {key: value for _, key, value in last if key.startswith(prefix)}

    def training_points(self) -> dict[tuple[str, int], list[float]]:
        """Without those of SwanLab's own hardware monitor."""
        return {k: v for k, v in self.points.items() if not k[0].startswith("__swanlab__")}


class SwanLabServer:
    """Answers SwanLab's requests, until the one that `fail` names; keeps its state when stopped."""

    def __init__(self) -> None:
        self.runs: dict[str, CloudRun] = {}
        self.files: dict[str, bytes] = {}
        self.projects: set[str] = set()
        self.columns: list[str] = []
        self.column_types: dict[str, str] = {}
        self.posts = 0  # of metrics
        self.requests: list[str] = []
        self._failure: Failure = ""
        self._fails_at = 0
        self.released = threading.Event()
        self._http: ThreadingHTTPServer | None = None
        self._lock = threading.Lock()
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Answer again, at the same address."""
        self._failure = ""
        server = self

        class Handler(_Handler):
            stub = server

        self._http = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._port = self._http.server_port
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Be gone: connections are refused."""
        self.die(self._http)

    def die(self, http: ThreadingHTTPServer | None) -> None:
        """Stop listening as `http`, unless that has happened or another listens by now."""
        with self._lock:
            if http and http is self._http:
                http.shutdown()
                http.server_close()
                self._http = None

    def restart(self) -> None:
        """Let go of those who wait for an answer, and be back."""
        self.released.set()
        self.stop()
        self.start()

    def fail(self, how: Failure, at: int = 0) -> None:
        """Fail with the `at`-th batch of metrics from now on; 0 is every request at once."""
        self._failure, self._fails_at = how, self.posts + at if at else 0

    def failure(self, path: str) -> Failure:
        """How the request for `path` is to fail."""
        if path.endswith("/house/metrics"):
            self.posts += 1
        return self._failure if self.posts >= self._fails_at else ""


class _Handler(BaseHTTPRequestHandler):
    stub: SwanLabServer

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def handle_request(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        self.stub.requests.append(f"{self.command} {path}")
        failure = self.stub.failure(path)
        if failure == "hang":
            self.stub.released.wait()
            return
        if failure == "break":
            self.answer({"message": "broken"}, 500)
            return
        if failure == "refuse":
            self.answer({"message": "who are you"}, 401)
            return
        if failure == "die after storing":
            self.route(path, body)
        if failure:
            threading.Thread(target=self.stub.die, args=(self.server,)).start()
            return
        data, status = self.route(path, body)
        self.answer(data, status)

    do_GET = do_POST = do_PUT = handle_request  # noqa: N815

    def answer(self, data: Any, status: int) -> None:
        content = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def route(self, path: str, body: bytes) -> tuple[Any, int]:
        """Body and status of the answer."""
        stub = self.stub
        if path.startswith("/storage/"):
            stub.files[path.removeprefix("/storage/")] = body
            return {}, 200
        given = json.loads(body) if body else {}
        parts = path.removeprefix("/api").strip("/").split("/")
        answer: tuple[Any, int] = ({"message": f"no route {path}"}, 404)
        match self.command, *parts:
            case "POST", "login", "api_key":
                answer = self.login()
            case "POST", "projects", _:
                stub.projects.add(given["name"])
                answer = {}, 201
            case "POST", "projects", _, _, "series":
                stub.columns += [column["key"] for column in given["series"]]
                stub.column_types |= {c["key"]: c["type"] for c in given["series"]}
                answer = {}, 201
            case "GET", "project", user, name if name in stub.projects:
                answer = self.project(user, name), 200
            case "POST", "project", _, _, "experiment":
                answer = self.experiment(given)
            case "GET", "house", "metrics", "summaries", _, run_id:
                answer = self.summary(stub.runs[run_id]), 200
            case "POST", "house", "metrics":
                self.store(stub.runs[given["experimentId"]], given["type"], given["metrics"])
                answer = {}, 201
            case "PUT", "project", _, _, "runs", run_id, "profile":
                stub.runs[run_id].profile |= given
                answer = {}, 200
            case "PUT", "project", _, _, "runs", run_id, "state":
                stub.runs[run_id].states.append(given["state"])
                answer = {}, 200
            case "POST", "resources", "presigned", "put":
                answer = {"urls": [f"{stub.url}/storage/{name}" for name in given["paths"]]}, 201
            case "POST", "house", "experiments", _, "heartbeat":
                answer = {}, 200
        return answer

    def login(self) -> tuple[Any, int]:
        if self.headers["authorization"] != API_KEY:
            return {"message": "who are you"}, 401
        user = {"username": "tester", "name": "Tester"}
        return {"sid": "1", "expiredAt": "2099-01-01T00:00:00.000Z", "userInfo": user}, 200

    def project(self, user: str, name: str) -> dict[str, Any]:
        about = {"group": {"username": user}, "_count": {"experiments": len(self.stub.runs)}}
        return {**about, "cuid": name, "name": name, "path": f"/{user}/{name}", "version": 1}

    def experiment(self, given: dict[str, Any]) -> tuple[Any, int]:
        is_new = given["cuid"] not in self.stub.runs
        run = self.stub.runs.setdefault(given["cuid"], CloudRun(given))
        run.states.append("RUNNING")
        about = {"cuid": given["cuid"], "name": given["name"], "createdAt": CREATED}
        return about, 201 if is_new else 200

    def summary(self, run: CloudRun) -> dict[str, Any]:
        """The last step of each metric: what SwanLab asks for before it sends more."""
        scalar: dict[str, int] = {}
        for key, step in run.points:
            scalar[key] = max(step, scalar.get(key, step))
        media: dict[str, int] = {}
        for key, step in run.media:
            media[key] = max(step, media.get(key, step))
        return {
            "scalar": [{"key": key, "step": step} for key, step in scalar.items()],
            "media": [{"key": key, "step": step} for key, step in media.items()],
            "log": [],
        }

    def store(self, run: CloudRun, kind: str, metrics: list[dict[str, Any]]) -> None:
        for metric in metrics:
            if kind == "scalar":
                run.points[metric["key"], metric["index"]].append(metric["data"])
            elif kind == "media":
                run.media.append((metric["key"], metric["index"]))
                run.media_files[metric["key"]] = metric["data"]
            else:
                run.logs.append(metric)
