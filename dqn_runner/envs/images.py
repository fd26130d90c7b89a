"""Images made smaller, without OpenCV."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box

from dqn_runner.envs.encoding import Env
from dqn_runner.types import Array

LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green and blue: ITU-R BT.601


class Shrinker:
    """Shrinks images to `height` x `width`; each new pixel is the mean of the area it covers.

    An area that covers a part of a pixel counts that part, as OpenCV's INTER_AREA does. This is a
    product with a matrix from either side.
    """

    def __init__(self, shape: tuple[int, int], height: int, width: int) -> None:
        self._rows, self._columns = _shares(shape[0], height), _shares(shape[1], width).T.copy()

    def __call__(self, image: Array) -> npt.NDArray[np.uint8]:
        """`image` [H, W] or [H, W, C] of numbers from 0 to 255, made smaller."""
        if image.ndim == 3:
            planes = [self(image[..., i]) for i in range(image.shape[2])]
            return np.stack(planes, axis=2)
        shrunk = self._rows @ (image.astype(np.float32) @ self._columns)
        return (shrunk + 0.5).astype(np.uint8)


def _shares(size: int, smaller: int) -> npt.NDArray[np.float32]:
    """How much of each new pixel comes from each old one, [smaller, size]."""
    ends = np.arange(smaller + 1) * size / smaller
    old = np.arange(size)
    covered = np.minimum(ends[1:, None], old + 1) - np.maximum(ends[:-1, None], old)
    shares: npt.NDArray[np.float32] = np.clip(covered, 0.0, None) * smaller / size
    return shares.astype(np.float32)


class Resize(gym.ObservationWrapper[Any, Any, Any]):
    """Makes images of uint8 [H, W] or [H, W, C] `size` pixels high and wide, and gray if asked."""

    def __init__(self, env: Env, size: int, gray: bool = False) -> None:
        super().__init__(env)
        space = env.observation_space
        shape = space.shape or ()
        if not isinstance(space, Box) or space.dtype != np.uint8 or len(shape) not in (2, 3):
            raise ValueError(f"must wrap images of uint8, [H, W] or [H, W, C], not {space}")
        if size < 1 or size > min(shape[:2]):
            raise ValueError(f"size={size}: must be from 1 to {min(shape[:2])}")
        self._gray = gray and shape[2:] == (3,)
        self._shrink = Shrinker((shape[0], shape[1]), size, size)
        channels = () if self._gray else shape[2:]
        self.observation_space = Box(0, 255, (size, size, *channels), np.uint8)

    def observation(self, observation: Array) -> Array:
        """The image, made smaller."""
        return self._shrink(observation @ LUMINANCE if self._gray else observation)
