"""Several runs that are trained together in one process."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from rich.console import Console

from dqn_runner.allocation import Stack
from dqn_runner.config.root import Config, read
from dqn_runner.errors import DQNRunnerError
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.runs.job import guarded, log_file, running_or_resuming
from dqn_runner.runs.lifecycle import Host, flushed_denormals
from dqn_runner.runs.stop_signals import StopSignals
from dqn_runner.tracking.tracker import EndState
from dqn_runner.training.requests import Asking
from dqn_runner.training.together import Lockstep


def train_together(runs: Mapping[int, tuple[Config, Path]], num_runs: int, num_rows: int) -> None:
    """Train runs in lockstep, each in its run directory; `runs` has them by their row.

    Of `num_rows` rows some may be empty, as of those of the `num_runs` runs of the group that have
    ended before: so those that are left compute the same as with them. Raises Stopped after a
    signal, with all checkpoints saved.
    """
    stack, signals = Stack(num_rows), StopSignals()
    later: list[tuple[int, Callable[[], None]]] = []
    compile_mode = decided_compilation(runs)

    def asking(row: int) -> Asking[float | None]:
        """The run in that row, for whoever acts and learns for it."""
        config, path = runs[row]
        config = config.model_copy(update={"compile": compile_mode or config.compile})

        def close(end: EndState, action: Callable[[], None]) -> None:
            """After a signal all runs are saved before SwanLab is told that they go on later."""
            if signals.has_come and end != "success":
                later.append((row, action))
            else:
                action()

        quiet, memory = Console(quiet=True), stack.memory_of(row)
        host = Host(quiet, signals, memory, num_runs, num_rows, close)
        return guarded(path, lambda: running_or_resuming(config, path, host), quiet=True)

    logs = {row: path / "train.log" for row, (_, path) in runs.items()}
    with routed(logs) as log, signals, flushed_denormals():
        asked = {row: asking(row) for row in runs}
        try:
            Lockstep(asked, stack, enter=log.enter, check_stop=signals.check).run()
        finally:
            for row, action in [] if signals.is_urgent else later:
                log.enter(row)
                action()


def decided_compilation(runs: Mapping[int, tuple[Config, Path]]) -> str | None:
    """Whether those of the runs that have begun are compiled; the others must be too, or not.

    None if none has begun.
    """
    for _, path in runs.values():
        with contextlib.suppress(OSError, DQNRunnerError):  # that run itself will tell
            return read(RunDirectory(path).config, trust=True).compile
    return None


class _RunLogs(logging.Handler):
    """Writes what a run logs to that run's own file."""

    def __init__(self, files: Mapping[int, logging.Handler]) -> None:
        super().__init__(logging.INFO)
        self._files = files
        self._row = next(iter(files))

    def enter(self, row: int) -> None:
        """From now on the run in that row is at work."""
        self._row = row

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, unless its file cannot be opened: a log is worth no run."""
        with contextlib.suppress(OSError):
            self._files[self._row].emit(record)


@contextlib.contextmanager
def routed(paths: Mapping[int, Path]) -> Iterator[_RunLogs]:
    """Send what is logged to the file of the run that is at work, and nowhere else."""
    files = {row: log_file(path, delay=True) for row, path in paths.items()}
    logs, ours, root = _RunLogs(files), logging.getLogger("dqn_runner"), logging.getLogger()
    former = ours.handlers[:], root.handlers[:], root.level
    ours.handlers[:], root.handlers[:] = [], [logs]
    root.setLevel(logging.INFO)
    try:
        yield logs
    finally:
        ours.handlers[:], root.handlers[:], level = former
        root.setLevel(level)
        for file in files.values():
            file.close()
