"""MinAtar: episodes that depend on their seed alone, limits, action sets, pictures."""

from __future__ import annotations

import numpy as np
import pytest

from dqn_runner.envs.make import EnvSpec, make_env, obs_spec_of
from dqn_runner.errors import ConfigError

pytest.importorskip("minatar")

GAMES = {"Asterix": 5, "Breakout": 3, "Freeway": 3, "Seaquest": 6, "SpaceInvaders": 4}


def played(env, seed, actions):
    """The observations and rewards of an episode, until it ends."""
    shown = [env.reset(seed=seed)[0]]
    rewards = []
    for action in actions:
        obs, reward, terminated, truncated, _ = env.step(action)
        shown.append(obs)
        rewards.append(reward)
        if terminated or truncated:
            break
    return np.stack(shown), rewards


@pytest.mark.parametrize("game", GAMES)
def test_an_episode_follows_from_its_seed_and_its_actions(game):
    """Whatever was played before: MinAtar would begin with the last action of that."""
    env = make_env(EnvSpec(id=f"MinAtar/{game}-v1"))
    draw = np.random.default_rng(0)
    episodes = [(seed, draw.integers(0, GAMES[game], 200)) for seed in range(12)]
    first = [played(env, *episode) for episode in episodes]
    for episode, (obs, rewards) in reversed(list(zip(episodes, first, strict=True))):
        again = played(env, *episode)
        assert np.array_equal(again[0], obs)
        assert again[1] == rewards


@pytest.mark.parametrize("prefix", ["", "minatar:"])
@pytest.mark.parametrize("game", GAMES)
def test_v1_has_the_actions_of_the_game_and_v0_all_six(game, prefix):
    for version, actions in (("v0", 6), ("v1", GAMES[game])):
        env = make_env(EnvSpec(id=f"{prefix}MinAtar/{game}-{version}"))
        assert env.action_space.n == actions  # type: ignore[attr-defined]
        spec = obs_spec_of(EnvSpec(id="x"), env)
        assert spec.dtype == np.bool_
        assert spec.shape[:2] == (10, 10)
        assert env.unwrapped.game.sticky_action_prob == 0.1  # type: ignore[attr-defined]
        assert getattr(env.unwrapped.game.env, "ramping", True)  # type: ignore[attr-defined]


def test_the_limit_truncates():
    env = make_env(EnvSpec(id="MinAtar/Freeway-v1", kwargs={"max_episode_steps": 7}))
    env.reset(seed=0)
    assert [env.step(0)[2:4] for _ in range(7)] == [(False, False)] * 6 + [(False, True)]


def test_a_picture_has_a_color_for_each_plane():
    env = make_env(EnvSpec(id="MinAtar/Breakout-v1"), render_mode="rgb_array")
    env.reset(seed=0)
    obs = [env.step(0)[0] for _ in range(3)][-1]
    picture = np.asarray(env.render())
    assert picture.shape == (160, 160, 3)
    assert picture.dtype == np.uint8
    cells = picture[::16, ::16]
    assert (cells[~obs.any(axis=2)] == 0).all()
    shown = {4 - plane for plane in obs[..., ::-1].argmax(axis=2)[obs.any(axis=2)]}
    assert len(shown) == 4
    assert len({tuple(cell) for cell in cells[obs.any(axis=2)].tolist()}) == 4


def test_an_unknown_game_is_a_line_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"env\.id=MinAtar/Brekout-v1: .*`Breakout`"):
        make_env(EnvSpec(id="MinAtar/Brekout-v1"))
