"""An environment of images, for tests of what is made for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete


class Pictures(gym.Env[Any, Any]):
    """Shows noise; an episode lasts nine steps."""

    def __init__(self, shape: tuple[int, ...] = (12, 12, 2)) -> None:
        self.observation_space = Box(0, 255, shape, np.uint8)
        self.action_space = Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._rng, self._left = np.random.default_rng(seed), 9
        return self._picture(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._left -= 1
        return self._picture(), float(action), self._left == 0, False, {}

    def _picture(self) -> Any:
        shape = self.observation_space.shape
        return self._rng.integers(256, size=shape, dtype=np.uint8)


gym.register("Pictures-v0", f"{__name__}:Pictures")


def images(shape: Sequence[int]) -> list[str]:
    """The settings that choose it, with images of that shape."""
    return ["env.id=Pictures-v0", f"+env.kwargs.shape={list(shape)}"]
