"""The DQN agent: acts ε-greedily and learns from replay."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from dqn_runner.learner import Learner
from dqn_runner.losses import Loss
from dqn_runner.networks import FlatNetwork, QFunction
from dqn_runner.optimizers import OptimizerSpec
from dqn_runner.target_update import Hard, Soft, Unit
from dqn_runner.types import Array, Batch, PositiveFloat, PositiveInt, Probability, Spec


class AgentSpec(Spec):
    """The algorithm's own settings; every extension of DQN is off where it is false, 1 or null."""

    lr: PositiveFloat
    gamma: Probability
    n_step: PositiveInt
    double: bool
    loss: Loss
    max_grad_norm: PositiveFloat | None
    max_grad_value: PositiveFloat | None
    optimizer: OptimizerSpec


class GreedyPolicy:
    """Picks the action of highest value; ties go to the lowest index."""

    def __init__(self, q_function: QFunction) -> None:
        self._q_function = q_function

    def __call__(self, obs: Array) -> npt.NDArray[np.int64]:
        """Actions [N] for encoded observations [N, *obs_shape]."""
        action: npt.NDArray[np.int64] = self._q_function(obs).argmax(axis=1)
        return action


class Agent:
    """Behaviour and learning around one Q-network."""

    def __init__(
        self,
        network: FlatNetwork,
        num_actions: int,
        learner: Learner,
        target_update: Hard | Soft,
        rng: np.random.Generator,
    ) -> None:
        self.learner = learner
        self._network = network
        self._num_actions = num_actions
        self._target_update = target_update
        self._rng = rng
        self.greedy = GreedyPolicy(network.on_arrays(learner.state.params))

    def act(self, obs: Array, epsilon: float) -> list[int]:
        """Actions [N] for `obs` [N, *obs_shape]: random where an environment's own coin says so."""
        coins = self._rng.random(len(obs)).tolist()
        explorers = [i for i, coin in enumerate(coins) if coin < epsilon]
        all_explore = len(explorers) == len(coins)
        action: list[int] = [0] * len(coins) if all_explore else self.greedy(obs).tolist()
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

    def snapshot(self) -> GreedyPolicy:
        """The greedy policy as it is now, whatever is learned later."""
        return GreedyPolicy(self._network.on_arrays(self.learner.state.params.clone()))

    def get_state(self) -> dict[str, Any]:
        """What the agent has learned, as tensors and numbers."""
        return {"updates": self.learner.updates, **self.learner.state._asdict()}
