"""One environment's episode: what is passed on, what no environment may do, and how it is named."""

from __future__ import annotations

import logging
import re
import signal
import sys

import gymnasium as gym
import numpy as np
import pytest
from building import players
from gymnasium.spaces import Box, Discrete

from dqn_runner.envs.encoding import ObsEncoder
from dqn_runner.envs.episode import EpisodePlayer, close
from dqn_runner.envs.vector import Environments
from dqn_runner.errors import EnvironmentFailedError, Stopped
from dqn_runner.training.evaluation import Evaluator
from dqn_runner.types import ObsSpec


class Scripted(gym.Env):
    """Answers `reset` and `step` with what it is told, and does what it is told before that."""

    def __init__(self, space, obs=None, reward=1.0, ended=(False, False), act=lambda: None):
        self.observation_space, self.action_space = space, Discrete(2)
        self.obs, self.reward, self.ended, self.act = obs, reward, ended, act

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        self.act()
        return self.obs, self.reward, *self.ended, {}

    def render(self):
        return self.act()

    def close(self):
        self.act()


def always_first(obs, action_mask=None):
    return np.zeros(len(obs), np.int64)


VECTOR = Box(-1, 1, (2,), np.float32)
FINE = np.zeros(2, np.float32)


def play(env):
    """One step of `env`; what came of it, with the row that the observation is written into."""
    player = EpisodePlayer(env)
    row = np.full(player.obs_spec.shape, 9.0, player.obs_spec.dtype)
    player.reset(3, row)
    return *player.step(0, row), row


@pytest.mark.parametrize(
    "reward",
    [2, 2.0, np.float64(2), np.array(2.0), np.array([2.0]), np.array([[2]], np.int32), True + 1],
    ids=repr,
)
def test_a_reward_is_any_number_or_array_with_one_element(reward):
    step = play(Scripted(VECTOR, FINE, reward, (np.bool_(True), np.array([False]))))
    assert step[:3] == (2.0, True, False)
    assert [type(value) for value in step[:3]] == [float, bool, bool]


@pytest.mark.parametrize("obs", [0.5, np.float32(0.5), np.array(0.5, np.float64)], ids=repr)
def test_a_box_without_dimensions_is_one_number(obs):
    space = Box(-1, 1, (), np.float32)
    assert ObsEncoder(space).spec == ObsSpec((1,), np.dtype(np.float32))
    assert play(Scripted(space, obs))[3].tolist() == [0.5]
    environments = Environments(players(lambda: Scripted(space, obs)), 2, np.random.default_rng(0))
    assert environments.step([0, 0]).next_obs.tolist() == [[0.5], [0.5]]
    evaluator = Evaluator(players(lambda: Scripted(space, obs, 3.0, (True, False))))
    assert evaluator.evaluate(always_first, [1]).returns == (3.0,)


@pytest.mark.parametrize(
    ("space", "obs", "saying"),
    [
        (Discrete(3, start=5), 4, "an observation of 4, not from 5 to 7"),
        (Discrete(3, start=5), 8, "an observation of 8, not from 5 to 7"),
        (Discrete(3, start=-2), -3, "an observation of -3, not from -2 to 0"),
        (Discrete(3), 1.5, "an observation of 1.5, not from 0 to 2"),
        (Discrete(3), np.array([3]), "an observation of [3], not from 0 to 2"),
        (Discrete(3), float("nan"), "cannot convert float NaN to integer"),
        (VECTOR, np.array([0, np.nan]), "an observation that is not finite"),
        (VECTOR, np.array([np.inf, 0]), "an observation that is not finite"),
        (VECTOR, np.array([1.0]), "an observation of shape (1,), not (2,)"),
        (Box(-1, 1, (), np.float32), np.array([1.0]), "an observation of shape (1,), not ()"),
        (VECTOR, np.array([np.inf, -np.inf]), "an observation that is not finite"),
        (Box(-1, 1, (2, 2), np.float32), np.diag([0, np.nan]), "an observation that is not finite"),
        (Box(-1, 1, (300,), np.float32), np.full(300, np.inf), "an observation that is not finite"),
    ],
)
def test_an_observation_that_no_environment_may_return_is_named(space, obs, saying):
    with pytest.raises(EnvironmentFailedError, match="at step 0 of the episode with seed 3") as how:
        play(Scripted(space, obs))
    assert str(how.value).endswith(saying)
    with pytest.raises(ValueError, match=f"^{re.escape(saying)}$"):
        ObsEncoder(space).batch([obs])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [2, 300])
def test_numbers_whose_sum_overflows_are_finite(size):
    obs = np.full(size, 3e38, np.float32)
    assert np.array_equal(play(Scripted(Box(-np.inf, np.inf, (size,), np.float32), obs))[3], obs)


def test_a_discrete_observation_may_be_any_whole_number_or_array_with_one_element():
    for obs in (6, 6.0, np.int64(6), np.array(6), np.array([6])):
        assert play(Scripted(Discrete(3, start=5), obs))[3].tolist() == [0, 1, 0]


