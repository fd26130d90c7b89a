"""Films of episodes: what is there is whole."""

from __future__ import annotations

import imageio.v2 as imageio
import numpy as np
import pytest

from dqn_runner.envs.make import EnvSpec
from dqn_runner.envs.video import record_episode
from dqn_runner.errors import Stopped

ENV = EnvSpec(id="CartPole-v1")


def push_right(obs, mask=None):
    return np.ones(len(obs), np.int64)


def test_a_film_has_its_name_when_it_is_whole(tmp_path):
    seen: set[str] = set()

    def look():
        seen.update(path.name for path in tmp_path.iterdir())

    mp4, gif = record_episode(ENV, push_right, 0, tmp_path / "film", None, look)
    assert seen == {"film.partial.mp4"}
    assert {path.name for path in tmp_path.iterdir()} == {mp4.name, gif.name}
    frames = imageio.mimread(gif)
    assert len(frames) >= 3
    assert frames[0].std() > 5


def test_a_film_that_is_stopped_leaves_the_one_before(tmp_path):
    record_episode(ENV, push_right, 0, tmp_path / "film", None, lambda: None)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def stop():
        raise Stopped(2)

    with pytest.raises(Stopped):
        record_episode(ENV, push_right, 1, tmp_path / "film", None, stop)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
