"""One job of a sweep in another process than the one that composed it."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, TypeVar

from hydra.core import utils
from hydra.core.singleton import Singleton
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from dqn_runner.composing.hydra_internals import JOB_FOLDER
from dqn_runner.errors import DQNRunnerError, Stopped, named
from dqn_runner.runs.directory import End, RunDirectory
from dqn_runner.runs.group import train_together
from dqn_runner.runs.job import run_job, settled
from dqn_runner.runs.stop_signals import caught

T = TypeVar("T")
Numbered = tuple[int, Sequence[str]]  # the number of a job in its sweep, and its overrides

KILLED = "its process was killed; was there enough memory?"
# A node that has lost its network may still run the job, and its lock on shared storage stays.
SECONDS_FOR_THE_FORMER = 120.0


class Shared(NamedTuple):
    """What all jobs of a sweep have in common; it can be pickled."""

    context: HydraContext
    config: DictConfig
    singletons: Any  # Hydra's global state in the process that launches
    arguments: list[str]  # the command line of that process, which a run keeps

    def path(self, overrides: Sequence[str]) -> Path:
        """The run directory of the job with these overrides."""
        (folder,) = [line.split("=", 1)[1] for line in overrides if line.startswith(JOB_FOLDER)]
        name = folder.strip("'").replace("\\'", "'").replace("\\\\", "\\")
        return Path(self.config.hydra.sweep.dir) / name

    def record_failure(self, overrides: Sequence[str], reason: str) -> None:
        """Write into the job's run directory why it failed, if the job could not do so itself."""
        run_dir = RunDirectory(self.path(overrides))
        try:
            run_dir.path.mkdir(parents=True, exist_ok=True)
            run_dir.end(End("failed", reason))
        except OSError as error:  # the job stays to do, and the other jobs go on
            print(f"dqn-train: error: {run_dir.path}: {reason} ({error})", file=sys.stderr)


def execute(shared: Shared, number: int, overrides: Sequence[str]) -> None:
    """Run the job as Hydra's own launcher does.

    Nothing is returned: what Hydra keeps of a job, two whole configurations, stays in this process.
    A job that is started again waits for the process that had it before, and does nothing if that
    one finished it.
    """
    run_dir = RunDirectory(shared.path(overrides))
    deadline = time.monotonic() + SECONDS_FOR_THE_FORMER
    while run_dir.is_locked() and time.monotonic() < deadline:
        time.sleep(1)
    if not run_dir.has_finished():
        _as_job_of_hydra(shared, number, overrides, functools.partial(run_job, quiet=True))


def execute_together(
    shared: Shared, jobs: Mapping[int, Numbered], num_runs: int, num_rows: int
) -> None:
    """Run jobs, by their rows of `num_rows`, of the `num_runs` that are trained together."""
    runs = {}
    for row, (number, overrides) in jobs.items():
        task = functools.partial(settled, quiet=True)
        try:
            config = _as_job_of_hydra(shared, number, overrides, task)
        except Exception as error:
            is_ours = isinstance(error, DQNRunnerError)
            shared.record_failure(overrides, str(error) if is_ours else named(error))
        else:
            runs[row] = config, shared.path(overrides)
    if runs:
        train_together(runs, num_runs, num_rows)


def _as_job_of_hydra(
    shared: Shared, number: int, overrides: Sequence[str], task: Callable[[DictConfig], T]
) -> T:
    """What `task` returns for the job's configuration; raises what it raises."""
    from dqn_runner.composing.hydra_internals import set_up_hydra

    sys.argv = shared.arguments
    utils.setup_globals()
    set_up_hydra()
    Singleton.set_state(shared.singletons)
    config = shared.context.config_loader.load_sweep_config(shared.config, list(overrides))
    with open_dict(config):
        config.hydra.job.id = f"{OmegaConf.select(config, 'hydra.job.name')}_{number}"
        config.hydra.job.num = number
    done = utils.run_job(
        hydra_context=shared.context,
        config=config,
        task_function=task,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    result: T = done.return_value  # raises what the job raised
    return result


def stop(number: int, frame: FrameType | None) -> None:
    """Handle a signal before a run begins and after it ended, when it has no handler itself."""
    raise Stopped(number)


@contextmanager
def received_signals() -> Iterator[list[int]]:
    """The list of the signals that have come, for a process that launches."""
    received: list[int] = []
    with caught(received.append):
        yield received
