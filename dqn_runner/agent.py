"""The DQN agent: acts by its action values, with ε at random, and learns from replay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import model_validator
from torch import Tensor

from dqn_runner.learner import Learner
from dqn_runner.losses import Loss, return_bounds
from dqn_runner.networks import FlatNetwork, QFunction
from dqn_runner.optimizers import OptimizerSpec
from dqn_runner.seeding import get_state, set_state
from dqn_runner.target_update import Hard, Soft, Unit
from dqn_runner.types import (
    Array,
    Batch,
    PositiveFloat,
    PositiveInt,
    Probability,
    Progress,
    Spec,
)

FINAL_LR = 0.01  # of agent.lr, where a schedule ends


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
    # With defaults, for the config.yaml of older runs has none of them.
    td_target: Literal["max", "sarsa"] = "max"
    behaviour: Literal["greedy", "softmax"] = "greedy"
    temperature: PositiveFloat = 1.0
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    lr_decay_steps: PositiveInt | None = None
    clip_target: bool = False

    @model_validator(mode="after")
    def _sarsa_looks_one_step_ahead(self) -> AgentSpec:
        if self.td_target == "sarsa" and (self.double or self.n_step != 1):
            raise ValueError(
                "td_target=sarsa: needs agent.double=false and agent.n_step=1, for its target is "
                "the value of the one action taken next"
            )
        return self

    def learning_rate(self, env_steps: int) -> float:
        """The learning rate after `env_steps`: from `lr` to 1 % of it over `lr_decay_steps`.

        `cosine` is half a period of it, without restarts (Loshchilov and Hutter 2017, eq. 5).
        """
        if self.lr_schedule == "constant" or self.lr_decay_steps is None:
            return self.lr
        progress = min(env_steps / self.lr_decay_steps, 1.0)
        left = 1.0 - progress
        if self.lr_schedule == "cosine":
            left = (1.0 + math.cos(math.pi * progress)) / 2
        return self.lr * (FINAL_LR + (1.0 - FINAL_LR) * left)

    def return_bounds(self, progress: Progress) -> tuple[float, float]:
        """The returns that the rewards seen so far allow at most, lowest and highest."""
        return return_bounds(progress.lowest_reward, progress.highest_reward, self.gamma)

    def moving_hyperparameters(self, progress: Progress) -> dict[str, float]:
        """The numbers of an update that change as training goes on."""
        numbers = {"lr": self.learning_rate(progress.env_steps)}
        if self.clip_target:
            numbers["return_low"], numbers["return_high"] = self.return_bounds(progress)
        return numbers

    @property
    def softmax_temperature(self) -> float | None:
        """The temperature of a softmax behaviour; null where behaviour is greedy."""
        return self.temperature if self.behaviour == "softmax" else None


class GreedyPolicy:
    """Picks the action of highest value; ties go to the lowest index."""

    def __init__(self, q_function: QFunction) -> None:
        self._q_function = q_function

    def __call__(self, obs: Array) -> npt.NDArray[np.int64]:
        """Actions [N] for encoded observations [N, *obs_shape]."""
        action: npt.NDArray[np.int64] = self._q_function(obs).argmax(axis=1)
        return action

    def seeded(self, seeds: Sequence[int]) -> GreedyPolicy:
        """This policy: it draws nothing."""
        return self


class SoftmaxPolicy:
    """Draws action a with probability proportional to exp(Q(a) / temperature), from `rng`.

    Also called Boltzmann exploration (Sutton and Barto 1998, section 2.3).
    """

    def __init__(self, q_function: QFunction, temperature: float, rng: np.random.Generator) -> None:
        self._q_function, self._temperature, self._rng = q_function, temperature, rng

    def __call__(self, obs: Array) -> npt.NDArray[np.int64]:
        """Actions [N] for encoded observations [N, *obs_shape]."""
        q_values = self._q_function(obs).astype(np.float64)
        logits = (q_values - q_values.max(axis=1, keepdims=True)) / self._temperature
        # The largest of logits with Gumbel noise is distributed as their softmax (Gumbel 1954),
        # and no exponential can overflow.
        noisy = logits + self._rng.gumbel(size=logits.shape)
        action: npt.NDArray[np.int64] = noisy.argmax(axis=1)
        return action

    def seeded(self, seeds: Sequence[int]) -> SoftmaxPolicy:
        """This policy with draws that depend on `seeds` alone, those of the episodes it plays."""
        return SoftmaxPolicy(self._q_function, self._temperature, np.random.default_rng(seeds))


LearnedPolicy = GreedyPolicy | SoftmaxPolicy


def make_policy(
    q_function: QFunction, temperature: float | None, rng: np.random.Generator
) -> LearnedPolicy:
    """The softmax policy of a temperature, drawing from `rng`; the greedy one where it is null."""
    if temperature is None:
        return GreedyPolicy(q_function)
    return SoftmaxPolicy(q_function, temperature, rng)


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
