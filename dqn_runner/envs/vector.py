"""N environments, stepped together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from dqn_runner.envs.episode import EpisodePlayer
from dqn_runner.envs.processes import PlayerProcess
from dqn_runner.errors import EnvironmentFailedError
from dqn_runner.seeding import draw_seed
from dqn_runner.types import Array, EnvStep, Episode

NEXT_LIFE = -1  # among the actions of a game: here a life was lost, and the next one began


class Environments:
    """N copies of an environment, stepped together and restarted as episodes end.

    Each episode starts from its own seed, drawn from `rng`, and can be replayed from that seed and
    its actions. Where each life of a game is an episode, they share the game's seed, and it is the
    game that can be replayed. `obs` [N, *obs_shape] are the observations to act on next, each of
    which `obs_spec` describes. Raises EnvironmentFailedError as EpisodePlayer does.
    """

    def __init__(
        self,
        make_player: Callable[[str], EpisodePlayer | PlayerProcess],
        num_envs: int,
        rng: np.random.Generator,
    ) -> None:
        self._players = [make_player(f"environment {i}") for i in range(num_envs)]
        self.rng = rng
        self._actions: list[list[int]] = [[] for _ in range(num_envs)]  # of the current games
        self._returns = [0.0] * num_envs
        self.obs_spec = self._players[0].obs_spec
        self.obs = np.zeros((num_envs, *self.obs_spec.shape), self.obs_spec.dtype)
        for i in range(num_envs):
            self._start_episode(i, draw_seed(rng), self.obs)

    def _start_episode(self, i: int, seed: int, obs: Array) -> None:
        self._actions[i], self._returns[i] = [], 0.0
        self._players[i].reset(seed, obs[i])

    @property
    def action_mask(self) -> Array | None:
        """The actions [N, A] that are allowed at `obs`; None if all always are."""
        # As long as one has none, none has: this is asked at each step.
        return None if self._players[0].action_mask is None else stacked_masks(self._players)

    def _start_life(self, i: int, obs: Array) -> None:
        self._actions[i].append(NEXT_LIFE)
        self._returns[i] = 0.0
        self._players[i].reset(self._players[i].seed, obs[i], next_life=True)

    def begin(self, action: list[int]) -> None:
        """Begin the next step in environments that have processes; `step` must follow."""
        for player, its_action in zip(self._players, action, strict=True):
            if not isinstance(player, PlayerProcess):
                return
            player.begin(its_action)

    def step(self, action: list[int]) -> EnvStep:
        """Take `action` [N], one in each environment; `obs` then holds what to act on next."""
        rewards: list[float] = []
        terminated: list[bool] = []
        truncated: list[bool] = []
        ended: list[int] = []
        self.begin(action)
        obs, next_obs = self.obs, np.empty_like(self.obs)
        for i in range(len(self._players)):
            reward, is_terminated, is_truncated = self._step_one(i, action[i], next_obs[i])
            rewards.append(reward)
            terminated.append(is_terminated)
            truncated.append(is_truncated)
            if is_terminated or is_truncated:
                ended.append(i)
        next_mask = self.action_mask
        episodes = [Episode(self._returns[i], self._players[i].steps) for i in ended]
        self.obs = next_obs.copy() if ended else next_obs
        for i in ended:
            if self._players[i].goes_on:
                self._start_life(i, self.obs)
            else:
                self._start_episode(i, draw_seed(self.rng), self.obs)
        return EnvStep(obs, action, rewards, terminated, truncated, next_obs, episodes, next_mask)

    def _step_one(self, i: int, action: int, next_obs: Array) -> tuple[float, bool, bool]:
        """Step environment `i` and write its observation into `next_obs` [*obs_shape]."""
        reward, terminated, truncated = self._players[i].step(action, next_obs)
        self._actions[i].append(action)
        self._returns[i] += reward
        return reward, terminated, truncated

    def get_state(self) -> dict[str, Any]:
        """The current games as seeds and actions: environments themselves cannot be saved."""
        return {
            "seeds": [player.seed for player in self._players],
            "actions": [torch.tensor(actions, dtype=torch.int64) for actions in self._actions],
            "returns": list(self._returns),
            "obs": torch.from_numpy(self.obs.copy()),
        }

    def set_state(self, state: dict[str, Any]) -> list[int]:
        """Replay the games that were current when `state` was taken.

        Returns the environments whose replay gave something else, because they are not
        deterministic; these start a new episode.
        """
        self.obs = np.zeros_like(self.obs)
        restarted = []
        for i, (seed, actions) in enumerate(zip(state["seeds"], state["actions"], strict=True)):
            try:
                self._replay(i, seed, actions.tolist())
            except EnvironmentFailedError:
                restarted.append(i)
            else:
                same_obs = np.array_equal(self.obs[i], state["obs"][i].numpy())
                if not same_obs or self._returns[i] != state["returns"][i]:
                    restarted.append(i)
        for i in restarted:
            self._start_episode(i, draw_seed(self.rng), self.obs)
        return restarted

    def _replay(self, i: int, seed: int, actions: list[int]) -> None:
        self._start_episode(i, seed, self.obs)
        ended = False
        for action in actions:
            if ended != (action == NEXT_LIFE):
                break
            if ended:
                self._start_life(i, self.obs)
                ended = False
            else:
                _, terminated, truncated = self._step_one(i, action, self.obs[i])
                ended = terminated or truncated
        else:
            if not ended:
                return
        raise self._players[i].failure("replay: it ended at another step")

    def close(self) -> None:
        """Close all environments."""
        for player in self._players:
            if isinstance(player, PlayerProcess):
                player.let_go()
        for player in self._players:
            player.close()


def stacked_masks(players: Sequence[EpisodePlayer | PlayerProcess]) -> Array | None:
    """The actions [N, A] that are allowed in each of N environments; None if all always are."""
    masks = [player.action_mask for player in players if player.action_mask is not None]
    return np.stack(masks) if masks else None
