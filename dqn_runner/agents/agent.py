"""The DQN agent: acts by its action values, with ε at random, and learns from replay."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from dqn_runner.agents.policies import LearnedPolicy, make_policy
from dqn_runner.learning.learner import Learner
from dqn_runner.networks.flat import FlatNetwork
from dqn_runner.seeding import get_state, set_state
from dqn_runner.target_update import Hard, Soft, Unit
from dqn_runner.types import Array, Batch


class Agent:
    """Behaviour and learning around one Q-network.

    `policy` is what it has learned to do: it acts so, but for ε, and is evaluated so.
    """

    def __init__(
        self,
        network: FlatNetwork,
        num_actions: int,
        learner: Learner,
        target_update: Hard | Soft,
        rng: np.random.Generator,
        *,
        temperature: float | None = None,
    ) -> None:
        self.learner = learner
        self._network = network
        self._num_actions = num_actions
        self._target_update = target_update
        self._rng, self._temperature = rng, temperature
        self.policy = self.policy_of(learner.state.params)

    def act(self, obs: Array, epsilon: float) -> list[int]:
        """Actions [N] for `obs` [N, *obs_shape]: random where an environment's own coin says so."""
        coins = self._rng.random(len(obs)).tolist()
        explorers = [i for i, coin in enumerate(coins) if coin < epsilon]
        all_explore = len(explorers) == len(coins)
        action: list[int] = [0] * len(coins) if all_explore else self.policy(obs).tolist()
        for i in explorers:
            action[i] = int(self._rng.integers(self._num_actions))
        return action

    def learn(self, storage: Batch, indices: Tensor) -> Tensor:
        """One update on the rows `indices` [B] of `storage`; returns their TD errors [B]."""
        td_error = self.learner.update(storage, indices)
        self._copy_target("update", self.learner.updates - 1, self.learner.updates)
        return td_error

    def observe_env_steps(self, before: int, now: int) -> None:
        """Update the target network where its interval is counted in env steps."""
        self._copy_target("env_step", before, now)

    def _copy_target(self, unit: Unit, before: int, now: int) -> None:
        if self._target_update.copies(unit, before, now):
            self.learner.copy_target()

    def policy_of(self, params: Tensor) -> LearnedPolicy:
        """The policy under `params` [P], following them where they change in place."""
        return make_policy(self._network.on_arrays(params), self._temperature, self._rng)

    def get_state(self) -> dict[str, Any]:
        """What the agent has learned and where its exploration stands, as tensors and numbers."""
        return {**self.learner.get_state(), "exploration": get_state(self._rng)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on as the agent whose state this was."""
        self.learner.set_state(state)
        set_state(self._rng, state["exploration"])
