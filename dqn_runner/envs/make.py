"""Making an environment from its settings."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from pydantic import Field, FiniteFloat

from dqn_runner.custom import Custom
from dqn_runner.envs.encoding import Env, ObsEncoder, num_actions
from dqn_runner.envs.episode import EpisodePlayer
from dqn_runner.envs.packages import import_package, mended
from dqn_runner.errors import ConfigError, failing_as, in_a_line
from dqn_runner.spec import PositiveInt, Seconds, Spec
from dqn_runner.types import ObsSpec

logger = logging.getLogger(__name__)

MOST_ACTIONS = 256  # that the combinations of a MultiDiscrete may make
LARGE_IMAGE = 100  # pixels a side; above, a network takes long and storage fills up

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
    vectorization: Literal["sync", "processes"] = "sync"
    """How environments are stepped: one after the other, or each in a process of its own."""
    frame_stack: PositiveInt = 1
    """Observations that the network sees at once: the last ones of the episode."""
    observation_keys: Annotated[list[str], Field(min_length=1)] | None = None
    """The parts of a Dict observation to learn from, joined to one vector; null: no Dict."""
    action_masks: bool = False
    """Take only actions that the environment allows in info["action_mask"]."""
    return_range: tuple[Return, Return] | None = None
    """Lowest and highest return, as numbers, horizon (1/(1-γ)) or -horizon; null: not known."""

    @property
    def frames_per_step(self) -> int:
        """Frames of the game in an env step."""
        return 1

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of gymnasium.make."""
        return dict(self.kwargs)

    def prepared(self, env: Env, *, training: bool) -> Env:
        """`env` in what this kind of environment needs, beneath the wrappers of the user's own."""
        return env

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


def make_env(
    spec: EnvSpec, render_mode: str | None = None, *, warn: bool = False, training: bool = False
) -> Env:
    """Make and wrap one environment, and check that DQN can act in it.

    Gymnasium's warnings are logged if `warn` is set, and hidden if not; so is what is said of
    images. `training` is for environments that are easier to learn from than to be scored in.
    Raises ConfigError if the id is unknown, if the environment or a wrapper cannot be made, or if
    DQN cannot work with its spaces.
    """
    where, kwargs = f"env.id={spec.id}", spec.arguments()
    if render_mode is not None:
        kwargs["render_mode"] = render_mode
    with _warnings_of_gymnasium() as warned, failing_as(ConfigError, where):
        name = import_package(spec.id)
        try:
            env: Env = gym.make(name, disable_env_checker=True, **kwargs)
        except (gym.error.Error, ImportError) as error:
            allowed = "any discrete-action Gymnasium id, or package:Id"
            raise ConfigError(f"{where}: {in_a_line(error)} ({allowed})") from error
        env = spec.prepared(mended(env), training=training)
        for i, wrapper in enumerate(spec.wrappers):
            env = _wrapped(env, f"env.wrappers[{i}]", wrapper)
        _check_actions(env, where)
        _check_observations(env, where, spec.observation_keys)
    if warn and warned:
        logger.warning("%s: %s", where, " ".join(dict.fromkeys(warned)))
    if warn:
        _warn_of_large_images(obs_spec_of(spec, env), where)
    return env


def make_player(
    spec: EnvSpec,
    name: str,
    *,
    max_episode_steps: int | None = None,
    training: bool = False,
    render_mode: str | None = None,
) -> EpisodePlayer:
    """One environment to play episodes in, which errors call `name`; raises as make_env does."""
    env = make_env(spec, render_mode, training=training)
    return EpisodePlayer(
        env, name, spec.max_step_seconds, max_episode_steps,
        encoder=obs_encoder(spec, env), action_masks=spec.action_masks,
    )  # fmt: skip


def obs_encoder(spec: EnvSpec, env: Env) -> ObsEncoder:
    """What encodes the observations of `env`, as `spec` says."""
    return ObsEncoder(env.observation_space, spec.frame_stack, spec.observation_keys)


def obs_spec_of(spec: EnvSpec, env: Env) -> ObsSpec:
    """Shape and type of the encoded observations of `env`."""
    return obs_encoder(spec, env).spec


def _check_actions(env: Env, where: str) -> None:
    space = env.action_space
    if not isinstance(space, Discrete | MultiDiscrete):
        raise ConfigError(f"{where}: its action space is {space}; must be Discrete")
    if isinstance(space, MultiDiscrete) and num_actions(env) > MOST_ACTIONS:
        raise ConfigError(
            f"{where}: its action space is {space}, with {num_actions(env):,} combinations; must "
            f"be Discrete, or have at most {MOST_ACTIONS}"
        )


def _check_observations(env: Env, where: str, keys: list[str] | None) -> None:
    space = env.observation_space
    if isinstance(space, Dict):
        _check_parts(space, where, keys)
    elif keys is not None:
        raise ConfigError(
            f"env.observation_keys=[{','.join(keys)}]: the observations of {where} have no parts; "
            f"they are {type(space).__name__}"
        )
    elif not isinstance(space, Box | Discrete):
        raise ConfigError(
            f"{where}: its observation space is {type(space).__name__}; must be Box, Discrete or "
            "Dict (a wrapper in env.wrappers can convert it)"
        )


def _check_parts(space: Dict, where: str, keys: list[str] | None) -> None:
    parts = {str(key): part for key, part in space.spaces.items()}
    usable = [key for key, part in parts.items() if isinstance(part, Box | Discrete)]
    if keys is None:
        example = f"; env.observation_keys=[{','.join(usable)}] takes them" if usable else ""
        raise ConfigError(f"{where}: its observations are a Dict of {', '.join(parts)}{example}")
    for key in keys:
        line = f"env.observation_keys=[{','.join(keys)}]"
        if key not in parts:
            raise ConfigError(f"{line}: {where} has {', '.join(parts)}, and no {key}")
        if key not in usable:
            kind = type(parts[key]).__name__
            raise ConfigError(f"{line}: {key} is {kind}; must be Box or Discrete")


def image_in_words(obs: ObsSpec) -> str:
    """The size of an image, and how it is stored and used; empty if `obs` is no image."""
    shape = obs.frame_shape
    if len(shape) not in (2, 3) or (obs.dtype == np.float32 and len(shape) == 2):
        return ""
    scaled = {"uint8": ", scaled to [0, 1] by the network", "bool": ", 0 or 1 in the network"}
    size = "x".join(map(str, shape)) + (f", {obs.stack} in a stack" if obs.stack > 1 else "")
    return f"image {size}, stored as {obs.dtype}{scaled.get(str(obs.dtype), '')}"


def _warn_of_large_images(obs: ObsSpec, where: str) -> None:
    """Warn of images that are larger than learning needs."""
    shape = obs.frame_shape
    if image_in_words(obs) and sorted(shape)[-2] > LARGE_IMAGE:
        smaller = "'env.wrappers=[{name: dqn_runner.envs.images:Resize, size: 84, gray: true}]'"
        if "ALE/" in where:
            smaller = f"env=atari, which prepares the games of Atari, or {smaller}"
        logger.warning(
            "%s: images of %s take much memory and time; %s makes them smaller",
            where, "x".join(map(str, shape)), smaller,
        )  # fmt: skip


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
