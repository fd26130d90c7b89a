"""The batched evaluator against a plain loop over one environment."""

import gymnasium as gym
import numpy as np
import pytest
from building import players
from gymnasium.spaces import Box, Discrete

from dqn_runner.errors import RunFailedError
from dqn_runner.training.evaluation import MAX_ENVIRONMENTS, Evaluation, Evaluator

SEEDS = np.random.default_rng(0).integers(2**31, size=120).tolist()


def leaning(obs, mask=None):
    """Push the cart to where the pole leans: falls after some forty steps."""
    return (obs[:, 2] > 0).astype(np.int64)


def make_cartpole():
    return gym.make("CartPole-v1")


@pytest.fixture(scope="module")
def plain_returns():
    """The return of one episode from each seed, in one environment, one after the other."""
    env = make_cartpole()
    returns = []
    for seed in SEEDS:
        obs, _ = env.reset(seed=seed)
        episode_return, ended = 0.0, False
        while not ended:
            action = 1 if obs[2] > 0 else 0
            obs, reward, terminated, truncated, _ = env.step(action)
            episode_return += reward
            ended = terminated or truncated
        returns.append(episode_return)
    env.close()
    assert len(set(returns)) > 10
    return returns


@pytest.mark.parametrize("episodes", [1, 7, 120])
def test_returns_are_those_of_a_plain_loop_in_the_order_of_the_seeds(episodes, plain_returns):
    evaluator = Evaluator(players(make_cartpole))
    evaluation = evaluator.evaluate(leaning, SEEDS[:episodes])
    assert list(evaluation.returns) == plain_returns[:episodes]
    evaluator.close()


def test_an_evaluator_used_again_starts_afresh(plain_returns):
    """More environments than episodes, fewer, and after a close; nothing is left over."""
    evaluator = Evaluator(players(make_cartpole))
    for first, last in [(0, 7), (7, 8), (8, 90), (90, 95)]:
        evaluation = evaluator.evaluate(leaning, SEEDS[first:last])
        assert list(evaluation.returns) == plain_returns[first:last]
    evaluator.close()
    assert list(evaluator.evaluate(leaning, SEEDS[:2]).returns) == plain_returns[:2]
    evaluator.close()


def test_no_more_environments_are_made_than_are_used():
    made = []

    def make():
        made.append(make_cartpole())
        return made[-1]

    evaluator = Evaluator(players(make))
    assert made == []
    evaluator.evaluate(leaning, SEEDS[:3])
    assert len(made) == 3
    evaluator.evaluate(leaning, SEEDS)
    assert len(made) == MAX_ENVIRONMENTS < 120
    evaluator.close()


def test_the_policy_sees_running_episodes_only():
    """As episodes end the batch shrinks: every row it was shown counts as one step of reward."""
    rows = []

    def policy(obs, mask=None):
        rows.append(len(obs))
        return leaning(obs)

    evaluator = Evaluator(players(make_cartpole))
    evaluation = evaluator.evaluate(policy, SEEDS[:10])
    assert rows[0] == 10
    assert rows == sorted(rows, reverse=True)
    assert sum(rows) == sum(evaluation.returns)
    evaluator.close()


def test_check_stop_may_raise_and_the_next_evaluation_is_whole(plain_returns):
    class StopHere(BaseException):
        pass

    calls: list[None] = []

    def check_stop():
        calls.append(None)
        if len(calls) == 300:
            raise StopHere

    evaluator = Evaluator(players(make_cartpole))
    with pytest.raises(StopHere):
        evaluator.evaluate(leaning, SEEDS, check_stop)
    assert len(calls) == 300
    assert list(evaluator.evaluate(leaning, SEEDS).returns) == plain_returns
    evaluator.close()


class OddSpaces(gym.Env):
    """Pays the observed action number until it has been taken `length` times; numbers start at 5.

    Observations are Discrete from 10 on; episodes are truncated, not terminated.
    """

    observation_space = Discrete(4, start=10)
    action_space = Discrete(3, start=5)

    def reset(self, *, seed=None, options=None):
        self._length, self._steps = seed % 4 + 1, 0
        return 10, {}

    def step(self, action):
        self._steps += 1
        return 10 + self._steps % 4, float(action), False, self._steps == self._length, {}


