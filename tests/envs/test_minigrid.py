"""MiniGrid: the image as planes, and parts of a Dict."""

from __future__ import annotations

import numpy as np
import pytest

from dqn_runner.envs.make import EnvSpec, make_env, obs_encoder, obs_spec_of
from dqn_runner.errors import ConfigError

pytest.importorskip("minigrid")

EMPTY = "MiniGrid-Empty-5x5-v0"


def planes_of(env_id):
    return EnvSpec(id=env_id, wrappers=["dqn_runner.envs.minigrid:Planes"])


@pytest.mark.parametrize("env_id", [EMPTY, "MiniGrid-DoorKey-6x6-v0"])
def test_planes_are_those_of_minigrids_own_wrapper(env_id):
    """Theirs has three planes for states where ours has a fourth, for the agent's direction."""
    from minigrid.wrappers import OneHotPartialObsWrapper

    spec = planes_of(env_id)
    env = make_env(spec)
    assert obs_spec_of(spec, env).dtype == np.bool_
    theirs = OneHotPartialObsWrapper(make_env(EnvSpec(id=env_id, observation_keys=["image"])))
    ours, expected = env.reset(seed=3)[0], theirs.reset(seed=3)[0]
    for action in (2, 1, 2, 2, 0, 3, 5):
        assert np.array_equal(ours[..., :20], expected["image"].astype(bool))
        assert not ours[..., 20:].any()
        ours, expected = env.step(action)[0], theirs.step(action)[0]


def test_parts_by_name():
    spec = EnvSpec(id=EMPTY, observation_keys=["direction", "image"])
    env = make_env(spec)
    assert obs_spec_of(spec, env).shape == (4 + 7 * 7 * 3,)
    obs, _ = env.reset(seed=0)
    row = obs_encoder(spec, env).batch([obs])[0]
    assert row[:4].tolist() == np.eye(4)[obs["direction"]].tolist()
    assert np.array_equal(row[4:], obs["image"].ravel())
    alone = EnvSpec(id=EMPTY, observation_keys=["image"])
    assert obs_spec_of(alone, env).shape == (7, 7, 3)
    assert obs_spec_of(alone, env).dtype == np.uint8


def test_keys_are_asked_for():
    with pytest.raises(ConfigError, match=r"Dict of direction, image, mission; .*\[direction,ima"):
        make_env(EnvSpec(id=EMPTY))
    with pytest.raises(ConfigError, match=r"^env.observation_keys=\[mission\]: mission is Mission"):
        make_env(EnvSpec(id=EMPTY, observation_keys=["mission"]))
    with pytest.raises(ConfigError, match=r"^env.wrappers\[0\]=.*must wrap .* of MiniGrid"):
        make_env(planes_of("CartPole-v1"))
