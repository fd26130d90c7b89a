"""Ctrl-C and SIGTERM as requests, which a run answers at a point where it can be saved."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from dqn_runner.errors import Stopped

# Sent when the terminal is closed; Windows has no such signal.
HANGUP = (signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()


@contextmanager
def caught(receive: Callable[[int], object]) -> Iterator[None]:
    """Call `receive` with the number of each stop signal that arrives, unless it is ignored."""

    def handle(number: int, frame: FrameType | None) -> None:
        receive(number)

    former = {
        number: signal.signal(number, handle)
        for number in (signal.SIGINT, signal.SIGTERM, *HANGUP)
        if signal.getsignal(number) is not signal.SIG_IGN  # nohup ignores SIGHUP
    }
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


class StopSignals:
    """Turns Ctrl-C and SIGTERM into a request, which the training loop sees between two steps.

    A second signal of the same kind stops the run at once, such as a second Ctrl-C. One of another
    kind does not: a scheduler may send several to end a job. Runs that are trained together share
    it: whoever enters first catches signals until the last one has left.
    """

    def __init__(self) -> None:
        self._received: list[int] = []
        self.is_urgent = False  # a second one has arrived
        self._catching = caught(self._receive)
        self._num_inside = 0

    def __enter__(self) -> StopSignals:
        if self._num_inside == 0:
            self._catching.__enter__()
        self._num_inside += 1
        return self

    def __exit__(self, *error: Any) -> None:
        self._num_inside -= 1
        if self._num_inside == 0:
            self._catching.__exit__(*error)

    def _receive(self, number: int) -> None:
        if number in self._received:
            self.is_urgent = True
            raise Stopped(number, at_safe_point=False)
        self._received.append(number)

    @property
    def has_come(self) -> bool:
        """Whether a signal has arrived."""
        return bool(self._received)

    def check(self) -> None:
        """Raise Stopped if a signal has arrived."""
        if self._received:
            raise Stopped(self._received[0])
