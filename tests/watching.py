"""What tests look at from outside, while a run goes on and when it has ended."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

SECONDS_BETWEEN_LOOKS = 0.1


def wait_for(
    condition: Callable[[], object],
    child: subprocess.Popen[str] | None = None,
    seconds: float = 60,
) -> None:
    """Return when `condition` holds; fail when that takes longer, or `child` ends before."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert child is None or child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(SECONDS_BETWEEN_LOOKS)


def first_row(run: Path) -> str:
    """The first line of metrics.jsonl, with the time it took, which no other run repeats."""
    path = run / "metrics.jsonl"
    return path.read_text().partition("\n")[0] if path.exists() else ""


def rows_without_clock(run: Path) -> list[dict[str, float]]:
    """All that two equal runs have in common of metrics.jsonl."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


def free_port() -> int:
    """A port of this machine at which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
