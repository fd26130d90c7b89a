"""Films of episodes: mp4 to watch, GIF for SwanLab, which takes no other film format."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
import numpy.typing as npt

from dqn_runner.envs import EnvSpec, make_env
from dqn_runner.errors import ConfigError

Frame = npt.NDArray[np.uint8]

GIF_FRAMES_PER_SECOND = 15
GIF_WIDTH = 320


def record_episode(
    spec: EnvSpec, act: Callable[[Any], int], seed: int, target: Path, max_steps: int | None
) -> tuple[Path, Path]:
    """Film one episode of `act` (observation to action) as `target`.mp4 and `target`.gif.

    Raises ConfigError where the environment cannot draw itself into arrays.
    """
    # Drawing into arrays needs no screen, which SDL would look for all the same.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    env = make_env(spec)
    modes = env.metadata.get("render_modes") or ()
    env.close()
    if "rgb_array" not in modes:
        raise ConfigError(f"env.id={spec.id}: cannot draw itself; it needs render_mode rgb_array")
    env = make_env(spec, render_mode="rgb_array")
    fps = int(env.metadata.get("render_fps", 30))
    target.parent.mkdir(parents=True, exist_ok=True)
    mp4, gif = target.with_suffix(".mp4"), target.with_suffix(".gif")
    every = max(1, round(fps / GIF_FRAMES_PER_SECOND))
    small: list[Any] = []
    # Sides need not be multiples of 16, as some codecs would like them.
    writer: Any = imageio.get_writer(mp4, fps=fps, macro_block_size=1, pixelformat="yuv420p")
    with writer as film:
        for i, frame in enumerate(_frames(env, act, seed, max_steps)):
            film.append_data(_even(frame))
            if i % every == 0:
                small.append(_shrunk(frame))
    imageio.mimsave(gif, small, duration=1000 * every / fps, loop=0)
    env.close()
    return mp4, gif


def _frames(
    env: Any, act: Callable[[Any], int], seed: int, max_steps: int | None
) -> Iterator[Frame]:
    obs, _ = env.reset(seed=seed)
    yield env.render()
    steps, ended = 0, False
    while not ended and steps != max_steps:
        obs, _, terminated, truncated, _ = env.step(act(obs))
        ended = terminated or truncated
        steps += 1
        yield env.render()


def _even(frame: Frame) -> Frame:
    # H.264 with halved colour resolution needs even sides.
    return frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]


def _shrunk(frame: Frame) -> Frame:
    stride = max(1, frame.shape[1] // GIF_WIDTH)
    return frame[::stride, ::stride]
