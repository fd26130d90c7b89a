"""Jobs as one job array on a Slurm cluster, by submitit.

Near the end of its time, and when it is preempted, a job saves its checkpoint at a safe point, is
queued again, and goes on from there. Run directories must be on storage that all nodes share.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import submitit
from pydantic import Field, model_validator

from dqn_runner.config.messages import checked
from dqn_runner.errors import ConfigError, Stopped
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.spec import PositiveInt, Spec
from dqn_runner.sweeps.launchers.worker import Shared, execute, received_signals, stop

SECONDS_BETWEEN_LOOKS = 2.0
LOOKS_WITHOUT_TRACE = 3  # a task that is queued again is in no list for a moment
SECONDS_TO_SAVE = 60.0
SECONDS_EARLY = 60  # by which Slurm's warning may come earlier than asked (sbatch(1), --signal)
SECONDS_TO_START = 30  # for imports, in which a warning would kill a job


class SlurmSpec(Spec):
    """The settings of conf/hydra/launcher/slurm.yaml."""

    partition: str | None
    """Partition, as sinfo lists them; null for the cluster's default."""
    account: str | None
    """Account to charge; null for the cluster's default."""
    qos: str | None
    """Quality of service; null for the cluster's default."""
    gres: str | None
    """Generic resources, such as gpu:1; null for none."""
    time: PositiveInt
    """Minutes of a job, at least 1.5 and warning; one that needs longer is queued again."""
    cpus: PositiveInt
    """CPUs of a job."""
    memory_gb: PositiveInt | None
    """GB of memory of a job; null for the cluster's default."""
    at_a_time: PositiveInt
    """Jobs of the array that may run at once."""
    warning: PositiveInt
    """Seconds before the time is up in which a job saves its checkpoint."""
    requeues: Annotated[int, Field(ge=0)]
    """How often a job that runs out of time is queued again."""
    setup: list[str]
    """Shell commands before a job, such as 'module load cuda'."""
    options: dict[str, Any]
    """Other options of sbatch, such as constraint=a100."""

    @model_validator(mode="after")
    def _there_is_time_before_the_warning(self) -> SlurmSpec:
        needed = math.ceil((SECONDS_TO_START + self.warning + SECONDS_EARLY) / 60)
        if self.time < needed:
            raise ValueError(
                f"time={self.time}: must be at least {needed} with "
                f"hydra.launcher.warning={self.warning}, for Slurm may warn {SECONDS_EARLY} s early"
            )
        return self


