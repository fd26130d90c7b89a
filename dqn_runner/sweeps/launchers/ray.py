"""Jobs as tasks of Ray, on a cluster that is running or on a Ray of its own on this machine.

A job whose process or node is lost is started again, elsewhere if need be, and goes on from its
last checkpoint. Run directories must be on storage that all nodes share.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import urlsplit

import grpc
import ray
from pydantic import AfterValidator, Field
from rich.console import Console

from dqn_runner.config.messages import checked
from dqn_runner.errors import ConfigError, RunError, Stopped, in_a_line, named
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.spec import PositiveFloat, PositiveInt, Spec
from dqn_runner.sweeps.launchers.worker import KILLED, Shared, execute, received_signals, stop

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_TO_CONNECT = 5.0
# It holds only the jobs' settings; by default Ray takes a third of the memory for it.
OBJECT_STORE_BYTES = 2**27
TOKEN_HINT = "; where it wants a token, set RAY_AUTH_MODE=token"
NOTHING_LEFT = "its task ended and left no result; do all nodes share this directory?"


def _shared_or_whole(gpus: float) -> float:
    if gpus > 1 and gpus != int(gpus):
        raise ValueError("must be at most 1 or a whole number")
    return gpus


class RaySpec(Spec):
    """The settings of conf/hydra/launcher/ray.yaml."""

    address: str | None
    """HOST:6379 or auto from inside a cluster, ray://HOST:10001 from outside; null starts a Ray."""
    cpus: PositiveFloat
    """CPUs of a job."""
    gpus: Annotated[float, Field(ge=0), AfterValidator(_shared_or_whole)]
    """GPUs of a job; 0.25 for four jobs on each."""
    memory_gb: PositiveInt | None
    """GB of memory of a job; null for Ray's default."""
    retries: Annotated[int, Field(ge=0)]
    """How often a job whose process or node is lost goes on from its checkpoint."""
    options: dict[str, Any]
    """Other options of ray.remote, such as resources={a100:1}."""


class RayLauncher:
    """Gives all jobs to Ray, which starts as many at once as it has room for.

    Ctrl-C and SIGTERM let those that run save their checkpoints, and raise Stopped.
    """

    def __init__(self, settings: dict[str, Any], shared: Shared) -> None:
        """Connect, for as long as this process lives; raises ConfigError if that fails."""
        self._spec = checked(RaySpec, settings, "hydra.launcher")
        self._shared = shared
        self._task = _task(self._spec)
        with Console(stderr=True).status("connecting to Ray"):
            _connect(self._spec.address)
        self._check_resources()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> None:
        """Run a job for each list of overrides; returns when all have ended.

        Raises RunError if Ray fails.
        """
        with received_signals() as received:
            try:
                self._run(job_overrides, initial_job_idx, received)
            except Exception as error:  # Ray's client raises many classes
                raise RunError(f"Ray failed: {in_a_line(error)}") from error
        if received:
            raise Stopped(received[0])

    def _run(
        self,
        job_overrides: Sequence[Sequence[str]],
        initial_job_idx: int,
        received: Sequence[int],
    ) -> None:
        shared = ray.put(self._shared)
        jobs = {
            self._task.remote(shared, number, overrides, os.getcwd()): overrides
            for number, overrides in enumerate(job_overrides, initial_job_idx)
        }
        cancelled = 0
        while jobs:
            ended, _ = ray.wait(list(jobs), timeout=SECONDS_BETWEEN_LOOKS)
            for job in ended:
                reason, overrides = _why_it_failed(job), jobs.pop(job)
                run_dir = RunDirectory(self._shared.path(overrides))
                if not (received or run_dir.has_ended()):
                    self._shared.record_failure(overrides, reason or NOTHING_LEFT)
            for _ in received[cancelled:]:  # a second signal does not wait
                for job in jobs:
                    ray.cancel(job)
            cancelled = len(received)

    def _check_resources(self) -> None:
        """Raise ConfigError if jobs would wait forever; only warn if a cluster may grow."""
        spec = self._spec
        asked = {"CPU": spec.cpus, "GPU": spec.gpus, "memory": 2**30 * (spec.memory_gb or 0)}
        asked |= spec.options.get("resources", {})
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if any(all(node.get(k, 0) >= amount for k, amount in asked.items()) for node in nodes):
            return
        shown = " ".join(f"{key}={amount:g}" for key, amount in asked.items() if amount)
        problem = f"hydra.launcher: a job asks for {shown}, which no node has"
        if spec.address is None:
            raise ConfigError(problem)
        print(f"dqn-train: warning: {problem}; jobs wait for one that has", file=sys.stderr)


