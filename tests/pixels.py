"""Small images for tests that step real environments."""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box

from dqn_runner.envs.encoding import ObsEncoder


class Pixels(gym.Wrapper[Any, Any, Any, Any]):
    """CartPole's four numbers as gray levels [2, 2], the newest `stack` of them stacked."""

    def __init__(self, env: gym.Env[Any, Any], stack: int = 1) -> None:
        super().__init__(env)
        shape = (2, 2) if stack == 1 else (stack, 2, 2)
        self.observation_space = Box(0, 255, shape, np.uint8)
        self._frames: deque[Any] = deque(maxlen=stack)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(**kwargs)
        for _ in range(self._frames.maxlen or 1):
            self._frames.append(levels(obs))
        return self._image(), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._frames.append(levels(obs))
        return self._image(), reward, terminated, truncated, info

    def _image(self) -> Any:
        return self._frames[0] if len(self._frames) == 1 else np.stack(self._frames)


def levels(obs: Any) -> Any:
    return np.clip(128 + 60 * obs, 0, 255).astype(np.uint8).reshape(2, 2)


def tell_of_stacks(patch: pytest.MonkeyPatch) -> None:
    """Let the first of three axes be known as that of stacked frames."""
    real = ObsEncoder.__init__

    def init(self: ObsEncoder, space: Any) -> None:
        real(self, space)
        if len(self.spec.shape) == 3:
            self.spec = self.spec._replace(stack=self.spec.shape[0])

    patch.setattr(ObsEncoder, "__init__", init)
