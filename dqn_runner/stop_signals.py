"""Ctrl-C and SIGTERM as requests that a run answers where it can be stopped."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

from dqn_runner.errors import Stopped

# A terminal that goes away; Windows has none.
HANGUP = (signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()


class StopSignals:
    """Turns Ctrl-C and SIGTERM into a request that the loop sees between two steps.

    A second Ctrl-C does not wait.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._former: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGINT, signal.SIGTERM, *HANGUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
                self._former[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None:
            raise Stopped(number, at_safe_point=False)
        self._received = number

    def check(self) -> None:
        """Raise Stopped if a signal has come."""
        if self._received is not None:
            raise Stopped(self._received)
