"""Evaluation: whole episodes of a policy, in environments and from seeds of its own."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from dqn_runner.envs import Env, ObsEncoder, action_offset, limited
from dqn_runner.errors import RunError, named
from dqn_runner.types import Array

MAX_ENVIRONMENTS = 50


class Policy(Protocol):
    """Actions [N] for encoded observations [N, *obs_shape]."""

    def __call__(self, obs: Array, /) -> npt.NDArray[np.int64]: ...


class Evaluation(NamedTuple):
    """The undiscounted returns of evaluation episodes, in the order of their seeds."""

    returns: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.returns)

    def summary(self) -> dict[str, float]:
        """Mean, standard deviation (of the population), minimum, maximum, and how many."""
        return {
            "mean": self.mean,
            "std": statistics.pstdev(self.returns),
            "min": min(self.returns),
            "max": max(self.returns),
            "episodes": len(self.returns),
        }

    def metrics(self) -> dict[str, float]:
        """The returns under the names that metrics have."""
        summary = self.summary()
        names = ("mean", "std", "min", "max")
        return {f"eval/episode_return_{name}": summary[name] for name in names}


def never_stop() -> None:
    """The check of somebody who always waits until the end."""


class Evaluator:
    """Plays episodes side by side, one batched call of the policy for all that still run."""

    def __init__(self, make: Callable[[], Env], max_step_seconds: float | None = None) -> None:
        self._make, self._max_step_seconds = make, max_step_seconds
        self._envs: list[Env] = []
        self.episodes = 0  # finished, in all evaluations

    def evaluate(
        self,
        policy: Policy,
        seeds: Sequence[int],
        check_stop: Callable[[], None] = never_stop,
    ) -> Evaluation:
        """Play one episode from each seed; `check_stop` may raise between steps.

        Raises RunError where an environment raises or returns a reward that is not finite.
        """
        try:
            returns = self._play(policy, seeds, check_stop)
        except Exception as error:  # whatever an environment's own code raises
            raise RunError(f"an evaluation failed: {named(error)}") from error
        if not all(map(math.isfinite, returns)):
            raise RunError("an evaluation failed: the environment gave a reward that is not finite")
        return Evaluation(tuple(returns))

    def _play(
        self, policy: Policy, seeds: Sequence[int], check_stop: Callable[[], None]
    ) -> list[float]:
        while len(self._envs) < min(len(seeds), MAX_ENVIRONMENTS):
            self._envs.append(self._make())
        encoder = ObsEncoder(self._envs[0].observation_space)
        offset = action_offset(self._envs[0])
        returns = [0.0] * len(seeds)
        waiting = iter(range(len(seeds)))
        obs = np.zeros((len(self._envs), *encoder.spec.shape), encoder.spec.dtype)
        playing: dict[int, int] = {}  # environment -> episode

        def start_next(i: int) -> None:
            episode = next(waiting, None)
            if episode is None:
                playing.pop(i, None)
                return
            with limited(self._max_step_seconds):
                raw_obs, _ = self._envs[i].reset(seed=seeds[episode])
            encoder.write(raw_obs, obs[i])
            playing[i] = episode

        for i in range(len(self._envs)):
            start_next(i)
        while playing:
            check_stop()
            rows = list(playing)
            for i, action in zip(rows, policy(obs[rows]).tolist(), strict=True):
                with limited(self._max_step_seconds):
                    raw_obs, reward, terminated, truncated, _ = self._envs[i].step(action + offset)
                returns[playing[i]] += float(reward)
                encoder.write(raw_obs, obs[i])
                if terminated or truncated:
                    self.episodes += 1
                    start_next(i)
        return returns

    def close(self) -> None:
        for env in self._envs:
            env.close()
        self._envs.clear()
