"""Shows how far a run is: a bar on a terminal, or a line every ten seconds in a log."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta

from rich.console import Console, ConsoleOptions
from rich.live import Live
from rich.measure import Measurement
from rich.progress import BarColumn, ProgressColumn, Task, TaskProgressColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text

from dqn_runner.types import Progress, Row

SECONDS_BETWEEN_LINES = 10.0
REFRESHES_PER_SECOND = 4
GAP = "  "


class AsManyAsFit:
    """As many of `parts`, from the first one on, as fit on the terminal."""

    def __init__(self, parts: Sequence[str]) -> None:
        self._parts = parts

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(0, len(GAP.join(self._parts)))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        shown = [GAP.join(self._parts[:n]) for n in range(len(self._parts) + 1)]
        yield Text(max(filter(lambda text: len(text) <= options.max_width, shown), key=len))


class _DetailsColumn(ProgressColumn):
    """The numbers that are left out if the terminal is too narrow."""

    def render(self, task: Task) -> AsManyAsFit:
        return AsManyAsFit(task.fields["details"])


class _TimeLeftColumn(ProgressColumn):
    """The estimated time until the bar is full; empty when it is."""

    def render(self, task: Task) -> Text:
        if task.finished:
            return Text("")
        seconds = task.time_remaining or task.fields["expected"]
        left = "-:--:--" if seconds is None else str(timedelta(seconds=max(1, math.ceil(seconds))))
        return Text(f"{left} left", style="progress.remaining")


class ProgressDisplay:
    """Shows `progress` until it is closed: first of training, then of the final evaluation.

    On a terminal rich redraws the bar in its own thread, so it costs the training loop no time.
    Elsewhere (a log file, a batch job) `log` and `look` print a plain line at most every ten
    seconds.
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
        self._last_line = self._began = time.monotonic()
        self._is_scoring = False
        self._fraction_before = self._fraction()  # not 0 for a resumed run
        self._speed = 0.0
        self._bar = RichProgress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=16),
            TaskProgressColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[mean]}", table_column=Column(no_wrap=True)),
            _TimeLeftColumn(table_column=Column(no_wrap=True)),
            _DetailsColumn(),
            console=console,
            auto_refresh=False,
        )
        self._task = self._bar.add_task("", total=1.0, mean="", details=[], expected=None)
        self._has_printed = False
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
        """Take the speed from `row`, and print a plain line if there is no bar and one is due."""
        self._speed = row.get("time/env_steps_per_second", self._speed)
        self.look()

    def look(self) -> None:
        """Print a plain line if there is no bar and one is due."""
        if self._live:
            return
        now = time.monotonic()
        # Where lines were printed, the last one spoke of a second left: say what comes then.
        turned = self._turn_to_scoring(now) and self._has_printed
        if turned or now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line, self._has_printed = now, True
            self._console.print(self._line(now), highlight=False)

    def _line(self, now: float) -> str:
        fraction = self._fraction()
        done = fraction - self._fraction_before
        parts = [self._activity()] if self._is_scoring else self._numbers()
        if done > 0 and fraction < 1:
            left = (now - self._began) * (1 - fraction) / done
            parts.append(f"{max(1.0, left):.0f} s left")
        elif expected := self._expected(now):
            parts.append(f"about {expected:.0f} s left")
        return GAP.join([f"{fraction:4.0%}", *parts])

    def _turn_to_scoring(self, now: float) -> bool:
        """Start again from 0 when the final evaluation has begun; returns whether that is now."""
        if not self._progress.to_score or self._is_scoring:
            return False
        self._is_scoring = True
        self._began, self._fraction_before = now, 0.0
        self._bar.reset(self._task)
        return True

    def _expected(self, now: float) -> float | None:
        """Seconds that the final evaluation will take, by the last one; None if not known.

        Its episodes end late, and many at a time, so it is long without any.
        """
        progress = self._progress
        if not progress.to_score or progress.scored or not progress.seconds_per_episode:
            return None
        return max(1.0, progress.to_score * progress.seconds_per_episode - (now - self._began))

    def _fraction(self) -> float:
        done = self._progress
        if done.to_score:
            return done.scored / done.to_score
        return min(
            1.0,
            max(
                done.env_steps / self._total_timesteps if self._total_timesteps else 0.0,
                done.episodes / self._total_episodes if self._total_episodes else 0.0,
            ),
        )

    def _activity(self) -> str:
        done = self._progress
        return done.activity + (f" {done.scored}/{done.to_score}" if done.to_score else "")

    def _numbers(self) -> list[str]:
        done = self._progress
        numbers = [
            f"{done.env_steps:,} steps",
            f"{done.episodes:,} episodes",
            self._mean(),
            "" if done.td_loss is None else f"loss {done.td_loss:.3g}",
            f"ε {done.epsilon:.3f}",
            f"{self._speed:,.0f} steps/s",
        ]
        return [number for number in numbers if number]

    def _mean(self) -> str:
        """The mean return of the last training episodes; empty if none has ended."""
        returns = tuple(self._progress.recent_returns)
        return f"return {statistics.fmean(returns):.1f}" if returns else ""

    def _render(self) -> RichProgress:
        now = time.monotonic()
        self._turn_to_scoring(now)
        mean = self._mean()
        details = [number for number in self._numbers() if number != mean]
        done, activity = self._fraction(), self._activity()
        self._bar.update(
            self._task, completed=done, description=activity, mean=mean, details=details,
            expected=self._expected(now),
        )  # fmt: skip
        return self._bar
