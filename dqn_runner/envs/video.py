"""Films of episodes: mp4 to watch, and GIF for SwanLab, which takes no other format."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
import numpy.typing as npt

from dqn_runner.envs.episode import EpisodePlayer, close
from dqn_runner.envs.make import EnvSpec, make_env, make_player
from dqn_runner.envs.vector import stacked_masks
from dqn_runner.errors import ConfigError
from dqn_runner.types import Policy

Frame = npt.NDArray[np.uint8]

GIF_FRAMES_PER_SECOND = 15
GIF_WIDTH = 320


def record_episode(  # noqa: PLR0917
    spec: EnvSpec,
    policy: Policy,
    seed: int,
    target: Path,
    max_steps: int | None,
    check_stop: Callable[[], None],
) -> tuple[Path, Path]:
    """Film one episode of `policy` as `target`.mp4 and `target`.gif.

    `policy` maps observations [1, *obs_shape] to actions [1]. `check_stop` is called between steps
    and may raise; then, or if something fails, nothing is left. A film that is there is whole.
    Raises ConfigError if the environment cannot draw itself into arrays.
    """
    # Drawing into arrays needs no screen, but SDL would look for one.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    env = make_env(spec)
    modes = env.metadata.get("render_modes") or ()
    close(env)
    if "rgb_array" not in modes:
        raise ConfigError(f"env.id={spec.id}: cannot draw itself; it needs render_mode rgb_array")
    name = "the filmed environment"
    player = make_player(spec, name, max_episode_steps=max_steps, render_mode="rgb_array")
    fps = player.frames_per_second
    target.parent.mkdir(parents=True, exist_ok=True)
    mp4, gif = target.with_suffix(".mp4"), target.with_suffix(".gif")
    # ffmpeg wants a name that ends in mp4; that of the GIF looks like no film.
    partial = (target.with_suffix(".partial.mp4"), target.with_suffix(".gif.partial"))
    every = max(1, round(fps / GIF_FRAMES_PER_SECOND))
    small: list[Frame] = []
    try:
        # imageio's default would scale the frames to sides that are multiples of 16.
        writer: Any = imageio.get_writer(
            partial[0], fps=fps, macro_block_size=1, pixelformat="yuv420p"
        )
        with contextlib.closing(writer) as film:  # it closes itself only if nothing is raised
            for i, frame in enumerate(_frames(player, policy, seed, check_stop)):
                film.append_data(_even(frame))
                if i % every == 0:
                    small.append(_shrunk(frame))
        imageio.mimsave(partial[1], small, format="GIF", duration=1000 * every / fps, loop=0)
        os.replace(partial[0], mp4)
        os.replace(partial[1], gif)
    finally:
        for path in partial:
            path.unlink(missing_ok=True)
        player.close()
    return mp4, gif


def _frames(
    player: EpisodePlayer,
    policy: Policy,
    seed: int,
    check_stop: Callable[[], None],
) -> Iterator[Frame]:
    row = np.zeros(player.obs_spec.shape, player.obs_spec.dtype)
    player.reset(seed, row)
    yield player.render()
    ended = False
    while not ended:
        check_stop()
        (action,) = policy(row[np.newaxis], stacked_masks([player])).tolist()
        _, terminated, truncated = player.step(action, row)
        ended = terminated or truncated
        yield player.render()


def _even(frame: Frame) -> Frame:
    # H.264 stores color at half the resolution, so both sides must be even.
    return frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]


def _shrunk(frame: Frame) -> Frame:
    stride = max(1, frame.shape[1] // GIF_WIDTH)
    return frame[::stride, ::stride].copy()  # not a view, which would keep the whole frame
