"""MiniGrid: what the agent sees as planes of an image, one for each kind of thing."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict
from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX, STATE_TO_IDX

from dqn_runner.envs.encoding import Env
from dqn_runner.types import Array

SIZES = len(OBJECT_TO_IDX), len(COLOR_TO_IDX), len(STATE_TO_IDX)
# The state of the agent itself, which only wrappers that show the whole grid tell, is one of 4.
STATES = max(SIZES[2], 4)


class Planes(gym.ObservationWrapper[Any, Any, Any]):
    """The image as planes of true and false [H, W, 21]: one for each object, color and state.

    The mission is left out, which is the same in each episode of most of these environments. The
    direction is left out too: the agent sees what is in front of it, however it stands.
    """

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, Dict) or "image" not in space.spaces:
            raise ValueError(f"must wrap an environment of MiniGrid, not one that shows {space}")
        height, width, _ = space["image"].shape or ()
        planes = SIZES[0] + SIZES[1] + STATES
        self.observation_space = Box(0, 1, (height, width, planes), np.bool_)
        self._offsets = np.array([0, SIZES[0], SIZES[0] + SIZES[1]])
        self._numbers = np.arange(planes)

    def observation(self, observation: dict[str, Any]) -> Array:
        """The image of an observation as planes."""
        chosen = observation["image"] + self._offsets  # [H, W, 3]
        planes: Array = (chosen[..., None] == self._numbers).any(axis=2)
        return planes