class SlurmLauncher:
    """Submits jobs, and waits until they have ended, however often they are queued again.

    Ctrl-C and SIGTERM cancel what is left, whose runs save their checkpoints, and raise Stopped.
    """

    def __init__(self, settings: dict[str, Any], shared: Shared) -> None:
        self._spec = checked(SlurmSpec, settings, "hydra.launcher")
        if shutil.which("sbatch") is None:
            raise ConfigError("hydra/launcher=slurm: there is no sbatch on this machine")
        self._shared = shared

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> None:
        """Run a job for each list of overrides; returns when all have ended."""
        with received_signals() as received:
            jobs = self._submit(job_overrides, initial_job_idx)
            absent = dict.fromkeys(range(len(jobs)), 0)
            while absent:
                self._look(jobs, absent, job_overrides)
                if received:
                    self._cancel(jobs, absent)
                    raise Stopped(received[0])
                if absent:
                    time.sleep(SECONDS_BETWEEN_LOOKS)

    def _submit(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> list[submitit.Job[None]]:
        """Submit the jobs; raises ConfigError if Slurm refuses them."""
        executor = self._executor()
        try:
            numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
            with contextlib.redirect_stderr(io.StringIO()):  # the exception holds what sbatch says
                jobs: list[submitit.Job[None]] = executor.map_array(
                    SlurmJob(), [self._shared] * len(numbers), numbers, job_overrides
                )
        except submitit.core.utils.FailedJobError as error:
            lines = [line.strip() for line in str(error).splitlines() if "error" in line.lower()]
            raise ConfigError(
                f"hydra/launcher=slurm: {(lines or ['sbatch failed'])[-1]}"
            ) from error
        return jobs

    def _executor(self) -> submitit.SlurmExecutor:
        spec, folder = self._spec, Path(self._shared.config.hydra.sweep.dir).resolve()
        executor = submitit.SlurmExecutor(
            folder / ".submitit" / "%j", max_num_timeout=spec.requeues
        )
        given = {
            "partition": spec.partition,
            "account": spec.account,
            "qos": spec.qos,
            "gres": spec.gres,
            "mem": None if spec.memory_gb is None else f"{spec.memory_gb}G",
        }
        executor.update_parameters(
            job_name=f"dqn-train-{folder.name}",
            time=spec.time,
            cpus_per_task=spec.cpus,
            array_parallelism=spec.at_a_time,
            signal_delay_s=spec.warning,
            setup=spec.setup,
            additional_parameters={"requeue": True, **spec.options},
            **{key: value for key, value in given.items() if value is not None},
        )
        return executor

    def _look(
        self,
        jobs: Sequence[submitit.Job[None]],
        absent: dict[int, int],
        job_overrides: Sequence[Sequence[str]],
    ) -> None:
        """Remove the jobs that have ended from `absent`."""
        queued = _queued(jobs)
        for i in list(absent):
            run_dir = RunDirectory(self._shared.path(job_overrides[i]))
            has_left = queued is not None and jobs[i].job_id not in queued
            absent[i] = absent[i] + 1 if has_left else 0
            if run_dir.has_ended():
                del absent[i]
            elif absent[i] >= LOOKS_WITHOUT_TRACE:
                del absent[i]
                reason = f"its Slurm job {jobs[i].job_id} ended; see {jobs[i].paths.stderr}"
                self._shared.record_failure(job_overrides[i], reason)

    @staticmethod
    def _cancel(jobs: Sequence[submitit.Job[None]], left: dict[int, int]) -> None:
        for i in left:
            jobs[i].cancel(check=False)
        deadline = time.monotonic() + SECONDS_TO_SAVE
        while _queued([jobs[i] for i in left]) and time.monotonic() < deadline:
            time.sleep(SECONDS_BETWEEN_LOOKS / 4)


def _queued(jobs: Sequence[submitit.Job[None]]) -> set[str] | None:
    """The ids of those tasks that wait or run; None if Slurm does not answer now."""
    arrays = ",".join(sorted({job.job_id.split("_")[0] for job in jobs}))
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={arrays}"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        # Slurm forgets a job some minutes after its end.
        return set() if "Invalid job id" in answer.stderr else None
    return set(answer.stdout.split())


def _is_preempted() -> bool:
    """Whether this job has some time left until Slurm takes its place from it.

    Slurm queues a preempted job again when that time is over, unless it has ended by itself.
    """
    command = ["scontrol", "show", "job", submitit.JobEnvironment().job_id]
    shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    # Slurm leaves the time out if nothing can be preempted.
    return "JobState=RUNNING" in shown and bool(re.search(r"\bPreemptTime=(?!None)\S", shown))


class SlurmJob:
    """What a node runs; it can be started again with the same arguments."""

    def __call__(self, shared: Shared, number: int, overrides: Sequence[str]) -> None:
        """Run the job; when its time is nearly up, save and queue it again."""
        warning = submitit.JobEnvironment()._usr_sig()
        queue_again: Any = signal.getsignal(warning)
        warned: list[int] = []

        def warn(number: int, frame: FrameType | None) -> None:
            warned.append(number)
            # Not SIGTERM, which may come too: the same signal twice ends a run unsaved.
            os.kill(os.getpid(), signal.SIGHUP)

        for number_of_signal in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number_of_signal, stop)  # until the run has handlers of its own
        signal.signal(warning, warn)
        try:
            execute(shared, number, overrides)
        except Stopped:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # queueing it again sends it, too
            # A job that was cancelled shall end.
            if warned or _is_preempted():
                queue_again(warning, None)

    def checkpoint(self, *arguments: Any) -> submitit.helpers.DelayedSubmission:
        """What to submit when the job is queued again."""
        return submitit.helpers.DelayedSubmission(self, *arguments)
