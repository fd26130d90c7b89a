"""Jobs side by side on one machine, in worker processes of loky, the engine of joblib.

The public joblib plugin gives all jobs to one pool: a worker that is killed takes the others with
it, and Ctrl-C kills them before their checkpoints are saved. Here each worker is a pool of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, NamedTuple

import joblib
from joblib.externals.loky import ProcessPoolExecutor, process_executor
from joblib.externals.loky.process_executor import BrokenProcessPool

from dqn_runner.errors import ConfigError, Stopped, named
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.sweeps.launchers.worker import (
    KILLED,
    Numbered,
    Shared,
    execute,
    execute_together,
    received_signals,
    stop,
)

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
SECONDS_BETWEEN_LOOKS = 0.2


class JoblibLauncher:
    """Runs jobs in as many processes as there are cores, or as `n_jobs` says.

    A job whose process is killed is recorded as failed, and the others go on. Ctrl-C and SIGTERM
    let those that run save their checkpoints, and raise Stopped.
    """

    def __init__(self, settings: dict[str, Any], shared: Shared) -> None:
        n_jobs = settings.pop("n_jobs", -1)
        for key, value in settings.items():
            raise ConfigError(f"hydra.launcher.{key}={value}: no such key; there is n_jobs")
        if type(n_jobs) is not int or n_jobs == 0 or n_jobs < -1:
            raise ConfigError(f"hydra.launcher.n_jobs={n_jobs}: must be -1 or greater than 0")
        self._processes = Processes(joblib.cpu_count() if n_jobs == -1 else n_jobs, shared)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> None:
        """Run a job for each list of overrides; returns when all have ended."""
        jobs = enumerate(job_overrides, initial_job_idx)
        self._processes.run([Task({0: job}) for job in jobs])


class Task(NamedTuple):
    """What a process does at a time: one job, or several that are trained together."""

    jobs: Mapping[int, Numbered]  # by their rows
    num_runs: int = 1  # in the group, also those that have ended
    num_rows: int = 1

    def halves(self) -> list[Task]:
        """Two tasks of half as many jobs, in the rows that they have here."""
        jobs, half = list(self.jobs.items()), -(-len(self.jobs) // 2)
        return [self._replace(jobs=dict(part)) for part in (jobs[:half], jobs[half:])]


class Processes:
    """Processes on this machine, `most` at a time, that take one task after the other."""

    def __init__(self, most: int, shared: Shared) -> None:
        self._most, self._shared = most, shared

    def run(self, tasks: Sequence[Task]) -> None:
        """Do all tasks; raises Stopped after a signal, when those that run have saved."""
        waiting, idle = list(tasks)[::-1], list[_Worker]()
        running: dict[Future[None], tuple[_Worker, Task]] = {}
        with received_signals() as received:
            try:
                while running or (waiting and not received):
                    while len(running) < self._most and waiting and not received:
                        worker, task = idle.pop() if idle else _Worker(), waiting.pop()
                        running[worker.start(self._shared, task)] = worker, task
                    ended, _ = wait(running, SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED)
                    for future in ended:
                        worker, task = running.pop(future)
                        error = future.exception()
                        if isinstance(error, BrokenProcessPool):
                            worker.close(kill=True)
                            if not received:
                                waiting += self._left_of(task)
                        else:
                            idle.append(worker)
                            if error is not None:  # from Hydra, before or after the run
                                self._record_failure(task, named(error))
                    for worker, _ in running.values():
                        worker.pass_on(received)
            finally:
                for worker in idle:
                    worker.close()
                for worker, _ in running.values():
                    worker.close(kill=True)
        if received:
            raise Stopped(received[0])

    def _left_of(self, task: Task) -> list[Task]:
        """What is left to do of a task whose process was killed.

        If one of several jobs did that, nobody knows which: they go on in halves, until it is
        alone, and its failure is recorded.
        """
        left = {row: job for row, job in task.jobs.items() if not self._run_dir(job).has_ended()}
        task = task._replace(jobs=left)
        if len(left) > 1:
            line = f"a process that trained {len(left)} runs was killed; they go on in two halves"
            print(f"dqn-train: {line}", file=sys.stderr)
            return task.halves()
        self._record_failure(task, KILLED)
        return []

    def _run_dir(self, job: Numbered) -> RunDirectory:
        _, overrides = job
        return RunDirectory(self._shared.path(overrides))

    def _record_failure(self, task: Task, reason: str) -> None:
        for job in task.jobs.values():
            if not self._run_dir(job).has_ended():
                _, overrides = job
                self._shared.record_failure(overrides, reason)


class _Worker:
    """A process that runs jobs one after the other."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(max_workers=1, initializer=_set_up, env=ONE_THREAD)
        self._process_id: int | None = None
        self._passed_on = 0

    def start(self, shared: Shared, task: Task) -> Future[None]:
        if self._process_id is None:
            self._pool.submit(os.getpid).add_done_callback(self._know)
        future: Future[None] = self._pool.submit(_work, shared, task)
        return future

    def _know(self, answer: Future[int]) -> None:
        if not answer.cancelled() and answer.exception() is None:
            self._process_id = answer.result()

    def pass_on(self, received: Sequence[int]) -> None:
        """Send the process each of the signals once; a second one does not wait."""
        while self._process_id is not None and self._passed_on < len(received):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process_id, signal.SIGTERM)
            self._passed_on += 1

    def close(self, *, kill: bool = False) -> None:
        """End the process; one that is killed leaves semaphores, which Python warns of."""
        self._pool.shutdown(wait=True, kill_workers=kill)


def _work(shared: Shared, task: Task) -> None:
    with contextlib.suppress(Stopped):
        if task.num_rows > 1:
            execute_together(shared, *task)
        else:
            execute(shared, *task.jobs[0])


def _set_up() -> None:
    # Ctrl-C reaches all processes of a terminal's group; the launcher alone decides what it means.
    os.setpgrp()
    signal.signal(signal.SIGTERM, stop)
    # loky replaces a worker that has grown, as by compiling; signals go to the process it was.
    process_executor._USE_PSUTIL = False