@pytest.mark.parametrize("reward", [np.nan, np.inf, np.array([np.nan]), np.ones(2), "much", None])
def test_a_reward_that_is_no_finite_number_is_a_failure(reward):
    with pytest.raises(EnvironmentFailedError, match="in step: "):
        play(Scripted(VECTOR, FINE, reward))


class Odd(BaseException):
    """As a library in another language may raise."""


@pytest.mark.parametrize("error", [SystemExit(0), GeneratorExit(), Odd("odd"), StopIteration()])
@pytest.mark.parametrize("call", ["step", "render", "reset"])
def test_an_exit_is_a_failure_like_any_other(error, call, monkeypatch):
    def act():
        raise error

    env = Scripted(VECTOR, FINE, act=act)
    player, row = EpisodePlayer(env, "environment 7"), np.zeros(2, np.float32)
    if call == "reset":
        monkeypatch.setattr(env, "reset", lambda seed: act())
    else:
        player.reset(3, row)
    with pytest.raises(EnvironmentFailedError) as how:
        {"step": lambda: player.step(0, row), "render": player.render,
         "reset": lambda: player.reset(3, row)}[call]()  # fmt: skip
    assert str(how.value).startswith("environment 7 failed at step 0 of the episode with seed 3, ")
    assert f"in {call}: {type(error).__name__}" in str(how.value)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Stopped(signal.SIGTERM)])
def test_what_somebody_wants_is_no_failure(error):
    def act():
        raise error

    with pytest.raises(type(error)):
        play(Scripted(VECTOR, FINE, act=act))
    with pytest.raises(type(error)):
        close(Scripted(VECTOR, act=act))


def test_a_failure_in_close_is_a_warning(caplog):
    close(Scripted(VECTOR, act=lambda: sys.exit("when it was closed")))
    assert caplog.record_tuples == [
        ("dqn_runner.envs.episode", logging.WARNING,
         "an environment failed in close: SystemExit: when it was closed"),
    ]  # fmt: skip


@pytest.mark.parametrize("picture", [None, [], "a text", np.zeros((4, 4))])
def test_what_is_no_picture_is_a_failure(picture):
    player = EpisodePlayer(Scripted(VECTOR, FINE, act=lambda: picture))
    with pytest.raises(EnvironmentFailedError, match="in render: ValueError: no picture"):
        player.render()


def test_an_episode_is_cut_where_it_goes_on_after_its_limit():
    env = Scripted(VECTOR, FINE)
    player, row = EpisodePlayer(env, max_episode_steps=3), np.zeros(2, np.float32)
    for seed in (1, 2):
        player.reset(seed, row)
        seen = []
        for _ in range(3):
            _, terminated, truncated = player.step(0, row)
            seen.append((player.steps, terminated, truncated, player.is_cut))
        assert seen == [
            (1, False, False, False), (2, False, False, False), (3, False, True, True),
        ]  # fmt: skip
    for ended in ((True, False), (False, True)):
        env.ended = ended
        player.reset(3, row)
        player.step(0, row)
        player.step(0, row)
        assert player.step(0, row)[1:] == ended
        assert not player.is_cut


class Masking(Scripted):
    """Gives `masks`, one after the other, in its infos; None for an info without one."""

    def __init__(self, *masks, ended=(False, False)):
        super().__init__(VECTOR, FINE, ended=ended)
        self.infos = iter([{} if mask is None else {"action_mask": mask} for mask in masks])

    def reset(self, *, seed=None, options=None):
        return FINE, next(self.infos)

    def step(self, action):
        return *super().step(action)[:4], next(self.infos)


def allowed(player: EpisodePlayer) -> list[bool]:
    assert player.action_mask is not None
    return list(player.action_mask)


def test_the_allowed_actions_are_those_of_the_last_observation():
    player = EpisodePlayer(Masking([1, 0], np.array([0, 1], np.int8)), action_masks=True)
    player.reset(3, np.zeros(2, np.float32))
    assert allowed(player) == [True, False]
    player.step(0, np.zeros(2, np.float32))
    assert allowed(player) == [False, True]
    assert EpisodePlayer(Masking([1, 0])).action_mask is None


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (None, "no action_mask in info, which env.action_masks=true needs"),
        ([1, 1, 0], "an action_mask of shape (3,), not (2,)"),
        ([0, 0], "an action_mask that allows nothing"),
    ],
)
def test_a_mask_that_cannot_be_obeyed_is_a_failure(mask, reason):
    row = np.zeros(2, np.float32)
    with pytest.raises(EnvironmentFailedError, match=re.escape(f"in reset: ValueError: {reason}")):
        EpisodePlayer(Masking(mask), action_masks=True).reset(3, row)
    player = EpisodePlayer(Masking([1, 1], mask), action_masks=True)
    player.reset(3, row)
    with pytest.raises(EnvironmentFailedError, match=re.escape(f"in step: ValueError: {reason}")):
        player.step(0, row)


def test_after_a_termination_nothing_need_be_allowed():
    player = EpisodePlayer(Masking([1, 1], [0, 0], ended=(True, False)), action_masks=True)
    player.reset(3, np.zeros(2, np.float32))
    player.step(0, np.zeros(2, np.float32))
    assert allowed(player) == [True, True]  # a target hides it, and must not see -inf
