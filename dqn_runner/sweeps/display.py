"""What a person watches during a sweep, read from its run directories.

That works wherever the runs are: in this process, in others, or on other machines.
"""

from __future__ import annotations

import re
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from dqn_runner.errors import ConfigError
from dqn_runner.runs.directory import RunDirectory, read_yaml
from dqn_runner.runs.metrics_file import EVALUATION, read_metrics
from dqn_runner.runs.progress_bar import AsManyAsFit
from dqn_runner.types import Row

SECONDS_BETWEEN_LINES = 10.0
SPEED = "time/env_steps_per_second"
TAIL = 2**16  # bytes of a metrics.jsonl: about its last hundred rows


class SweepDisplay:
    """One line for all the runs in `paths`, and one more for each run that fails.

    On a terminal every look redraws the line; elsewhere it is printed every ten seconds.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._runs = [_Run(path) for path in paths]
        for run in self._runs:
            run.look()
        self._open = dict(zip(paths, self._runs, strict=True))
        self._total = len(paths)
        self._ended = dict.fromkeys(("finished", "failed", "pruned"), 0)
        self._finals: dict[str, list[float]] = {}  # returns of finished runs, by their settings
        self._console = Console(soft_wrap=True)
        self._live = (
            Live(console=self._console, auto_refresh=False, transient=True)
            if self._console.is_terminal
            else None
        )
        self._started = self._last_line = time.monotonic()

    def __enter__(self) -> SweepDisplay:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def look(self) -> None:
        """Read the run directories, and show what they say now."""
        for path, run in list(self._open.items()):
            if run.directory.has_ended():
                del self._open[path]
                run.part_done = 1.0
                self._count(run)
        running = [run for run in self._open.values() if run.directory.is_locked()]
        for run in running:
            run.look()
        done = sum(run.part_done for run in self._runs)
        if self._live:
            self._live.update(self._bar(running, done), refresh=True)
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self._console.print(
                f"{done / self._total:4.0%}  {self._status(running)}  {self._time_left(done)}",
                highlight=False,
                markup=False,
            )

    def _count(self, run: _Run) -> None:
        if run.directory.has_finished() and (result := run.directory.read_result()):
            self._ended["finished"] += 1
            self._finals.setdefault(run.settings, []).append(float(result["final"]["mean"]))
        elif end := run.directory.read_end():
            self._ended[end.status] += 1
            if end.status == "failed":
                place = run.directory.path
                print(f"dqn-train: error: {place}: {end.reason}", file=sys.stderr)

    def _status(self, running: Sequence[_Run]) -> str:
        ended = self._ended
        parts = [f"{ended['finished']} of {self._total} done", f"{len(running)} running"]
        parts += [f"{ended[k]} {k}" for k in ("failed", "pruned") if ended[k] or k == "failed"]
        if scores := self._scores(running):
            means = {settings: statistics.fmean(scores[settings]) for settings in scores}
            best = max(means, key=means.__getitem__)
            parts.append(
                f"best {means[best]:,.1f} ({best})" if best else f"mean {means[best]:,.1f}"
            )
        elif running and not any(run.directory.config.is_file() for run in running):
            parts.append("starting; a first compilation takes half a minute")
        if speed := sum(run.latest(SPEED) or 0.0 for run in running):
            parts.append(f"{speed:,.0f} steps/s")
        return "  ".join(parts)

    def _scores(self, running: Sequence[_Run]) -> dict[str, list[float]]:
        """The final returns, and of running runs their last evaluations, by their settings."""
        scores = {settings: list(finals) for settings, finals in self._finals.items()}
        for run in running:
            if (score := run.latest(EVALUATION)) is not None:
                scores.setdefault(run.settings, []).append(score)
        return scores

    def _time_left(self, done: float) -> str:
        done_now = done - sum(run.part_before for run in self._runs)
        if done_now <= 0.0:
            return ""
        seconds_per_run = (time.monotonic() - self._started) / done_now
        return f"{timedelta(seconds=round(seconds_per_run * (self._total - done)))} left"

    def _bar(self, running: Sequence[_Run], done: float) -> Table:
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column()
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True)
        bar = ProgressBar(total=self._total, completed=done)
        status = AsManyAsFit(re.split(r"  | (?=\()", self._status(running)))
        grid.add_row(status, bar, f"{done / self._total:.0%} {self._time_left(done)}")
        return grid


class _Run:
    """What the directory of one run of the sweep says."""

    def __init__(self, path: Path) -> None:
        self.directory = RunDirectory(path)
        # Those that are in its name, without the seed; empty if there are no others.
        self.settings = re.sub(r"(^|,)seed=[^,]*", "", path.name).strip(",")
        self._budgets: dict[str, int] | None = None
        self._rows: list[Row] = []
        self.part_done = 0.0  # of its budget
        self.part_before = 1.0  # what an earlier sweep had done of it, as far as it is kept

    def look(self) -> None:
        """Read the last rows of its metrics."""
        self._rows = read_metrics(self.directory.metrics, tail=TAIL)
        self.part_done = self._part_of_budget()
        self.part_before = min(self.part_before, self.part_done)

    def _part_of_budget(self) -> float:
        if not self._rows:
            return 0.0
        if self._budgets is None:
            try:
                config = read_yaml(self.directory.config)
            except ConfigError:  # the run itself tells what is wrong with it
                return 0.0
            budgets = {"env_steps": "total_timesteps", "episodes": "total_episodes"}
            self._budgets = {row: config[key] for row, key in budgets.items() if config.get(key)}
        last = self._rows[-1]
        parts = (last.get(key, 0) / budget for key, budget in self._budgets.items())
        return min(1.0, max(parts, default=0.0))

    def latest(self, metric: str) -> float | None:
        """The last value of a metric, None if the last rows hold none."""
        return next((row[metric] for row in reversed(self._rows) if metric in row), None)
