"""A dqn-dashboard in a process of its own, runs for it to show, and a browser to look at it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from watching import wait_for

from dqn_runner.runs.directory import RunDirectory
from dqn_runner.runs.metrics_file import MetricsFile
from dqn_runner.swanlab_internals.page import SWANBOARD_VERSION

if TYPE_CHECKING:
    from playwright.sync_api import Page

needs_swanboard = pytest.mark.skipif(
    importlib.util.find_spec("swanboard") is None,
    reason=f"needs swanboard: pip install swanboard=={SWANBOARD_VERSION}",
)
FINISHED, RUNNING, STOPPED = 1, 0, -1


class Dashboard:
    """A dqn-dashboard process and its address."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self.child = child
        self.said: list[str] = []
        assert child.stdout is not None
        for line in child.stdout:
            self.said.append(line.rstrip())
            if address := re.match(r"http://\S+", line):
                self.address = address[0]
                return
        raise AssertionError(child.communicate())

    def get(self, path: str, **headers: str) -> Any:
        url = f"{self.address}/api/v1/{urllib.parse.quote(path, safe='/?=&,')}"
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return json.load(answer)["data"]

    def change(self, path: str, body: dict[str, Any]) -> Any:
        """What the page's own buttons send."""
        url, data = f"{self.address}/api/v1/{path}", json.dumps(body).encode()
        request = urllib.request.Request(url, data, method="PATCH")
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["data"]

    def runs(self) -> dict[str, dict[str, Any]]:
        return {run["name"]: run for run in self.get("project")["experiments"]}

    def points(self, run: str, metric: str) -> list[tuple[int, float]]:
        answer = self.get(f"experiment/{self.runs()[run]['id']}/tag/{metric}")
        return [(point["index"], point["data"]) for point in answer["list"]]

    def wait(self, condition: Callable[[], bool], seconds: float = 10) -> None:
        wait_for(condition, self.child, seconds=seconds)


@contextlib.contextmanager
def opened(directory: Path, temporary: Path, *arguments: str) -> Iterator[Dashboard]:
    temporary.mkdir(exist_ok=True)
    code = "from dqn_runner.dashboard import main; main()"
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(directory), "--no-browser", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    try:
        yield Dashboard(child)
    finally:
        child.kill()
        child.communicate()


def write_run(
    path: Path, rows: list[dict[str, float]], config: dict[str, Any], **result: Any
) -> RunDirectory:
    """A run as dqn-train leaves it when it is killed or, with a result, when it has finished."""
    run_dir = RunDirectory(path)
    run_dir.claim_new()
    run_dir.start(config)
    append(run_dir, *rows)
    if result:
        run_dir.finish(result)
    run_dir.close()
    return run_dir


def append(run_dir: RunDirectory, *rows: dict[str, float]) -> None:
    file = MetricsFile(run_dir.metrics)
    for row in rows:
        file.log(row)
    file.close()


def row(env_steps: int, value: float = 1.0) -> dict[str, float]:
    return {"env_steps": env_steps, "episodes": 0, "train/td_loss": value}


@contextlib.contextmanager
def browsing(width: int = 1280, height: int = 900) -> Iterator[Page]:
    """A page of Debian's chromium that cannot reach the internet; skips without one."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    options = [
        "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ]  # fmt: skip
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=options)
        page = browser.new_page(viewport={"width": width, "height": height}, locale="en-US")
        yield page
        browser.close()
