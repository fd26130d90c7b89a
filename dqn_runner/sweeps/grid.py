"""A sweep: which of its jobs are still to be run, running them, and what came of them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Any

import joblib
from filelock import FileLock, Timeout
from omegaconf import OmegaConf
from rich.console import Console

from dqn_runner.composing.command import Command, Job
from dqn_runner.composing.hydra_internals import JOB_FOLDER
from dqn_runner.config import root as configuration
from dqn_runner.config.build import expected_updates, is_worth_compiling, resolve_device
from dqn_runner.config.root import Config
from dqn_runner.envs.episode import close
from dqn_runner.envs.make import make_env
from dqn_runner.errors import ConfigError
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.sweeps.display import SweepDisplay
from dqn_runner.sweeps.launchers import Launcher, instantiate
from dqn_runner.types import flatten

Task = Callable[..., Any]

# Settings that a run resolves by itself; what they say before fits whatever was decided.
_OPEN = {
    "device": "auto",
    "torch_threads": "auto",
    "compile": "auto",
    "agent.lr_decay_steps": None,
}

# Sections and settings that are numbers to an update, or no part of it.
_NUMBERS = {
    *("seed", "resume", "compile", "total_timesteps", "total_episodes", "num_envs"),
    *("learning_starts", "train_frequency", "gradient_steps", "phase", "eval", "log"),
    *("checkpoint", "tracker", "epsilon", "env.max_step_seconds"),
    *(
        "agent.lr",
        "agent.lr_schedule",
        "agent.lr_decay_steps",
        "agent.gamma",
        "agent.n_step",
        "agent.behaviour",
        "agent.temperature",
    ),
    *(f"agent.optimizer.{name}" for name in ("betas", "eps", "weight_decay", "momentum", "alpha")),
    *("target_update.tau", "target_update.interval", "target_update.unit"),
}
# Numbers to an update, which computes something else where they are null.
_NUMBERS_OR_NULL = {"agent.max_grad_norm", "agent.max_grad_value"}


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


def update_function(settings: dict[str, Any]) -> str:
    """What decides which function the update is: runs that agree in it share a compilation.

    A setting that is not known to be a number counts: at worst runs that could share do not.
    """
    shape = {
        key: value is None if key in _NUMBERS_OR_NULL else value
        for key, value in flatten(settings).items()
        if not _NUMBERS & {key, key.split(".")[0]}
    }
    return json.dumps(shape, sort_keys=True)


def with_shared_compilation(task: Task, configs: Sequence[Config]) -> Task:
    """`task`, where `compile=auto` compiles what all the runs of `configs` together repay.

    All of them count, done or not, so that the sweep decides the same when it goes on.
    """
    sharing: dict[str, list[Config]] = {}
    for config in configs:
        if config.compile == "auto":
            sharing.setdefault(update_function(config.plain()), []).append(config)
    repaid = frozenset(function for function, runs in sharing.items() if repay_compiling(runs))
    if not repaid:  # a budget that repays it alone is in no such sweep
        return task
    return functools.partial(task, is_repaid=functools.partial(_is_among, repaid))


def repay_compiling(configs: Sequence[Config]) -> bool:
    """Whether runs that share an update, and with it their environment, repay compiling it."""
    env = make_env(configs[0].env)
    close(env)
    return is_worth_compiling([expected_updates(config, env) for config in configs])


def _is_among(functions: Set[str], config: Config) -> bool:
    return update_function(config.plain()) in functions


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
        self._has_said_how_to_use_all_cores = False

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
        self._say_how_to_use_all_cores(to_do)
        paths = [job.path for job in to_do]
        with SweepDisplay(paths, visible=not self._shows_runs, watch=watch):
            # One by one where one runs at a time: Hydra's launcher keeps what each returned.
            size = 1 if self._shows_runs else len(to_do)
            for i in range(0, len(to_do), size):
                batch = [_overrides(job, self.directory) for job in to_do[i : i + size]]
                self._launcher.launch(batch, initial_job_idx=self._launched)
                self._launched += len(batch)

    def _say_how_to_use_all_cores(self, jobs: Sequence[Job]) -> None:
        """Once, where several jobs on a CPU run one after another."""
        cores = joblib.cpu_count()
        one_by_one = self._shows_runs and len(jobs) > 1 and cores > 1
        if self._has_said_how_to_use_all_cores or not one_by_one:
            return
        if all(resolve_device(job.config["device"]).type == "cpu" for job in jobs):
            self._has_said_how_to_use_all_cores = True
            line = "jobs run one after another; hydra/launcher=joblib runs them on all"
            Console(soft_wrap=True).print(f"{line} {cores} cores", highlight=False)


def _overrides(job: Job, directory: Path) -> list[str]:
    folder = str(job.path.relative_to(directory)).replace("\\", "\\\\").replace("'", "\\'")
    return [*job.overrides, f"{JOB_FOLDER}='{folder}'"]
