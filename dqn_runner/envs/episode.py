"""One environment: its observations as rows of storage, and the one place that steps it."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any

import numpy as np

from dqn_runner.envs.encoding import Env, ObsEncoder, action_offset, scalar
from dqn_runner.errors import WANTED, EnvironmentFailedError, named
from dqn_runner.types import Array

logger = logging.getLogger(__name__)


class EpisodePlayer:
    """Resets and steps one environment, which nothing else does, and checks all that it does.

    `seed` and `steps` say where its episode stands; `is_cut` that `max_episode_steps` ended it,
    which is a truncation. Raises EnvironmentFailedError, with `name`, where the environment raises
    or exits, takes longer than `max_step_seconds`, or returns what no environment may.
    """

    def __init__(
        self,
        env: Env,
        name: str = "the environment",
        max_step_seconds: float | None = None,
        max_episode_steps: int | None = None,
    ) -> None:
        self._env, self._name = env, name
        self._max_step_seconds, self._max_episode_steps = max_step_seconds, max_episode_steps
        self._encoder, self._offset = ObsEncoder(env.observation_space), action_offset(env)
        self.obs_spec = self._encoder.spec
        self.seed = self.steps = 0
        self.is_cut = False

    def reset(self, seed: int, row: Array) -> None:
        """Begin the episode of `seed`; its first observation goes into `row` [*obs_shape]."""
        self.seed, self.steps, self.is_cut = seed, 0, False
        try:
            with limited(self._max_step_seconds):
                raw_obs, _ = self._env.reset(seed=seed)
            self._encoder.write(raw_obs, row)
        except WANTED:
            raise
        except BaseException as error:
            raise self.failure(f"reset: {named(error)}") from error

    def step(self, action: int, row: Array) -> tuple[float, bool, bool]:
        """Take `action`, counted from 0; the observation goes into `row` [*obs_shape].

        Returns the reward, and whether the episode was terminated and whether truncated.
        """
        try:
            with limited(self._max_step_seconds):
                raw_obs, raw_reward, terminated, truncated, _ = self._env.step(
                    action + self._offset
                )
            self._encoder.write(raw_obs, row)
            reward, terminated, truncated = (
                float(scalar(raw_reward)), bool(terminated), bool(truncated)
            )  # fmt: skip
            if not math.isfinite(reward):
                raise ValueError(f"a reward of {reward}")  # noqa: TRY301
        except WANTED:
            raise
        except BaseException as error:
            raise self.failure(f"step: {named(error)}") from error
        self.steps += 1
        self.is_cut = self.steps == self._max_episode_steps and not (terminated or truncated)
        return reward, terminated, truncated or self.is_cut

    def render(self) -> Array:
        """The environment's picture of where it is, [height, width, 3]."""
        try:
            frame: Any = self._env.render()
            if np.ndim(frame) != 3:
                raise ValueError(f"no picture, but {type(frame).__name__}")  # noqa: TRY301
            return np.asarray(frame)
        except WANTED:
            raise
        except BaseException as error:
            raise self.failure(f"render: {named(error)}") from error

    def failure(self, what: str) -> EnvironmentFailedError:
        """The error for `what` went wrong now."""
        return EnvironmentFailedError(
            f"{self._name} failed at step {self.steps} of the episode with seed {self.seed}, "
            f"in {what}"
        )

    def close(self) -> None:
        """Close the environment; a failure is a warning, for what was asked of it is done."""
        close(self._env)


def close(env: Env) -> None:
    """Close `env`; a failure is a warning, for nothing more is asked of it."""
    try:
        env.close()
    except WANTED:
        raise
    except BaseException as error:
        _warn_once(f"an environment failed in close: {named(error)}")


@functools.cache
def _warn_once(line: str) -> None:
    logger.warning(line)


_NO_LIMIT = contextlib.nullcontext()


def limited(seconds: float | None) -> AbstractContextManager[None]:
    """`time_limit`, or nothing where there is none."""
    return time_limit(seconds) if seconds else _NO_LIMIT


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in what takes longer than `seconds`.

    The signal behind it reaches Python code, and C code that comes back to it; only the main
    thread can set it, and only on Unix.
    """

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"it took longer than env.max_step_seconds={seconds:g}")

    former = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