def _why_it_failed(job: Any) -> str | None:
    """Why a task ended that could not record it itself; None if the run did."""
    try:
        ray.get(job)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
        return KILLED
    except ray.exceptions.RayError as error:  # from Ray or Hydra, outside of the run
        cause = getattr(error, "cause", None) or error
        return named(cause)
    return None


def _task(spec: RaySpec) -> Any:
    given = {"num_cpus": spec.cpus, "num_gpus": spec.gpus, "max_retries": spec.retries}
    if spec.memory_gb is not None:
        given["memory"] = spec.memory_gb * 2**30
    ours = {"name": "dqn-train", "num_returns": 1, "retry_exceptions": [_PreemptedError]}
    try:
        return ray.remote(_work).options(**{**spec.options, **given, **ours})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"hydra.launcher.options: {in_a_line(error)}") from error


def _connect(address: str | None) -> None:
    logging.getLogger("ray").setLevel(logging.ERROR)
    silent = {"log_to_driver": False, "configure_logging": False}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if address is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                **silent,
            )
        else:
            _check_reachable(address)
            _join(address, **silent)
    except Exception as error:  # Ray raises many, some of them bare
        may_want_a_token = ":" in (address or "") and "RAY_AUTH_MODE" not in os.environ
        hint = TOKEN_HINT if may_want_a_token and not isinstance(error, TimeoutError) else ""
        raise ConfigError(f"hydra.launcher.address={address}: {in_a_line(error)}{hint}") from error
    finally:
        signal.signal(signal.SIGTERM, handler)  # Ray sets its own


def _join(address: str, **options: bool) -> None:
    """Connect to a running Ray.

    The head forks a process for each client from outside, and about 1 of 25 of these crashed in
    gRPC's own handling of forks before it began. One more try is enough then.
    """
    try:
        ray.init(address=address, **options)
    except ConnectionAbortedError:
        ray.shutdown()
        ray.init(address=address, **options)


def _check_reachable(address: str) -> None:
    """Raise TimeoutError if no Ray answers; Ray itself would try for minutes."""
    place = urlsplit(address if "//" in address else f"//{address}").netloc
    if ":" not in place or os.environ.get("RAY_USE_TLS") == "1":
        return
    with grpc.insecure_channel(place, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(SECONDS_TO_CONNECT)
        except grpc.FutureTimeoutError as error:
            raise TimeoutError(f"no Ray answers there in {SECONDS_TO_CONNECT:g} s") from error


class _PreemptedError(Exception):
    """The node asks the job to end, but nobody has cancelled it: Ray shall start it elsewhere."""


def _work(shared: Shared, number: int, overrides: Sequence[str], directory: str) -> None:
    """What a node runs; it can be started again with the same arguments."""
    os.chdir(directory)
    handlers = {sig: signal.signal(sig, stop) for sig in (signal.SIGINT, signal.SIGTERM)}
    try:
        execute(shared, number, overrides)
    except Stopped as stopped:
        if stopped.signal_number != signal.SIGINT:  # the signal that cancelling sends
            raise _PreemptedError("its node asked it to end") from None
    finally:
        for sig, handler in handlers.items():
            signal.signal(sig, handler)
