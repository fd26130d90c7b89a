"""DQN: the settings of the algorithm."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import model_validator

from dqn_runner.agents.targets import Loss, return_bounds
from dqn_runner.learning.optimizers import OptimizerSpec
from dqn_runner.spec import PositiveFloat, PositiveInt, Probability, Spec
from dqn_runner.types import Progress

FINAL_LR = 0.01  # of agent.lr, where a schedule ends


class AgentSpec(Spec):
    """The algorithm's own settings; every extension of DQN is off where it is false, 1 or null."""

    lr: PositiveFloat
    """Learning rate of the optimizer, at the start of its schedule."""
    gamma: Probability
    """Discount factor of an env step."""
    n_step: PositiveInt
    """Env steps whose rewards a target adds up before it bootstraps."""
    double: bool
    """Double Q-learning: the online network selects, the target network evaluates."""
    loss: Loss
    """Loss of the TD error."""
    max_grad_norm: PositiveFloat | None
    """Largest norm of the gradient over all parameters; null for no clipping."""
    max_grad_value: PositiveFloat | None
    """Largest absolute value in the gradient; null for no clipping."""
    optimizer: OptimizerSpec
    """The optimizer; null stands for torch's default."""
    # With defaults, for the config.yaml of older runs has none of them.
    td_target: Literal["max", "sarsa"] = "max"
    """Value of the next state: of its best action, or of the action taken there."""
    behaviour: Literal["greedy", "softmax"] = "greedy"
    """How to act when ε does not ask for a random action: greedy or by softmax of Q."""
    temperature: PositiveFloat = 1.0
    """Temperature of the softmax, in units of the return."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls, down to 1 % of lr."""
    lr_decay_steps: PositiveInt | None = None
    """Env steps until the learning rate has fallen; null for the budget."""
    clip_target: bool = False
    """Keep targets within the returns that the rewards seen so far allow."""

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
