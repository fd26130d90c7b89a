"""n-step transitions against whole episode records."""

import numpy as np
import pytest
from rollouts import episodes_of, random_rollout

from dqn_runner.buffers.n_step import NStepAssembler
from dqn_runner.types import EnvStep


def by_brute_force(steps, i, n_step, gamma):
    """Every n-step transition of environment `i`, from its complete record."""
    result = []
    for episode in episodes_of(steps, i):
        for start in range(len(episode)):
            stop = min(start + n_step, len(episode))
            _, _, _, terminated, truncated, next_obs = episode[stop - 1]
            if stop - start < n_step and not (terminated or truncated):
                continue  # the rest of it has not happened yet
            reward = sum(gamma**k * episode[start + k][2] for k in range(stop - start))
            discount = gamma ** (stop - start) * (1 - terminated)
            result.append((episode[start][0], episode[start][1], reward, discount, next_obs))
    return result


@pytest.mark.parametrize("num_envs", [1, 2, 5])
@pytest.mark.parametrize("n_step", [1, 3, 5])
def test_n_step_transitions_equal_those_of_the_complete_episodes(n_step, num_envs):
    """Tails at ends, both kinds of end, and environments that end at different times."""
    for seed in range(5):
        steps = random_rollout(np.random.default_rng([seed, n_step]), num_envs, 80)
        assembler = NStepAssembler(n_step, 0.9, num_envs)
        transitions = [t for step in steps for t in assembler.transitions(step)]
        for i in range(num_envs):
            mine = [t for t in transitions if t.obs[0] == i]
            expected = by_brute_force(steps, i, n_step, 0.9)
            assert len(mine) == len(expected)
            for transition, (obs, action, reward, discount, next_obs) in zip(
                mine, expected, strict=True
            ):
                assert np.array_equal(transition.obs, obs)
                assert transition.action == action
                assert transition.reward == pytest.approx(reward, abs=1e-12)
                assert transition.discount == pytest.approx(discount, abs=1e-12)
                assert np.array_equal(transition.next_obs, next_obs)


def one_env_step(t, reward, terminated=False, truncated=False):
    return EnvStep(
        np.array([[t]]),
        [0],
        [reward],
        [terminated],
        [truncated],
        np.array([[t + 1]]),
        [],
    )


@pytest.mark.parametrize(
    ("ends", "last_discounts"),
    [
        ({"terminated": True}, [0.0, 0.0, 0.0]),
        ({"truncated": True}, [0.125, 0.25, 0.5]),
        ({"terminated": True, "truncated": True}, [0.0, 0.0, 0.0]),
    ],
)
def test_the_tail_of_an_episode_worked_out_by_hand(ends, last_discounts):
    """Rewards 1, 2, 4, 8 with γ = 1/2 and n = 3."""
    assembler = NStepAssembler(3, 0.5, 1)
    assert list(assembler.transitions(one_env_step(0, 1.0))) == []
    assert list(assembler.transitions(one_env_step(1, 2.0))) == []
    (first,) = assembler.transitions(one_env_step(2, 4.0))
    assert (first.obs[0], first.reward, first.discount, first.next_obs[0]) == (0, 3.0, 0.125, 3)
    tail = list(assembler.transitions(one_env_step(3, 8.0, **ends)))
    assert [t.obs[0] for t in tail] == [1, 2, 3]
    assert [t.reward for t in tail] == [6.0, 8.0, 8.0]
    assert [t.discount for t in tail] == last_discounts
    assert [t.next_obs[0] for t in tail] == [4, 4, 4]
    assert list(assembler.transitions(one_env_step(10, 1.0))) == []
