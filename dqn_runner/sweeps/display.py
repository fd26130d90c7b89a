"""What a person watches while a sweep goes on, read from its run directories.

Directories tell the same wherever the runs are: in this process, in others, on other machines.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from dqn_runner.runs.directory import RunDirectory, read_yaml
from dqn_runner.runs.metrics_file import EVALUATION, read_metrics
from dqn_runner.runs.progress_bar import AsManyAsFit
from dqn_runner.types import Row

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_LINES = 10.0
TAIL = 2**16  # bytes of a metrics.jsonl, which hold its last hundred rows


class SweepDisplay:
    """One line for all the runs in `paths`, and one for each that fails.

    On a terminal the line is redrawn every second; elsewhere it is printed every ten. `watch` is
    called every second. All that is done by a thread, so that a launcher may take its time.
    """

    def __init__(
        self, paths: Sequence[Path], *, visible: bool, watch: Callable[[], None] | None = None
    ) -> None:
        self._open = {path: _Run(path) for path in paths}
        self._total = len(paths)
        self._ended = dict.fromkeys(("finished", "failed", "pruned"), 0)
        self._best: tuple[float, str] | None = None
        self._visible, self._watch = visible, watch
        self._console = Console(soft_wrap=True)
        self._live = (
            Live(console=self._console, auto_refresh=False, transient=True)
            if visible and self._console.is_terminal
            else None
        )
        self._started = self._last_line = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep_looking, daemon=True)

    def __enter__(self) -> SweepDisplay:
        if self._live:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        self._try_to_look()
        if self._live:
            self._live.stop()

    def _keep_looking(self) -> None:
        while not self._over.wait(SECONDS_BETWEEN_LOOKS):
            self._try_to_look()

    def _try_to_look(self) -> None:
        try:
            self._look()
        except Exception:  # a view must not end what it shows
            logger.exception("the sweep cannot be shown")

    def _look(self) -> None:
        if self._watch:
            self._watch()
        if not self._visible:
            return
        for path, run in list(self._open.items()):
            if run.directory.has_ended():
                del self._open[path]
                self._count(run)
        running = [run for run in self._open.values() if run.directory.is_locked()]
        fraction = self._fraction(running)
        if self._live:
            self._live.update(self._bar(running, fraction), refresh=True)
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self._console.print(
                f"{fraction:4.0%}  {self._status(running)}  {self._time_left(fraction)}",
                highlight=False,
                markup=False,
            )

    def _count(self, run: _Run) -> None:
        if run.directory.has_finished() and (result := run.directory.read_result()):
            self._ended["finished"] += 1
            score = float(result["final"]["mean"])
            if self._best is None or score > self._best[0]:
                self._best = score, run.directory.path.name
        elif end := run.directory.read_end():
            self._ended[end.status] += 1
            if end.status == "failed":
                place = run.directory.path
                print(f"dqn-train: error: {place}: {end.reason}", file=sys.stderr)

    def _fraction(self, running: Sequence[_Run]) -> float:
        done = self._total - len(self._open) + sum(run.fraction() for run in running)
        return done / self._total

    def _status(self, running: Sequence[_Run]) -> str:
        ended = self._ended
        parts = [f"{ended['finished']} of {self._total} done", f"{len(running)} running"]
        parts += [f"{ended[k]} {k}" for k in ("failed", "pruned") if ended[k] or k == "failed"]
        if self._best:
            parts.append(f"best {self._best[0]:,.1f} ({self._best[1]})")
        elif scores := [s for run in running if (s := run.evaluation()) is not None]:
            parts.append(f"best so far {max(scores):,.1f}")
        elif running and not any(run.directory.config.is_file() for run in running):
            parts.append("starting; a first compilation takes half a minute")
        return "  ".join(parts)

    def _time_left(self, fraction: float) -> str:
        if not fraction:
            return ""
        seconds = (time.monotonic() - self._started) * (1 - fraction) / fraction
        return f"{timedelta(seconds=round(seconds))} left"

    def _bar(self, running: Sequence[_Run], fraction: float) -> Table:
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column()
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True)
        bar = ProgressBar(total=1.0, completed=fraction)
        status = AsManyAsFit(re.split(r"  | (?=\()", self._status(running)))
        grid.add_row(status, bar, f"{fraction:.0%} {self._time_left(fraction)}")
        return grid


class _Run:
    """One run of the sweep, as far as its directory tells."""

    def __init__(self, path: Path) -> None:
        self.directory = RunDirectory(path)
        self._budgets: dict[str, int] | None = None

    def fraction(self) -> float:
        """How much of its budget is spent."""
        rows = self._rows()
        if not rows:
            return 0.0
        if self._budgets is None:
            config = read_yaml(self.directory.config)
            budgets = {"env_steps": "total_timesteps", "episodes": "total_episodes"}
            self._budgets = {row: config[key] for row, key in budgets.items() if config[key]}
        return min(1.0, max(rows[-1].get(key, 0) / budget for key, budget in self._budgets.items()))

    def evaluation(self) -> float | None:
        """The mean return of its last evaluation, if that is not long ago."""
        rows = reversed(self._rows())
        return next((row[EVALUATION] for row in rows if EVALUATION in row), None)

    def _rows(self) -> list[Row]:
        """The last rows of its metrics."""
        return read_metrics(self.directory.metrics, tail=TAIL)