def test_actions_and_observations_are_translated_for_the_environment():
    """One-hot rows say how far an episode is; action a of the policy is number 5 + a."""

    def policy(obs, mask=None):
        return np.minimum(obs.argmax(axis=1), 2)

    evaluation = Evaluator(players(OddSpaces)).evaluate(policy, [0, 1, 2, 3, 7, 4])
    by_length = {length: sum(5 + min(k, 2) for k in range(length)) for length in (1, 2, 3, 4)}
    assert evaluation.returns == tuple(by_length[n] for n in (1, 2, 3, 4, 4, 1))


def test_pixels_reach_the_policy_as_bytes():
    class Pixels(gym.Env):
        observation_space = Box(0, 255, (2, 3), np.uint8)
        action_space = Discrete(2)

        def reset(self, *, seed=None, options=None):
            return np.full((2, 3), seed, np.uint8), {}

        def step(self, action):
            return np.zeros((2, 3), np.uint8), float(action), True, False, {}

    seen = []

    def policy(obs, mask=None):
        seen.append(obs.copy())
        return np.ones(len(obs), np.int64)

    assert Evaluator(players(Pixels)).evaluate(policy, [3, 200]).returns == (1.0, 1.0)
    (obs,) = seen
    assert obs.dtype == np.uint8
    assert obs[:, 0, 0].tolist() == [3, 200]


def test_summary_is_numpys_statistics():
    returns = np.random.default_rng(1).normal(50, 20, size=37)
    summary = Evaluation(tuple(returns.tolist())).summary()
    assert summary == pytest.approx(
        {
            "mean": returns.mean(),
            "std": returns.std(ddof=0),
            "min": returns.min(),
            "max": returns.max(),
            "episodes": 37,
        }
    )


def test_summary_of_a_single_episode_has_no_spread():
    summary = Evaluation((12.0,)).summary()
    assert summary == {"mean": 12.0, "std": 0.0, "min": 12.0, "max": 12.0, "episodes": 1}


class Endless(gym.Env):
    """Pays k at step k, and ends by itself after as many steps as its seed says."""

    observation_space = Box(-1, 1, (1,), np.float32)
    action_space = Discrete(2)

    def reset(self, *, seed=None, options=None):
        self._length, self._steps = seed, 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self._steps += 1
        ended = self._steps == self._length
        return np.zeros(1, np.float32), float(self._steps), ended, False, {}


def always_right(obs, mask=None):
    return np.ones(len(obs), np.int64)


def test_an_episode_over_the_limit_counts_with_its_return_so_far_and_is_told_of_once(caplog):
    lengths = [10**9, 3, 10**9, 4, 5]
    evaluator = Evaluator(players(Endless, max_episode_steps=4))
    for _ in range(2):
        evaluation = evaluator.evaluate(always_right, lengths)
        assert evaluation.returns == tuple(sum(range(min(n, 4) + 1)) for n in lengths)
    (line,) = caplog.messages
    assert line.startswith("eval.max_episode_steps=4: an evaluation episode was still going on")


def test_an_episode_that_ends_at_the_limit_by_itself_is_not_told_of(caplog):
    assert Evaluator(players(Endless, max_episode_steps=4)).evaluate(always_right, [4]).returns == (
        10.0,
    )
    assert caplog.messages == []


@pytest.mark.parametrize("what", ["an observation that is not finite", "SystemExit: 0"])
def test_what_fails_names_the_evaluation_and_the_episode(what):
    class Failing(Endless):
        def step(self, action):
            result = super().step(action)
            if (self._length, self._steps) != (7, 2):
                return result
            if what.startswith("SystemExit"):
                raise SystemExit(0)
            return np.full(1, np.nan, np.float32), *result[1:]

    with pytest.raises(RunFailedError) as how:
        Evaluator(players(Failing)).evaluate(always_right, [9, 7, 8])
    assert str(how.value).startswith(
        "an evaluation failed: environment 1 failed at step 1 of the episode with seed 7, in step: "
    )
    assert str(how.value).endswith(what)
