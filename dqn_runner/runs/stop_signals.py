"""Ctrl-C and SIGTERM as requests that a run answers where it can be stopped."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from dqn_runner.errors import Stopped

# A terminal that goes away; Windows has none.
HANGUP = (signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()


@contextmanager
def caught(receive: Callable[[int], object]) -> Iterator[None]:
    """Have `receive` called with the number of each stop signal that is not ignored."""

    def handle(number: int, frame: FrameType | None) -> None:
        receive(number)

    former = {
        number: signal.signal(number, handle)
        for number in (signal.SIGINT, signal.SIGTERM, *HANGUP)
        if signal.getsignal(number) is not signal.SIG_IGN  # as nohup has it
    }
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


class StopSignals:
    """Turns Ctrl-C and SIGTERM into a request that the loop sees between two steps.

    A second Ctrl-C does not wait. A second signal of another kind does: who ends a job may send
    several.
    """

    def __init__(self) -> None:
        self._received: list[int] = []
        self._catching = caught(self._receive)

    def __enter__(self) -> StopSignals:
        self._catching.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._catching.__exit__(*error)

    def _receive(self, number: int) -> None:
        if number in self._received:
            raise Stopped(number, at_safe_point=False)
        self._received.append(number)

    def check(self) -> None:
        """Raise Stopped if a signal has come."""
        if self._received:
            raise Stopped(self._received[0])
