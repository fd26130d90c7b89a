"""Environments: making one from its id, stepping N of them with restarts.

Every episode starts from a seed of its own, so that it can be replayed from that seed and its
actions.
"""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from pydantic import Field

from dqn_runner.custom import Custom
from dqn_runner.episode import Env, EpisodePlayer
from dqn_runner.errors import ConfigError, EnvironmentFailedError, failing_as, in_a_line
from dqn_runner.seeding import draw_seed
from dqn_runner.types import Array, EnvStep, Episode, Seconds, Spec

logger = logging.getLogger(__name__)

_shown: dict[Any, Any] = {}  # warnings that were, as Python notes them


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


def make_env(spec: EnvSpec, render_mode: str | None = None, *, warn: bool = False) -> Env:
    """Make and wrap one environment, and check that DQN can act in it.

    What Gymnasium warns of is logged with `warn`, and not shown without. Raises ConfigError for an
    unknown id, an environment or a wrapper that cannot be made, or spaces other than Discrete
    actions and Box or Discrete observations.
    """
    where, kwargs = f"env.id={spec.id}", dict(spec.kwargs)
    if render_mode is not None:
        kwargs["render_mode"] = render_mode
    with _warnings_of_gymnasium() as warned, failing_as(ConfigError, where):
        try:
            env: Env = gym.make(spec.id, disable_env_checker=True, **kwargs)
        except (gym.error.Error, ImportError) as error:
            allowed = "any discrete-action Gymnasium id, or package:Id"
            raise ConfigError(f"{where}: {in_a_line(error)} ({allowed})") from error
        for i, wrapper in enumerate(spec.wrappers):
            env = _wrapped(env, f"env.wrappers[{i}]", wrapper)
        if not isinstance(env.action_space, Discrete):
            raise ConfigError(f"{where}: its action space is {env.action_space}; must be Discrete")
        if not isinstance(env.observation_space, Box | Discrete):
            raise ConfigError(
                f"{where}: its observation space is {type(env.observation_space).__name__}; "
                "must be Box or Discrete (a wrapper in env.wrappers can convert it)"
            )
    if warn and warned:
        logger.warning("%s: %s", where, " ".join(dict.fromkeys(warned)))
    return env


def _wrapped(env: Env, key: str, wrapper: str | dict[str, Any]) -> Env:
    """`env` in the wrapper that stands under `key`."""
    custom = parse_wrapper(key, wrapper)
    wrapped: Env = custom.load(key, "env")(env=env)
    if not isinstance(wrapped, gym.Env):
        raise ConfigError(f"{key}={custom.name}: gives {type(wrapped).__name__}, no environment")
    return wrapped


@contextlib.contextmanager
def _warnings_of_gymnasium() -> Iterator[list[str]]:
    """What Gymnasium warns of meanwhile, as lines: by itself it prints coloured ones, repeatedly.

    The list is filled when all went well. Other warnings are shown then as always.
    """
    lines: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield lines
    for warning in caught:
        text = re.sub(r"\x1b\[[\d;]*m", "", in_a_line(warning.message))  # type: ignore[arg-type]
        of_gymnasium = re.match("(WARN|ERROR): ", text)
        if of_gymnasium:
            lines.append(text[of_gymnasium.end() :])
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno,
                registry=_shown,
            )  # fmt: skip


def parse_wrapper(key: str, wrapper: str | dict[str, Any]) -> Custom:
    """The class behind an entry of `env.wrappers`; raises ConfigError where it names none."""
    try:
        return Custom.model_validate({"name": wrapper} if isinstance(wrapper, str) else wrapper)
    except ValueError as error:
        raise ConfigError(
            f"{key}={wrapper}: must be package.module:Class, or a mapping with that as its name"
        ) from error


class Environments:
    """N copies of an environment, stepped one after the other and restarted as they end.

    `rng` gives each episode its seed. `obs` [N, *obs_shape] is what the next action must answer.
    Raises EnvironmentFailedError as EpisodePlayer does.
    """

    def __init__(
        self,
        make: Callable[[], Env],
        num_envs: int,
        rng: np.random.Generator,
        max_step_seconds: float | None = None,
    ) -> None:
        self._players = [
            EpisodePlayer(make(), f"environment {i}", max_step_seconds) for i in range(num_envs)
        ]
        self.rng = rng
        self._actions: list[list[int]] = [[] for _ in range(num_envs)]  # of the episodes under way
        self._returns = [0.0] * num_envs
        spec = self._players[0].obs_spec
        self.obs = np.zeros((num_envs, *spec.shape), spec.dtype)
        for i in range(num_envs):
            self._start_episode(i, draw_seed(rng), self.obs)

    def _start_episode(self, i: int, seed: int, obs: Array) -> None:
        self._actions[i], self._returns[i] = [], 0.0
        self._players[i].reset(seed, obs[i])

    def step(self, action: list[int]) -> EnvStep:
        """Take one action [N] in each environment; `obs` then holds the observations to act on."""
        rewards: list[float] = []
        terminated: list[bool] = []
        truncated: list[bool] = []
        ended: list[int] = []
        obs, next_obs = self.obs, np.empty_like(self.obs)
        for i in range(len(self._players)):
            reward, is_terminated, is_truncated = self._step_one(i, action[i], next_obs[i])
            rewards.append(reward)
            terminated.append(is_terminated)
            truncated.append(is_truncated)
            if is_terminated or is_truncated:
                ended.append(i)
        episodes = [Episode(self._returns[i], len(self._actions[i])) for i in ended]
        self.obs = next_obs.copy() if ended else next_obs
        for i in ended:
            self._start_episode(i, draw_seed(self.rng), self.obs)
        return EnvStep(obs, action, rewards, terminated, truncated, next_obs, episodes)

    def _step_one(self, i: int, action: int, next_obs: Array) -> tuple[float, bool, bool]:
        """Step environment `i`, which writes its observation into `next_obs` [*obs_shape]."""
        reward, terminated, truncated = self._players[i].step(action, next_obs)
        self._actions[i].append(action)
        self._returns[i] += reward
        return reward, terminated, truncated

    def get_state(self) -> dict[str, Any]:
        """The episodes under way, as their seeds and actions: environments cannot be pickled."""
        return {
            "seeds": [player.seed for player in self._players],
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
                raise self._players[i].failure("replay: it ended early")

    def close(self) -> None:
        for player in self._players:
            player.close()
