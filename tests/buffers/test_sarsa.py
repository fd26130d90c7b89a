"""SARSA's transitions against whole episode records."""

import numpy as np
import pytest
from rollouts import episodes_of, random_rollout

from dqn_runner.buffers.sarsa import SarsaAssembler
from dqn_runner.types import Transition


@pytest.mark.parametrize("num_envs", [1, 2, 5])
def test_sarsa_transitions_equal_those_of_the_complete_episodes(num_envs):
    """The next action is the next one of the episode, or one chosen at a truncated end."""

    def chosen_at(obs):
        return int(100 + 1000 * obs[0] + obs[1])

    truncations = 0
    for seed in range(5):
        steps = random_rollout(np.random.default_rng([seed, 9]), num_envs, 80)
        assembler = SarsaAssembler(0.9, num_envs)
        transitions: list[Transition] = []
        for step in steps:
            final_action = {
                i: chosen_at(step.next_obs[i])
                for i in range(num_envs)
                if step.truncated[i] and not step.terminated[i]
            }
            transitions += assembler.transitions(step, final_action)
        for i in range(num_envs):
            expected = []
            for episode in episodes_of(steps, i):
                for k, (obs, action, reward, terminated, truncated, next_obs) in enumerate(episode):
                    if terminated:
                        expected.append((obs, action, reward, 0.0, next_obs, None))
                    elif truncated:
                        truncations += 1
                        chosen = chosen_at(next_obs)
                        expected.append((obs, action, reward, 0.9, next_obs, chosen))
                    elif k + 1 < len(episode):
                        following = episode[k + 1][1]
                        expected.append((obs, action, reward, 0.9, next_obs, following))
            mine = [t for t in transitions if t.obs[0] == i]
            assert len(mine) == len(expected)
            for transition, (obs, action, reward, discount, next_obs, next_action) in zip(
                mine, expected, strict=True
            ):
                assert np.array_equal(transition.obs, obs)
                assert np.array_equal(transition.next_obs, next_obs)
                assert (transition.action, transition.reward) == (action, reward)
                assert transition.discount == discount
                # After a termination any action will do that a network has a value for.
                assert transition.next_action == (0 if next_action is None else next_action)
    assert truncations > 10
