"""Environments: making one from its id, encoding observations, stepping N of them with restarts.

The only module that knows how an episode ends and the next begins. Every episode starts from a
seed of its own, so that it can be replayed from that seed and its actions.
"""

from __future__ import annotations

import contextlib
import math
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from pydantic import Field

from dqn_runner.custom import Custom, find_modules_in_working_directory
from dqn_runner.errors import ConfigError, EnvironmentFailedError, in_a_line, named
from dqn_runner.seeding import draw_seed
from dqn_runner.types import Array, EnvStep, Episode, ObsSpec, Seconds, Spec

Env = gym.Env[Any, Any]


class EnvSpec(Spec):
    """A discrete-action Gymnasium environment.

    `id` may name the package that registers it, as in `package:Id`; `wrappers` lists classes as
    `package.module:Class`, or as mappings with `name` and the wrapper's keyword arguments. A step
    that takes longer than `max_step_seconds` ends the run.
    """

    id: str
    kwargs: dict[str, Any] = Field(default_factory=dict)
    wrappers: list[str | dict[str, Any]] = Field(default_factory=list)
    max_step_seconds: Seconds | None = None


def make_env(spec: EnvSpec, render_mode: str | None = None) -> Env:
    """Make and wrap one environment, and check that DQN can act in it.

    Raises ConfigError for an unknown id, refused keyword arguments, a wrapper that cannot be
    imported, or spaces other than Discrete actions and Box or Discrete observations.
    """
    kwargs = dict(spec.kwargs)
    if render_mode is not None:
        kwargs["render_mode"] = render_mode
    find_modules_in_working_directory()
    try:
        env: Env = gym.make(spec.id, disable_env_checker=True, **kwargs)
    except Exception as error:  # whatever an environment's own code raises
        allowed = "any discrete-action Gymnasium id, or package:Id"
        raise ConfigError(f"env.id={spec.id}: {in_a_line(error)} ({allowed})") from error
    for i, wrapper in enumerate(spec.wrappers):
        custom = parse_wrapper(f"env.wrappers[{i}]", wrapper)
        env = custom.load(f"env.wrappers[{i}]", "env")(env=env)
    if not isinstance(env.action_space, Discrete):
        raise ConfigError(
            f"env.id={spec.id}: its action space is {env.action_space}; must be Discrete"
        )
    if not isinstance(env.observation_space, Box | Discrete):
        raise ConfigError(
            f"env.id={spec.id}: its observation space is {type(env.observation_space).__name__}; "
            "must be Box or Discrete (a wrapper in env.wrappers can convert it)"
        )
    return env


def parse_wrapper(key: str, wrapper: str | dict[str, Any]) -> Custom:
    """The class behind an entry of `env.wrappers`; raises ConfigError where it names none."""
    try:
        return Custom.model_validate({"name": wrapper} if isinstance(wrapper, str) else wrapper)
    except ValueError as error:
        raise ConfigError(
            f"{key}={wrapper}: must be package.module:Class, or a mapping with that as its name"
        ) from error


class ObsEncoder:
    """Turns raw observations into rows of storage: Box as float32 (uint8 stays), Discrete one-hot.

    A Box keeps its shape, so that a convolutional network can see it; `networks.MLP` flattens.
    """

    def __init__(self, space: gym.Space[Any]) -> None:
        self._space = space
        if isinstance(space, Discrete):
            self.spec = ObsSpec((int(space.n),), np.dtype(np.float32))
        else:
            assert isinstance(space, Box)
            dtype = np.uint8 if space.dtype == np.uint8 else np.float32
            self.spec = ObsSpec(tuple(space.shape), np.dtype(dtype))

    def write(self, obs: Any, row: Array) -> None:
        """Encode one observation into `row` [*obs_shape]; raises ValueError for another shape."""
        if isinstance(self._space, Discrete):
            row[:] = 0.0
            row[int(obs) - int(self._space.start)] = 1.0
        else:
            if np.shape(obs) != row.shape:
                raise ValueError(f"an observation of shape {np.shape(obs)}, not {row.shape}")
            row[...] = obs

    def batch(self, observations: Any) -> Array:
        """Encode a sequence of N observations into [N, *obs_shape]."""
        rows = np.empty((len(observations), *self.spec.shape), self.spec.dtype)
        for row, obs in zip(rows, observations, strict=True):
            self.write(obs, row)
        return rows


def action_offset(env: Env) -> int:
    """The environment's own number of action 0 (a Discrete space need not start at zero)."""
    assert isinstance(env.action_space, Discrete)
    return int(env.action_space.start)


