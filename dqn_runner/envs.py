"""Environments: making one from its id, encoding observations, stepping N of them with restarts.

The only module that knows how an episode ends and the next begins. Every episode starts from a
seed of its own, so that it can be replayed from that seed and its actions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete
from pydantic import Field

from dqn_runner.custom import Custom, find_modules_in_working_directory
from dqn_runner.errors import ConfigError
from dqn_runner.seeding import draw_seed
from dqn_runner.types import Array, EnvStep, Episode, ObsSpec, Spec

Env = gym.Env[Any, Any]


class EnvSpec(Spec):
    """A discrete-action Gymnasium environment.

    `id` may name the package that registers it, as in `package:Id`; `wrappers` lists classes as
    `package.module:Class`, or as mappings with `name` and the wrapper's keyword arguments.
    """

    id: str
    kwargs: dict[str, Any] = Field(default_factory=dict)
    wrappers: list[str | dict[str, Any]] = Field(default_factory=list)


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
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"env.id={spec.id}: {reason} (any discrete-action Gymnasium id, or package:Id)"
        ) from error
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
        """Encode one observation into `row` [*obs_shape]."""
        if isinstance(self._space, Discrete):
            row[:] = 0.0
            row[int(obs) - int(self._space.start)] = 1.0
        else:
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
    """

    def __init__(self, make: Callable[[], Env], num_envs: int, rng: np.random.Generator) -> None:
        self._envs = [make() for _ in range(num_envs)]
        self._rng = rng
        self._encoder = ObsEncoder(self._envs[0].observation_space)
        self._offset = action_offset(self._envs[0])
        self._returns = [0.0] * num_envs
        self._lengths = [0] * num_envs
        self.obs = np.zeros((num_envs, *self._encoder.spec.shape), self._encoder.spec.dtype)
        for i in range(num_envs):
            self._start_episode(i, self.obs)

    def _start_episode(self, i: int, obs: Array) -> None:
        raw_obs, _ = self._envs[i].reset(seed=draw_seed(self._rng))
        self._encoder.write(raw_obs, obs[i])
        self._returns[i], self._lengths[i] = 0.0, 0

    def step(self, action: list[int]) -> EnvStep:
        """Take one action [N] in each environment; `obs` then holds the observations to act on."""
        rewards: list[float] = []
        terminated: list[bool] = []
        truncated: list[bool] = []
        ended: list[int] = []
        obs, next_obs = self.obs, np.empty_like(self.obs)
        for i, env in enumerate(self._envs):
            raw_obs, reward, is_terminated, is_truncated, _ = env.step(action[i] + self._offset)
            self._encoder.write(raw_obs, next_obs[i])
            rewards.append(float(reward))
            terminated.append(bool(is_terminated))
            truncated.append(bool(is_truncated))
            self._returns[i] += rewards[i]
            self._lengths[i] += 1
            if is_terminated or is_truncated:
                ended.append(i)
        episodes = [Episode(self._returns[i], self._lengths[i]) for i in ended]
        self.obs = next_obs.copy() if ended else next_obs
        for i in ended:
            self._start_episode(i, self.obs)
        return EnvStep(obs, action, rewards, terminated, truncated, next_obs, episodes)

    def close(self) -> None:
        for env in self._envs:
            env.close()
