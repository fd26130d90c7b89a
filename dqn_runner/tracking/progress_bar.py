"""What a person watches while a run goes on: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import statistics
import time

from rich.console import Console
from rich.live import Live
from rich.progress import (
    BarColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

from dqn_runner.types import Progress, Row

SECONDS_BETWEEN_LINES = 10.0
REFRESHES_PER_SECOND = 4


class ProgressDisplay:
    """Shows `progress` until it is closed.

    On a terminal a thread of rich's redraws the bar from the counters, so that the training loop
    spends nothing on it. Elsewhere (a log file, a batch job) `log` prints a plain line at most
    every ten seconds.
    """

    def __init__(
        self,
        progress: Progress,
        total_timesteps: int | None,
        total_episodes: int | None,
        console: Console,
    ) -> None:
        self._progress = progress
        self._total_timesteps, self._total_episodes = total_timesteps, total_episodes
        self._console = console
        self._last_line = self._started = time.monotonic()
        self._fraction_before = self._fraction()  # of a run that goes on
        self._speed = 0.0
        self._bar = RichProgress(
            TextColumn("{task.fields[activity]}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            auto_refresh=False,
        )
        self._task = self._bar.add_task("", total=1.0, activity="", status="")
        self._live = (
            Live(
                get_renderable=self._render,
                console=console,
                refresh_per_second=REFRESHES_PER_SECOND,
                transient=True,
            )
            if console.is_terminal
            else None
        )

    def __enter__(self) -> ProgressDisplay:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def log(self, row: Row) -> None:
        """Take the speed from `row`; print a plain line where there is no bar and one is due."""
        self._speed = row.get("time/env_steps_per_second", self._speed)
        now = time.monotonic()
        if self._live is None and now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            fraction = self._fraction()
            done = fraction - self._fraction_before
            left = (now - self._started) * (1 - fraction) / done if done else 0.0
            self._console.print(
                f"{fraction:4.0%}  {self._status()}  {left:.0f} s left", highlight=False
            )

    def _fraction(self) -> float:
        done = self._progress
        return min(
            1.0,
            max(
                done.env_steps / self._total_timesteps if self._total_timesteps else 0.0,
                done.episodes / self._total_episodes if self._total_episodes else 0.0,
            ),
        )

    def _status(self) -> str:
        done = self._progress
        parts = [f"{done.env_steps:,} steps", f"{done.episodes:,} episodes"]
        if done.recent_returns:
            parts.append(f"return {statistics.fmean(tuple(done.recent_returns)):.1f}")
        if done.td_loss is not None:
            parts.append(f"loss {done.td_loss:.3g}")
        parts += [f"ε {done.epsilon:.3f}", f"{self._speed:,.0f} steps/s"]
        return "  ".join(parts)

    def _render(self) -> RichProgress:
        self._bar.update(
            self._task,
            completed=self._fraction(),
            activity=self._progress.activity,
            status=self._status(),
        )
        return self._bar