class Environments:
    """N copies of an environment, stepped one after the other and restarted as they end.

    `rng` gives each episode its seed. `obs` [N, *obs_shape] is what the next action must answer.
    Raises EnvironmentFailedError where an environment raises, takes longer than `max_step_seconds`
    for a step, or returns an observation of another shape or a number that is not finite.
    """

    def __init__(
        self,
        make: Callable[[], Env],
        num_envs: int,
        rng: np.random.Generator,
        max_step_seconds: float | None = None,
    ) -> None:
        self._envs = [make() for _ in range(num_envs)]
        self.rng = rng
        self._max_step_seconds = max_step_seconds
        self._encoder = ObsEncoder(self._envs[0].observation_space)
        self._offset = action_offset(self._envs[0])
        self._seeds = [0] * num_envs
        self._actions: list[list[int]] = [[] for _ in range(num_envs)]  # of the episodes under way
        self._returns = [0.0] * num_envs
        self.obs = np.zeros((num_envs, *self._encoder.spec.shape), self._encoder.spec.dtype)
        for i in range(num_envs):
            self._start_episode(i, draw_seed(rng), self.obs)

    def _start_episode(self, i: int, seed: int, obs: Array) -> None:
        self._seeds[i], self._actions[i], self._returns[i] = seed, [], 0.0
        try:
            with limited(self._max_step_seconds):
                raw_obs, _ = self._envs[i].reset(seed=seed)
            self._encoder.write(raw_obs, obs[i])
        except Exception as error:  # whatever an environment's own code raises
            raise self._failure(i, f"reset: {named(error)}") from error
        if not np.isfinite(obs[i]).all():
            raise self._failure(i, "reset: an observation that is not finite")

    def step(self, action: list[int]) -> EnvStep:
        """Take one action [N] in each environment; `obs` then holds the observations to act on."""
        rewards: list[float] = []
        terminated: list[bool] = []
        truncated: list[bool] = []
        ended: list[int] = []
        obs, next_obs = self.obs, np.empty_like(self.obs)
        for i in range(len(self._envs)):
            reward, is_terminated, is_truncated = self._step_one(i, action[i], next_obs[i])
            rewards.append(reward)
            terminated.append(is_terminated)
            truncated.append(is_truncated)
            if is_terminated or is_truncated:
                ended.append(i)
        if not math.isfinite(next_obs.sum()) and not np.isfinite(next_obs).all():
            bad = int(np.flatnonzero(~np.isfinite(next_obs).reshape(len(next_obs), -1).all(1))[0])
            raise self._failure(bad, "step: an observation that is not finite")
        episodes = [Episode(self._returns[i], len(self._actions[i])) for i in ended]
        self.obs = next_obs.copy() if ended else next_obs
        for i in ended:
            self._start_episode(i, draw_seed(self.rng), self.obs)
        return EnvStep(obs, action, rewards, terminated, truncated, next_obs, episodes)

    def _step_one(self, i: int, action: int, next_obs: Array) -> tuple[float, bool, bool]:
        """Step environment `i`, which writes its observation into `next_obs` [*obs_shape]."""
        try:
            with limited(self._max_step_seconds):
                raw_obs, reward, terminated, truncated, _ = self._envs[i].step(
                    action + self._offset
                )
            self._encoder.write(raw_obs, next_obs)
            reward = float(reward)
        except Exception as error:  # whatever an environment's own code raises
            raise self._failure(i, f"step: {named(error)}") from error
        if not math.isfinite(reward):
            raise self._failure(i, f"step: a reward of {reward}")
        self._actions[i].append(action)
        self._returns[i] += reward
        return reward, bool(terminated), bool(truncated)

    def _failure(self, i: int, what: str) -> EnvironmentFailedError:
        return EnvironmentFailedError(
            f"environment {i} failed at step {len(self._actions[i])} of the episode with seed "
            f"{self._seeds[i]}, in {what}"
        )

    def get_state(self) -> dict[str, Any]:
        """The episodes under way, as their seeds and actions: environments cannot be pickled."""
        return {
            "seeds": list(self._seeds),
            "actions": [torch.tensor(actions, dtype=torch.int64) for actions in self._actions],
            "returns": list(self._returns),
            "obs": torch.from_numpy(self.obs.copy()),
        }

    def set_state(self, state: dict[str, Any]) -> list[int]:
        """Play the episodes under way again, up to where they were.

        Returns the environments in which that led elsewhere, because they are not deterministic;
        those have begun a new episode.
        """
        self.obs = np.zeros_like(self.obs)
        strayed = []
        for i, (seed, actions) in enumerate(zip(state["seeds"], state["actions"], strict=True)):
            try:
                self._replay(i, seed, actions.tolist())
            except EnvironmentFailedError:
                strayed.append(i)
            else:
                same_obs = np.array_equal(self.obs[i], state["obs"][i].numpy())
                if not same_obs or self._returns[i] != state["returns"][i]:
                    strayed.append(i)
        for i in strayed:
            self._start_episode(i, draw_seed(self.rng), self.obs)
        return strayed

    def _replay(self, i: int, seed: int, actions: list[int]) -> None:
        self._start_episode(i, seed, self.obs)
        for action in actions:
            _, terminated, truncated = self._step_one(i, action, self.obs[i])
            if terminated or truncated:
                raise self._failure(i, "replay: it ended early")

    def close(self) -> None:
        for env in self._envs:
            env.close()


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
