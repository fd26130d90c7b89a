"""A sweep: which of its jobs are still to do, and how they are run."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import joblib
from filelock import FileLock, Timeout
from omegaconf import OmegaConf
from rich.console import Console

from dqn_runner.composing.command import Command, Job
from dqn_runner.composing.hydra_internals import JOB_FOLDER
from dqn_runner.composing.overrides import assignment
from dqn_runner.config import build, root
from dqn_runner.config.budget import is_worth_compiling
from dqn_runner.config.build import resolve_device
from dqn_runner.config.root import Config
from dqn_runner.envs.episode import close
from dqn_runner.envs.make import make_env
from dqn_runner.errors import ConfigError
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.sweeps.display import SweepDisplay
from dqn_runner.sweeps.launchers import Planning, instantiate
from dqn_runner.sweeps.sharing import update_function
from dqn_runner.tracking.messages import Message, about_sweep
from dqn_runner.tracking.notify import Notifier
from dqn_runner.types import flatten

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 1.0

# Settings that a run decides itself: with these values a job fits whatever was decided.
_OPEN: dict[str, tuple[str | None, ...]] = {
    "device": ("auto",),
    "torch_threads": ("auto",),
    "compile": ("auto", "always"),  # there may have been no compiler
    "agent.lr_decay_steps": (None,),
    "agent.v_min": ("auto",),
    "agent.v_max": ("auto",),
    "buffer.beta_steps": (None,),
    "buffer.storage": ("auto",),
    "tracker.name": (None,),
    "tracker.group": (None,),
}


def is_to_do(job: Job) -> bool:
    """Whether the job has neither finished nor been pruned."""
    run_dir = RunDirectory(job.path)
    if run_dir.has_finished():
        return False
    end = run_dir.read_end()
    return end is None or end.status != "pruned"


def prepared(jobs: Sequence[Job]) -> list[Job]:
    """Check the jobs of a grid, and decide which are compiled.

    All jobs count for that, done or not, so that the sweep decides the same when it goes on.
    Raises ConfigError before any directory is made.
    """
    configs = checked(jobs)
    sharing: dict[str, list[Config]] = {}
    for job, config in zip(jobs, configs, strict=True):
        check_folder(job, config)
        sharing.setdefault(update_function(config.plain()), []).append(config)
    repaid = {function for function, runs in sharing.items() if repay_compiling(runs)}
    return [
        compiled(job) if update_function(config.plain()) in repaid else job
        for job, config in zip(jobs, configs, strict=True)
    ]


def checked(jobs: Sequence[Job]) -> list[Config]:
    """The configurations of the jobs; raises ConfigError for one that cannot run here."""
    built: set[str] = set()
    configs = [root.parse(job.config) for job in jobs]
    for config in configs:
        checks = {"env", "device", "agent", "network", "epsilon", "buffer"}
        parts = config.model_dump_json(include=checks)
        if parts not in built:
            build.check(config)
            built.add(parts)
    return configs


def check_folder(job: Job, config: Config) -> None:
    """Raise ConfigError if the job's folder holds another run, or one that is going on."""
    run_dir = RunDirectory(job.path)
    if not run_dir.config.is_file():
        return
    held = flatten(root.read(run_dir.config, trust=True).plain())
    wanted = flatten(config.plain())
    for key in {**held, **wanted}:
        ours, theirs = wanted.get(key), held.get(key)
        if ours != theirs and ours not in _OPEN.get(key, ()):
            raise ConfigError(
                f"{job.path}: holds a run with {key}={theirs}, not {ours}; "
                "choose another hydra.sweep.dir"
            )
    if run_dir.is_locked():
        raise ConfigError(f"{job.path}: another process is at work in it")


def repay_compiling(configs: Sequence[Config]) -> bool:
    """Whether runs that share an update, and so their environment, repay compiling it.

    Only runs with `compile=auto` count.
    """
    auto = [config for config in configs if config.compile == "auto"]
    if not auto:
        return False
    env = make_env(auto[0].env)
    close(env)
    return is_worth_compiling(auto, env)


def compiled(job: Job) -> Job:
    """The job with its update compiled, unless it says itself whether it is."""
    if job.config["compile"] != "auto":
        return job
    return job._replace(overrides=[*job.overrides, "++compile=always"])


class Sweep:
    """Runs jobs with Hydra's launcher, in a sweep directory that no other process may use."""

    def __init__(self, command: Command) -> None:
        self.directory = command.directory
        context, self._config = command.context()
        self._is_one_by_one = command.launcher == "basic"  # in this process, each under its own bar
        self._launcher = instantiate(command.launcher, context, self._config)
        self._lock = FileLock(self.directory / ".lock")
        self._jobs: list[Path] = []
        channels = OmegaConf.select(self._config, "tracker.notify")
        self._notifier = Notifier(channels or [], self._about)
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

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._lock.release()
        if self._launched:
            self._notifier.tell(error)

    def _about(self, interruption: str) -> Message:
        return about_sweep(self.directory, self._jobs, interruption)

    def run(self, jobs: Sequence[Job], look: Callable[[], None] | None = None) -> None:
        """Run those of `jobs` that are to do, and `look` at them every second meanwhile."""
        self._jobs += [job.path for job in jobs]
        to_do = [job for job in jobs if is_to_do(job)]
        if not to_do:
            return
        if isinstance(self._launcher, Planning):
            self._launcher.plan({job.path: job.config for job in jobs})
        for job in to_do:
            RunDirectory(job.path).ended.unlink(missing_ok=True)
        self._say_how_to_use_all_cores(to_do)
        looks = [look] if look else []
        with contextlib.ExitStack() as stack:
            if not self._is_one_by_one:
                display = stack.enter_context(SweepDisplay([job.path for job in to_do]))
                looks.append(display.look)
            stack.enter_context(every_second(looks))
            # Singly if they run singly: Hydra's launcher keeps what each has returned.
            size = 1 if self._is_one_by_one else len(to_do)
            for i in range(0, len(to_do), size):
                batch = [_overrides(job, self.directory) for job in to_do[i : i + size]]
                first = self._launched
                self._launched += len(batch)
                self._launcher.launch(batch, initial_job_idx=first)

    def _say_how_to_use_all_cores(self, jobs: Sequence[Job]) -> None:
        """Say so once, if several jobs on a CPU run one after another."""
        cores = joblib.cpu_count()
        leaves_cores_idle = self._is_one_by_one and len(jobs) > 1 and cores > 1
        if self._has_said_how_to_use_all_cores or not leaves_cores_idle:
            return
        if all(resolve_device(job.config["device"]).type == "cpu" for job in jobs):
            self._has_said_how_to_use_all_cores = True
            line = "jobs run one after another; hydra/launcher=joblib runs them on all"
            Console(soft_wrap=True).print(f"{line} {cores} cores", highlight=False)


@contextlib.contextmanager
def every_second(looks: Sequence[Callable[[], None]]) -> Iterator[None]:
    """Call each of `looks` every second, and once more at the end.

    They are called in a thread, because the launcher needs the main one: Hydra's own runs the jobs
    in it, and only there can a job handle signals.
    """
    over = threading.Event()

    def look() -> None:
        for each in looks:
            try:
                each()
            except Exception:  # the jobs go on unseen
                logger.exception("cannot look at the running jobs")

    def keep_looking() -> None:
        while not over.wait(SECONDS_BETWEEN_LOOKS):
            look()

    thread = threading.Thread(target=keep_looking, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        look()


def _overrides(job: Job, directory: Path) -> list[str]:
    return [*job.overrides, assignment(JOB_FOLDER, job.path.relative_to(directory))]
