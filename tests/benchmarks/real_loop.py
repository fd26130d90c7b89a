"""Where the time of an env step of ours goes, timed within the real loop."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

WARMUP = 1500
BUDGET = 10**7  # more than is ever timed


@contextmanager
def timed_loop(arguments: Sequence[str]) -> Iterator[Callable[[int], dict[str, float]]]:
    """A run by these settings, past its warm-up, that goes on by as many env steps as asked.

    Each time it tells the seconds of an env step, by part and in all.
    """
    from dqn_runner.composing.command import Command
    from dqn_runner.config.build import building
    from dqn_runner.config.root import parse
    from dqn_runner.runs.directory import RunDirectory
    from dqn_runner.runs.lifecycle import flushed_denormals
    from dqn_runner.runs.metrics_file import MetricsFile
    from dqn_runner.tracking.tracker import SwanLabTracker
    from dqn_runner.training.loop import Training
    from dqn_runner.training.requests import serve
    from dqn_runner.types import Progress

    with tempfile.TemporaryDirectory() as folder, flushed_denormals():
        settings = [f"total_timesteps={BUDGET}", "compile=always", f"hydra.run.dir={folder}"]
        job = Command([*arguments, *settings]).jobs[0]
        config, parts = serve(building(parse(job.config), RunDirectory(Path(folder))))
        loggers: list[Any] = [MetricsFile(Path(folder, "metrics.jsonl"))]
        if config.tracker.mode != "disabled":
            loggers.append(SwanLabTracker(config.tracker, Path(folder), {}))
        spent: dict[str, float] = {}
        for name, owner, method in (
            ("act", parts.agent, "act"),
            ("env", parts.envs, "step"),
            ("store", parts.assembler, "transitions"),
            ("store", parts.storage, "add"),
            ("sample", parts.sampler, "draw"),
            ("sample", parts.sampler, "update"),
            ("update", parts.agent, "learn"),
            *(("log", logger, "log") for logger in loggers),
            ("checkpoint", parts.checkpoints, "save_last"),
        ):
            setattr(owner, method, clocked(getattr(owner, method), name, spent))
        progress = Progress()

        def seconds_of_a_step(steps: int) -> dict[str, float]:
            spent.clear()
            until = config.model_copy(update={"total_timesteps": progress.env_steps + steps})
            started = time.perf_counter()
            Training(until, parts, progress, loggers).run()
            total = (time.perf_counter() - started) / steps
            step = {name: seconds / steps for name, seconds in spent.items()}
            return {**step, "the loop itself": total - sum(step.values()), "an env step": total}

        seconds_of_a_step(WARMUP)
        yield seconds_of_a_step
        for tracker in loggers[1:]:
            tracker.close("success")


def clocked(
    function: Callable[..., object], name: str, spent: dict[str, float]
) -> Callable[..., object]:
    """`function`, adding its seconds to `spent[name]`; a generator is run to its end."""

    def call(*arguments: object) -> object:
        started = time.perf_counter()
        result = function(*arguments)
        if isinstance(result, Iterator):
            result = list(result)
        spent[name] = spent.get(name, 0.0) + time.perf_counter() - started
        return result

    return call


def floor_of(env_id: str, steps: int) -> float:
    """Seconds of what any such loop must do for an env step, in NumPy and plain Gymnasium."""
    import gymnasium as gym

    rng = np.random.default_rng(0)
    env = gym.make(env_id, disable_env_checker=True)
    env.reset(seed=0)
    width = env.observation_space.shape[0]  # type: ignore[index]
    sizes = (width, 64, 64, int(env.action_space.n))  # type: ignore[attr-defined]
    weights = [rng.standard_normal((m, n), np.float32) for m, n in pairwise(sizes)]
    batch = rng.standard_normal((64, width), np.float32)
    started = time.perf_counter()
    for _ in range(steps):
        for _ in range(2):  # both networks forward
            x = [batch]
            for weight in weights:
                x.append(x[-1] @ weight)
        grad = x[-1]
        for inputs, weight in zip(x[-2::-1], weights[::-1], strict=True):
            inputs.T @ grad
            grad = grad @ weight.T
        _, _, terminated, truncated, _ = env.step(0)
        if terminated or truncated:
            env.reset()
        rng.integers(10_000, size=64)
    return (time.perf_counter() - started) / steps
