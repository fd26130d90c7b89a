"""Making an environment from its settings."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import gymnasium as gym
from gymnasium.spaces import Box, Discrete
from pydantic import Field, FiniteFloat

from dqn_runner.custom import Custom
from dqn_runner.envs.encoding import Env
from dqn_runner.errors import ConfigError, failing_as, in_a_line
from dqn_runner.spec import Seconds, Spec

logger = logging.getLogger(__name__)

_shown: dict[Any, Any] = {}  # Python's record of the warnings that were shown


Return = FiniteFloat | Literal["horizon", "-horizon"]


class EnvSpec(Spec):
    """A discrete-action Gymnasium environment.

    `id` may name the package that registers it: `package:Id`. `wrappers` lists classes, each as
    `package.module:Class` or as a mapping with `name` and the wrapper's keyword arguments. A step
    that takes longer than `max_step_seconds` ends the run.
    """

    id: str
    """Id for gymnasium.make; package:Id imports the package first."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of gymnasium.make, such as max_episode_steps."""
    wrappers: list[str | dict[str, Any]] = Field(default_factory=list)
    """Each package.module:Class, or a mapping with that as its name and its arguments."""
    max_step_seconds: Seconds | None = None
    """Seconds after which a step ends the run; null for no limit."""
    return_range: tuple[Return, Return] | None = None
    """Lowest and highest return, as numbers, horizon (1/(1-γ)) or -horizon; null: not known."""

    def possible_returns(
        self, gamma: float, reward_clip: float | None = None
    ) -> tuple[float, float] | None:
        """The lowest and the highest return discounted by `gamma`; None if they are not known.

        Rewards that are clipped leave a number other than 0 unknown, and horizon is at most
        `reward_clip` for each step.
        """
        ends = self.return_range or ()
        by_length = {"horizon": 1.0, "-horizon": -1.0, 0.0: 0.0}
        clipped = reward_clip is not None and any(end not in by_length for end in ends)
        if not ends or clipped or (gamma == 1.0 and "horizon" in str(ends)):
            return None
        most = 1.0 if reward_clip is None else min(reward_clip, 1.0)
        low, high = (
            by_length[end] * most / (1.0 - gamma) if isinstance(end, str) else end for end in ends
        )
        return low, high


def make_env(spec: EnvSpec, render_mode: str | None = None, *, warn: bool = False) -> Env:
    """Make and wrap one environment, and check that DQN can act in it.

    Gymnasium's warnings are logged if `warn` is set, and hidden if not. Raises ConfigError if the
    id is unknown, if the environment or a wrapper cannot be made, if actions are not Discrete, or
    if observations are neither Box nor Discrete.
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
    """`env` in the wrapper that the setting `key` names."""
    custom = parse_wrapper(key, wrapper)
    wrapped: Env = custom.load(key, "env")(env=env)
    if not isinstance(wrapped, gym.Env):
        raise ConfigError(f"{key}={custom.name}: gives {type(wrapped).__name__}, no environment")
    return wrapped


@contextlib.contextmanager
def _warnings_of_gymnasium() -> Iterator[list[str]]:
    """Collect Gymnasium's warnings as plain lines: it would print them in color, and repeat them.

    The list is filled at the end of the block, if nothing was raised. Other warnings are shown as
    usual.
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
    """The class that an entry of `env.wrappers` names; raises ConfigError if it names none."""
    try:
        return Custom.model_validate({"name": wrapper} if isinstance(wrapper, str) else wrapper)
    except ValueError as error:
        raise ConfigError(
            f"{key}={wrapper}: must be package.module:Class, or a mapping with that as its name"
        ) from error
