"""One environment, reset and stepped: nothing else in this package does that."""

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

from dqn_runner.envs.encoding import (
    Env,
    FrameStack,
    ObsEncoder,
    action_decoder,
    num_actions,
    scalar,
)
from dqn_runner.errors import WANTED, EnvironmentFailedError, named
from dqn_runner.types import Array

logger = logging.getLogger(__name__)

LIFE_LOST = "dqn_runner.life_lost"  # in the info of a step that ended a life, and not the game


class EpisodePlayer:
    """Resets and steps one environment, and checks what it returns.

    `seed` and `steps` describe the current episode. `is_cut` says that `max_episode_steps` ended
    it, which is a truncation; `goes_on` that it was one life of a game, which goes on. `encoder` is
    that of the environment's observations. With `action_masks`, `action_mask` [A] tells the actions
    that are allowed at the last observation. Raises EnvironmentFailedError, which names `name`, if
    the environment raises, exits the program, takes longer than `max_step_seconds`, or returns
    something invalid.
    """

    def __init__(
        self,
        env: Env,
        name: str = "the environment",
        max_step_seconds: float | None = None,
        max_episode_steps: int | None = None,
        *,
        encoder: ObsEncoder | None = None,
        action_masks: bool = False,
    ) -> None:
        self._env, self._name = env, name
        self._max_step_seconds, self._max_episode_steps = max_step_seconds, max_episode_steps
        self._frames = FrameStack(encoder or ObsEncoder(env.observation_space))
        self.obs_spec, self._action = self._frames.spec, action_decoder(env)
        self.action_mask: Array | None = None
        self._masked_actions = num_actions(env) if action_masks else None
        self.seed = self.steps = 0
        self.is_cut = self.goes_on = False

    def reset(self, seed: int, row: Array, *, next_life: bool = False) -> None:
        """Start an episode from `seed`; write its first observation into `row` [*obs_shape].

        With `next_life` the episode goes on with the game where the one before lost a life.
        """
        options = {"options": {LIFE_LOST: True}} if next_life else {}
        self.seed, self.steps = seed, 0
        self.is_cut = self.goes_on = False
        try:
            with limited(self._max_step_seconds):
                raw_obs, info = self._env.reset(seed=seed, **options)
            self._frames.start(raw_obs, row)
            self._read_mask(info)
        except WANTED:
            raise
        except BaseException as error:
            raise self.failure(f"reset: {named(error)}") from error

    def step(self, action: int, row: Array) -> tuple[float, bool, bool]:
        """Take `action`, counted from 0; write the next observation into `row` [*obs_shape].

        Returns the reward, whether the episode terminated, and whether it was truncated.
        """
        try:
            with limited(self._max_step_seconds):
                raw_obs, raw_reward, terminated, truncated, info = self._env.step(
                    self._action(action)
                )
            self._frames.push(raw_obs, row)
            reward, terminated, truncated = (
                float(scalar(raw_reward)), bool(terminated), bool(truncated)
            )  # fmt: skip
            if not math.isfinite(reward):
                raise ValueError(f"a reward of {reward}")  # noqa: TRY301
            self._read_mask(info, is_last=terminated)
        except WANTED:
            raise
        except BaseException as error:
            raise self.failure(f"step: {named(error)}") from error
        self.steps += 1
        self.goes_on = terminated and isinstance(info, dict) and LIFE_LOST in info
        self.is_cut = self.steps == self._max_episode_steps and not (terminated or truncated)
        return reward, terminated, truncated or self.is_cut

    def _read_mask(self, info: Any, *, is_last: bool = False) -> None:
        """Take note of the actions that `info` allows; at the last one it may allow none."""
        if self._masked_actions is None:
            return
        if "action_mask" not in info:
            raise ValueError("no action_mask in info, which env.action_masks=true needs")
        mask = np.asarray(info["action_mask"]).astype(bool)
        if mask.shape != (self._masked_actions,):
            raise ValueError(f"an action_mask of shape {mask.shape}, not {(self._masked_actions,)}")
        if not (mask.any() or is_last):
            raise ValueError("an action_mask that allows nothing")
        self.action_mask = mask if mask.any() else ~mask  # which no target looks at

    @property
    def frames_per_second(self) -> int:
        """The speed at which pictures should be shown."""
        return int(self._env.metadata.get("render_fps", 30))

    def render(self) -> Array:
        """A picture of the environment's current state, [height, width, 3]."""
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
        """The error that says `what` went wrong at the current step."""
        return failure(self._name, self.seed, self.steps, what)

    def close(self) -> None:
        """Close the environment; a failure is only a warning."""
        close(self._env)


def failure(name: str, seed: int, steps: int, what: str) -> EnvironmentFailedError:
    """The error that says `what` went wrong after so many steps of the episode with that seed."""
    return EnvironmentFailedError(
        f"{name} failed at step {steps} of the episode with seed {seed}, in {what}"
    )


def close(env: Env) -> None:
    """Close `env`; a failure is only a warning, because nobody needs `env` any more."""
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
    """`time_limit`, or no limit if `seconds` is None."""
    return time_limit(seconds) if seconds else _NO_LIMIT


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block if it takes longer than `seconds`.

    An alarm signal does this. It interrupts Python code, and C code that returns to Python; it
    works only in the main thread, and only on Unix.
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
