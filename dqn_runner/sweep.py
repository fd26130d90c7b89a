"""A sweep: which of its jobs are still to be run, running them, and what came of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from dqn_runner import config as configuration
from dqn_runner.composition import Command, Job
from dqn_runner.config import Config
from dqn_runner.config_loader import JOB_FOLDER
from dqn_runner.errors import ConfigError
from dqn_runner.launchers import Launcher, instantiate
from dqn_runner.run_directory import RunDirectory
from dqn_runner.tracking.sweep_display import SweepDisplay
from dqn_runner.types import flatten

Task = Callable[..., Any]

# Settings that a run resolves by itself; what they say before fits whatever was decided.
_OPEN = {"device": "auto", "torch_threads": "auto", "compile": "auto"}


def is_to_do(job: Job) -> bool:
    """Whether the job has neither finished nor been given up."""
    run_dir = RunDirectory(job.path)
    if run_dir.has_finished():
        return False
    end = run_dir.read_end()
    return end is None or end.status != "pruned"


def check_folder(job: Job, config: Config) -> None:
    """Refuse a job whose folder holds a run that is not this one, or that is going on.

    Raises ConfigError.
    """
    run_dir = RunDirectory(job.path)
    if not run_dir.config.is_file():
        return
    held = flatten(configuration.read(run_dir.config, trust=True).plain())
    wanted = flatten(config.plain())
    for key in {**held, **wanted}:
        ours, theirs = wanted.get(key), held.get(key)
        named_by_the_run = key in ("tracker.name", "tracker.group") and ours is None
        if ours != theirs and not named_by_the_run and ours != _OPEN.get(key, theirs):
            raise ConfigError(
                f"{job.path}: holds a run with {key}={theirs}, not {ours}; "
                "choose another hydra.sweep.dir"
            )
    if run_dir.is_locked():
        raise ConfigError(f"{job.path}: another process is at work in it")


class Sweep:
    """Runs jobs with Hydra's launcher, in one sweep directory that it holds alone meanwhile."""

    def __init__(self, command: Command, task: Task) -> None:
        self.directory = command.directory
        context, self._config = command.context()
        self._shows_runs = command.launcher == "basic"
        self._launcher: Launcher = instantiate(
            command.launcher, context, functools.partial(task, quiet=not self._shows_runs),
            self._config,
        )  # fmt: skip
        self._lock = FileLock(self.directory / ".lock")
        self._launched = 0

    def __enter__(self) -> Sweep:
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(blocking=False)
        except Timeout as error:
            raise ConfigError(
                f"hydra.sweep.dir={self.directory}: another process is at work in it"
            ) from error
        OmegaConf.save(self._config, self.directory / "multirun.yaml")
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def run(self, jobs: Sequence[Job], watch: Callable[[], None] | None = None) -> None:
        """Run those of `jobs` that are to do; `watch` is called every second meanwhile."""
        to_do = [job for job in jobs if is_to_do(job)]
        if not to_do:
            return
        for job in to_do:
            RunDirectory(job.path).ended.unlink(missing_ok=True)
        paths = [job.path for job in to_do]
        with SweepDisplay(paths, visible=not self._shows_runs, watch=watch):
            # One by one where one runs at a time: Hydra's launcher keeps what each returned.
            size = 1 if self._shows_runs else len(to_do)
            for i in range(0, len(to_do), size):
                batch = [_overrides(job, self.directory) for job in to_do[i : i + size]]
                self._launcher.launch(batch, initial_job_idx=self._launched)
                self._launched += len(batch)


def _overrides(job: Job, directory: Path) -> list[str]:
    folder = str(job.path.relative_to(directory)).replace("\\", "\\\\").replace("'", "\\'")
    return [*job.overrides, f"{JOB_FOLDER}='{folder}'"]
