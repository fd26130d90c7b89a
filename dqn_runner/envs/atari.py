"""Atari games of the Arcade Learning Environment, prepared as DQN is used to see them."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from pydantic import Field, model_validator

from dqn_runner.envs.encoding import Env
from dqn_runner.envs.episode import LIFE_LOST
from dqn_runner.envs.images import Shrinker
from dqn_runner.envs.make import EnvSpec
from dqn_runner.envs.packages import import_package
from dqn_runner.errors import ConfigError
from dqn_runner.spec import PositiveInt, Probability
from dqn_runner.types import Array

SCREEN = (210, 160)
# What each preset says of the keys that are null. Both see every fourth frame, and the brighter of
# each pixel in the last two; 108,000 frames are half an hour of play.
PRESETS: dict[str, dict[str, Any]] = {
    # Machado et al. 2018, section 5. They use all 18 actions; here it is those of the game.
    "machado_2018": {"sticky_actions": 0.25, "noop_max": 0, "terminal_on_life_loss": False},
    # Mnih et al. 2015, methods.
    "dqn_2015": {"sticky_actions": 0.0, "noop_max": 30, "terminal_on_life_loss": True},
}


class AtariSpec(EnvSpec):
    """A game of Atari.

    A screen is gray, `screen_size` pixels high and wide, the mean of the areas it covers. A key
    that is null is as `preset` says.
    """

    game: str
    """Name of an Atari game, such as pong or space_invaders."""
    preset: Literal["machado_2018", "dqn_2015"] = "machado_2018"
    """Whose protocol: Machado et al. 2018 or Mnih et al. 2015; it sets what is null."""
    sticky_actions: Probability | None = None
    """Probability that a frame repeats the action before; null: as preset says, 0.25 or 0."""
    noop_max: Annotated[int, Field(ge=0)] | None = None
    """Most idle steps, drawn from the seed, that begin an episode; null: by preset, 0 or 30."""
    terminal_on_life_loss: bool | None = None
    """In training a lost life ends the episode, not the game; null: by preset, false or true."""
    frame_skip: PositiveInt = 4
    """Frames of an env step, in which its action is repeated."""
    full_action_space: bool = False
    """All 18 actions of the joystick, instead of those that the game uses."""
    screen_size: Annotated[int, Field(gt=0, le=min(SCREEN))] = 84
    """Pixels of a screen's sides."""
    max_frames: PositiveInt = 108_000
    """Frames after which an episode is truncated."""

    @model_validator(mode="before")
    @classmethod
    def _filled_in(cls, section: Any) -> Any:
        if not isinstance(section, dict):
            return section
        preset = PRESETS.get(str(section.get("preset", "machado_2018")), {})
        filled = {**section, **{k: v for k, v in preset.items() if section.get(k) is None}}
        expected = f"ALE/{str(section.get('game')).title().replace('_', '')}-v5"
        if filled.get("id") is None:
            filled["id"] = expected
        if filled["id"] != expected:
            raise ValueError(f"id={filled['id']}: env=atari takes env.game instead of an id")
        return filled

    @property
    def frames_per_step(self) -> int:
        """Frames of the game in an env step."""
        return self.frame_skip

    def arguments(self) -> dict[str, Any]:
        """What gymnasium.make makes ALE's own environment of; raises ConfigError without ALE."""
        import_package(self.id)
        from ale_py import roms

        games = sorted(roms.get_all_rom_ids())
        if self.game not in games or self.id not in gym.registry:
            alike = get_close_matches(self.game.lower(), games)
            hint = f"; did you mean {' or '.join(alike)}?" if alike else f"; {', '.join(games)}"
            raise ConfigError(f"env.game={self.game}: no such game{hint}")
        ours = {
            "frameskip": 1,
            "repeat_action_probability": self.sticky_actions,
            "full_action_space": self.full_action_space,
            "max_num_frames_per_episode": self.max_frames,
            "obs_type": "ram",  # is not looked at, and takes no time
        }
        for key in set(ours) & set(self.kwargs):
            raise ConfigError(f"env.kwargs.{key}={self.kwargs[key]}: env=atari sets it")
        return {**ours, **self.kwargs}

    def prepared(self, env: Env, *, training: bool) -> Env:
        """The game as a network sees it."""
        life_ends = training and bool(self.terminal_on_life_loss)
        return Atari(env, self.frame_skip, self.screen_size, self.noop_max or 0, life_ends)


class Atari(gym.Wrapper[Any, Any, Any, Any]):
    """Skips frames, and shows the brighter of each pixel in the last two of them, made smaller.

    With `life_ends` a lost life terminates the episode; a reset with the option LIFE_LOST then goes
    on with the game, by one idle step.
    """

    def __init__(
        self, env: Env, frame_skip: int, screen_size: int, noop_max: int, life_ends: bool
    ) -> None:
        super().__init__(env)
        self._ale: Any = env.unwrapped.ale  # type: ignore[attr-defined]
        self._frame_skip, self._noop_max, self._life_ends = frame_skip, noop_max, life_ends
        shape = tuple(self._ale.getScreenDims())
        self._screens = np.zeros((2, *shape), np.uint8)
        self._shrink = Shrinker((shape[0], shape[1]), screen_size, screen_size)
        self.observation_space = Box(0, 255, (screen_size, screen_size), np.uint8)
        self._lives = 0
        self.metadata = {**env.metadata, "render_fps": round(60 / frame_skip)}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start a game, or go on with it after a lost life."""
        if options and LIFE_LOST in options:
            *_, terminated, truncated, info = self._skip(0)
            if not (terminated or truncated):
                self._lives = self._ale.lives()
                return self._seen(), info
            seed = None  # which would begin the same game once more
        _, info = self.env.reset(seed=seed)
        self._ale.getScreenGrayscale(self._screens[0])
        self._screens[1] = 0
        idle = self.unwrapped.np_random.integers(1, self._noop_max + 1) if self._noop_max else 0
        for _ in range(idle):
            *_, terminated, truncated, info = self._skip(0)
            if terminated or truncated:
                _, info = self.env.reset()
        self._lives = self._ale.lives()
        return self._seen(), info

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Repeat `action` for the frames of a step."""
        reward, terminated, truncated, info = self._skip(action)
        lives = self._ale.lives()
        if self._life_ends and lives < self._lives and not (terminated or truncated):
            terminated = True
            info = {**info, LIFE_LOST: True}
        self._lives = lives
        return self._seen(), reward, terminated, truncated, info

    def _skip(self, action: Any) -> tuple[float, bool, bool, dict[str, Any]]:
        """Repeat `action`, and keep the last two screens."""
        total, terminated, truncated = 0.0, False, False
        info: dict[str, Any] = {}
        self._screens[1] = 0
        for left in reversed(range(self._frame_skip)):
            _, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            ended = terminated or truncated
            if left < 2 or ended:
                self._ale.getScreenGrayscale(self._screens[0 if ended else left])
            if ended:
                break
        return total, terminated, truncated, info

    def _seen(self) -> Array:
        return self._shrink(self._screens.max(axis=0))
