"""What happened between two rows of metrics."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator

from dqn_runner.agents.agent import Agent
from dqn_runner.errors import RunError
from dqn_runner.types import Progress, Row


def diverged(progress: Progress) -> RunError:
    """The line for a loss or for parameters that are not numbers any more."""
    return RunError(
        f"learning diverged before env step {progress.env_steps}: the loss is not finite; the last "
        "checkpoint is from before; try a smaller agent.lr, or agent.max_grad_norm"
    )


class Meter:
    """Sums up what happened between two rows of metrics."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._read_at = time.perf_counter()
        self._paused_seconds = 0.0
        self._steps_at_reading = progress.env_steps

    @contextlib.contextmanager
    def paused(self, activity: str) -> Iterator[None]:
        """Do something whose time is not counted in the speed, under a name that is shown."""
        self._progress.activity, before = activity, self._progress.activity
        started = time.perf_counter()
        try:
            yield
        finally:
            self._progress.activity = before
        self._paused_seconds += time.perf_counter() - started

    def read(self, agent: Agent) -> Row:
        """The metrics since the last reading."""
        row: Row = {}
        row |= agent.learner.read_metrics()
        if not math.isfinite(row.get("train/td_loss", 0.0)):
            raise diverged(self._progress)
        row["train/epsilon"] = self._progress.epsilon
        self._progress.td_loss = row.get("train/td_loss", self._progress.td_loss)
        now = time.perf_counter()
        seconds = now - self._read_at - self._paused_seconds
        row["time/env_steps_per_second"] = (
            self._progress.env_steps - self._steps_at_reading
        ) / max(seconds, 1e-9)
        self._progress.elapsed_seconds += now - self._read_at
        row["time/elapsed_seconds"] = self._progress.elapsed_seconds
        self._paused_seconds = 0.0
        self._read_at, self._steps_at_reading = now, self._progress.env_steps
        return row
