"""Evaluation: whole episodes of a policy, in environments and from seeds of its own."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dqn_runner.envs.episode import EpisodePlayer
from dqn_runner.envs.vector import stacked_masks
from dqn_runner.errors import DQNRunnerError, RunFailedError, in_a_line, named
from dqn_runner.types import Policy

logger = logging.getLogger(__name__)

MAX_ENVIRONMENTS = 50


class Evaluation(NamedTuple):
    """The undiscounted returns of evaluation episodes, in the order of their seeds."""

    returns: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean."""
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
        """The summary under the names of the metrics."""
        summary = self.summary()
        names = ("mean", "std", "min", "max")
        return {f"eval/episode_return_{name}": summary[name] for name in names}


def never_stop() -> None:
    """A `check_stop` that never raises."""


class Evaluator:
    """Plays episodes side by side, one batched call of the policy for all that still run.

    The first time that the limit of a player ends an episode, a warning says so.
    """

    def __init__(self, make_player: Callable[[str], EpisodePlayer]) -> None:
        self._make_player, self._has_cut = make_player, False
        self._players: list[EpisodePlayer] = []
        self.episodes = 0  # finished, in all evaluations

    def evaluate(
        self,
        policy: Policy,
        seeds: Sequence[int],
        check_stop: Callable[[], None] = never_stop,
    ) -> Evaluation:
        """Play one episode from each seed; `check_stop` may raise between steps.

        Raises RunFailedError if an environment or the policy fails.
        """
        try:
            returns = self._play(policy, seeds, check_stop)
        except Exception as error:
            reason = in_a_line(error) if isinstance(error, DQNRunnerError) else named(error)
            raise RunFailedError(f"an evaluation failed: {reason}") from error
        return Evaluation(tuple(returns))

    def _play(
        self, policy: Policy, seeds: Sequence[int], check_stop: Callable[[], None]
    ) -> list[float]:
        self._make_environments(min(len(seeds), MAX_ENVIRONMENTS), check_stop)
        spec = self._players[0].obs_spec
        returns = [0.0] * len(seeds)
        waiting = iter(range(len(seeds)))
        obs = np.zeros((len(self._players), *spec.shape), spec.dtype)
        playing: dict[int, int] = {}  # environment -> episode

        def start_next(i: int) -> None:
            episode = next(waiting, None)
            if episode is None:
                playing.pop(i, None)
                return
            self._players[i].reset(seeds[episode], obs[i])
            playing[i] = episode

        for i in range(len(self._players)):
            check_stop()
            start_next(i)
        while playing:
            rows = list(playing)
            masks = stacked_masks([self._players[i] for i in rows])
            for i, action in zip(rows, policy(obs[rows], masks).tolist(), strict=True):
                check_stop()
                reward, terminated, truncated = self._players[i].step(action, obs[i])
                returns[playing[i]] += reward
                if terminated or truncated:
                    self._warn_of_cut(i)
                    self.episodes += 1
                    start_next(i)
        return returns

    def _make_environments(self, wanted: int, check_stop: Callable[[], None]) -> None:
        """Make as many environments as are wanted, if there are fewer."""
        for i in range(len(self._players), wanted):
            check_stop()
            self._players.append(self._make_player(f"environment {i}"))

    def _warn_of_cut(self, i: int) -> None:
        if self._players[i].is_cut and not self._has_cut:
            self._has_cut = True
            logger.warning(
                "eval.max_episode_steps=%d: an evaluation episode was still going on then, and was "
                "ended; its return so far counts",
                self._players[i].steps,
            )

    def close(self) -> None:
        """Close the environments."""
        for player in self._players:
            player.close()
        self._players.clear()
