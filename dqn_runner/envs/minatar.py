"""MinAtar (Young and Tian 2019): what its own environments lack."""

from __future__ import annotations

import importlib
import logging
import sys
from typing import Any

import gymnasium as gym
import numpy as np

from dqn_runner.envs.encoding import Env
from dqn_runner.types import Array

PIXELS = 16  # of a picture, for each cell of the game and each side
STEPS_PER_SECOND = 10  # of a film


def import_quietly() -> None:
    """Import MinAtar without seaborn, which takes two seconds and colors its own pictures alone.

    Without it MinAtar warns that it cannot draw itself; `Mended` does.
    """
    if "minatar" in sys.modules:
        return
    root, quiet = logging.getLogger(), logging.NullHandler()
    disabled, seaborn = root.manager.disable, sys.modules.get("seaborn")
    root.addHandler(quiet)  # without any, a warning would make a handler that stays
    logging.disable(logging.WARNING)
    sys.modules["seaborn"] = seaborn  # type: ignore[assignment]  # None: cannot be imported
    try:
        importlib.import_module("minatar.gym")
    finally:
        if seaborn is None:
            del sys.modules["seaborn"]
        logging.disable(disabled)
        root.removeHandler(quiet)


class Mended(gym.Wrapper[Any, Any, Any, Any]):
    """A game of MinAtar whose episodes depend on their seed alone, and which can be filmed.

    MinAtar's first sticky action would be the last action of the episode before.
    """

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        self.metadata = {**env.metadata, "render_fps": STEPS_PER_SECOND}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode, before which no action was taken."""
        self.unwrapped.game.last_action = 0  # type: ignore[attr-defined]
        return super().reset(seed=seed, options=options)

    def render(self) -> Array:
        """The game in colors, one for each plane, as [height, width, 3] of uint8."""
        from matplotlib import colormaps

        state = self.unwrapped.game.state()  # type: ignore[attr-defined]
        planes = state.shape[2]
        shown = (state * np.arange(1, planes + 1)).max(axis=2)  # as MinAtar: the last plane wins
        shades = colormaps["cubehelix"](np.linspace(0.15, 0.85, planes))[:, :3]
        colors = np.concatenate([np.zeros((1, 3)), shades])
        picture: Array = (255 * colors[shown]).astype(np.uint8)
        larger: Array = picture.repeat(PIXELS, axis=0).repeat(PIXELS, axis=1)
        return larger
