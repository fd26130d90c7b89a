"""Atari: what a network sees of a game, and what ends an episode."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from dqn_runner.config.messages import checked
from dqn_runner.envs.atari import Atari, AtariSpec
from dqn_runner.envs.images import Shrinker
from dqn_runner.envs.make import make_env, make_player
from dqn_runner.envs.vector import NEXT_LIFE, Environments
from dqn_runner.errors import ConfigError

pytest.importorskip("ale_py")


def atari(**settings: Any) -> AtariSpec:
    return AtariSpec.model_validate({"game": "breakout", "frame_stack": 4, **settings})


def environments(spec: AtariSpec, seed: int = 0) -> Environments:
    make = functools.partial(make_player, spec, training=True)
    return Environments(make, 1, np.random.default_rng(seed))


def screens_of(actions: list[int], **settings: Any) -> tuple[list[np.ndarray], float]:
    """What ALE alone shows after each action: by hand, the last two of four frames."""
    import ale_py
    from ale_py import roms

    ale: Any = ale_py.ALEInterface()
    ale.setLoggerMode(ale_py.LoggerMode.Error)
    ale.setFloat("repeat_action_probability", 0.25)
    _, seed = np.random.SeedSequence(7).generate_state(n_words=2)
    ale.setInt("random_seed", np.int32(seed))
    ale.loadROM(roms.get_rom_path("breakout"))
    ale.reset_game()
    shown, reward = [ale.getScreenGrayscale()], 0.0
    for action in actions:
        frames = []
        for _ in range(4):
            reward += ale.act(ale.getMinimalActionSet()[action])
            frames.append(ale.getScreenGrayscale())
        shown.append(np.maximum(frames[-1], frames[-2]))
    return shown, reward


def shrunk_by_repetition(image: np.ndarray) -> np.ndarray:
    """210x160 as 84x84: each pixel twice by 21 times, then the mean of blocks of 5 by 40."""
    large = image.astype(np.float64).repeat(2, axis=0).repeat(21, axis=1)
    return large.reshape(84, 5, 84, 40).mean(axis=(1, 3))


def test_each_new_pixel_is_the_mean_of_its_area():
    image = np.random.default_rng(0).integers(0, 256, (210, 160)).astype(np.uint8)
    shrunk = Shrinker((210, 160), 84, 84)(image)
    assert shrunk.dtype == np.uint8
    assert np.abs(shrunk - shrunk_by_repetition(image)).max() <= 0.5001
    assert (Shrinker((210, 160), 84, 84)(np.full((210, 160), 255, np.uint8)) == 255).all()


def test_screens_and_rewards_are_those_of_the_emulator():
    spec = atari()
    env = make_env(spec)
    obs, _ = env.reset(seed=7)
    actions = np.random.default_rng(1).integers(0, 4, 60).tolist()
    expected, total = screens_of(actions)
    seen, reward = [obs], 0.0
    for action in actions:
        obs, gained, terminated, truncated, _ = env.step(action)
        assert (terminated, truncated) == (False, False)
        reward += float(gained)
        seen.append(obs)
    assert reward == total
    assert len({screen.tobytes() for screen in seen}) > 30
    for ours, theirs in zip(seen, expected, strict=True):
        assert ours.shape == (84, 84)
        assert np.abs(ours - shrunk_by_repetition(theirs)).max() <= 0.5001


def test_an_episode_follows_from_its_seed_and_its_actions():
    """Also in an environment that has played before, and with idle steps drawn at the start."""
    env = make_env(atari(sticky_actions=0.5, noop_max=30))
    played = []
    for seed in (3, 4, 3):
        observations = [env.reset(seed=seed)[0]]
        observations += [env.step(t % 4)[0] for t in range(40)]
        played.append(np.stack(observations))
    assert np.array_equal(played[0], played[2])
    assert not np.array_equal(played[0], played[1])


def test_an_episode_is_truncated_after_its_frames():
    env = make_env(atari(game="pong", max_frames=100))
    env.reset(seed=0)
    ends = [env.step(0)[2:4] for _ in range(25)]
    assert ends == [(False, False)] * 24 + [(False, True)]


def test_presets_set_what_is_null_and_nothing_else():
    assert (atari().sticky_actions, atari().noop_max) == (0.25, 0)
    old = atari(preset="dqn_2015", sticky_actions=0.1, noop_max=None)
    assert (old.sticky_actions, old.noop_max, old.terminal_on_life_loss) == (0.1, 30, True)
    assert AtariSpec.model_validate(old.model_dump()) == old
    assert (old.id, old.frames_per_step) == ("ALE/Breakout-v5", 4)


def lose_a_life(envs: Environments) -> None:
    """Fire, and stand still until the ball is lost."""
    for action in [1] * 3 + [0] * 300:
        step = envs.step([action])
        if step.episodes:
            assert step.terminated == [True]
            return
    raise AssertionError("no life was lost")


def test_a_lost_life_ends_an_episode_of_training_and_not_the_game():
    envs = environments(atari(terminal_on_life_loss=True))
    (player,) = envs._players
    seed = player.seed
    lose_a_life(envs)
    assert player.seed == seed  # the same game
    lives = player._env.unwrapped.ale.lives()  # type: ignore[union-attr]
    assert lives == 4
    assert (envs.obs[0] == envs.obs[0, -1]).all()  # the first frame fills the stack
    # The game is what is replayed.
    lose_a_life(envs)
    envs.step([1])
    state = envs.get_state()
    assert state["actions"][0].tolist().count(NEXT_LIFE) == 2
    other = environments(atari(terminal_on_life_loss=True), seed=9)
    assert other.set_state(state) == []
    assert np.array_equal(other.obs, envs.obs)
    for action in (0, 2, 3, 1):
        ours, theirs = envs.step([action]), other.step([action])
        assert np.array_equal(ours.next_obs, theirs.next_obs)


def test_a_replay_that_ends_elsewhere_starts_anew():
    envs = environments(atari(terminal_on_life_loss=True))
    lose_a_life(envs)
    state = envs.get_state()
    state["actions"][0] = state["actions"][0][20:]  # the life is not lost at the same step
    other = environments(atari(terminal_on_life_loss=True), seed=9)
    assert other.set_state(state) == [0]


def test_in_an_evaluation_all_lives_are_one_episode():
    env = make_env(atari(terminal_on_life_loss=True))
    assert isinstance(env, Atari)
    env.reset(seed=0)
    ended = [env.step(action)[2] for action in [1] * 3 + [0] * 60]
    assert not any(ended)
    assert env.unwrapped.ale.lives() == 4  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"game": "pongg"}, "env.game=pongg: no such game; did you mean pong"),
        ({"game": "MsPacman"}, "env.game=MsPacman: no such game; did you mean ms_pacman"),
        ({"game": "zzz"}, "env.game=zzz: no such game; adventure, air_raid"),
        ({"kwargs": {"frameskip": 4}}, "env.kwargs.frameskip=4: env=atari sets it"),
    ],
)
def test_what_cannot_be_made_is_a_line(settings, line):
    with pytest.raises(ConfigError) as caught:
        make_env(atari(**settings))
    assert str(caught.value).startswith(line)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"frame_stack": 0}, "env.frame_stack=0: must be greater than 0"),
        ({"id": "ALE/Pong-v5"}, "env.id=ALE/Pong-v5: env=atari takes env.game instead of an id"),
        ({"preset": "old"}, "env.preset=old: must be 'machado_2018' or 'dqn_2015'"),
        ({"noop_max": True}, "env.noop_max=True: must not be true or false"),
    ],
)
def test_settings_that_cannot_be_are_a_line(settings, line):
    with pytest.raises(ConfigError) as caught:
        checked(AtariSpec, {"game": "breakout", **settings}, "env")
    assert str(caught.value) == line
