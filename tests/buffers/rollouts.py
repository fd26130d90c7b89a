"""Records of random environments, to assemble transitions from."""

from typing import Any

import numpy as np

from dqn_runner.types import EnvStep


def random_rollout(rng, num_envs, length):
    """Steps of environments in which no two observations are equal, ends and finals included.

    An observation is (environment, step, 0), or (environment, step, 1) if it is a final one.
    """
    end_probability = np.linspace(0.05, 0.5, num_envs)  # some rarely end, some nearly always
    steps = []
    for t in range(length):
        terminated = rng.random(num_envs) < end_probability / 2
        truncated = rng.random(num_envs) < end_probability / 2
        obs = np.array([[i, t, 0] for i in range(num_envs)], np.float32)
        ended = terminated | truncated
        next_obs = np.array([[i, t + 1, int(ended[i])] for i in range(num_envs)], np.float32)
        action = rng.integers(4, size=num_envs)
        reward = rng.normal(size=num_envs)
        steps.append(
            EnvStep(
                obs,
                action.tolist(),
                reward.tolist(),
                terminated.tolist(),
                truncated.tolist(),
                next_obs,
                [],
            )
        )
    return steps


def episodes_of(steps, i):
    """The record of environment `i`, cut into episodes; the last may be unfinished."""
    episodes: list[list[list[Any]]] = [[]]
    for step in steps:
        one = [column[i] for column in step[:6]]
        episodes[-1].append(one)
        if step.terminated[i] or step.truncated[i]:
            episodes.append([])
    return episodes
