"""What all agents share, however they represent a return."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

from pydantic import model_validator

from dqn_runner.agents.targets import NextAction, greedy_action, return_bounds, taken_action
from dqn_runner.learning.learner import Representation
from dqn_runner.learning.optimizers import OptimizerSpec
from dqn_runner.spec import PositiveFloat, PositiveInt, Probability, Spec
from dqn_runner.types import Progress

FINAL_LR = 0.01  # of agent.lr, at the end of a schedule


class AgentSpec(Spec, ABC):
    """The settings that all agents share; an extension of DQN is off if it is false, 1 or null."""

    lr: PositiveFloat
    gamma: Probability
    n_step: PositiveInt
    double: bool
    max_grad_norm: PositiveFloat | None
    max_grad_value: PositiveFloat | None
    optimizer: OptimizerSpec
    # With defaults: the config.yaml of older runs has none of these.
    td_target: Literal["max", "sarsa"] = "max"
    behaviour: Literal["greedy", "softmax"] = "greedy"
    temperature: PositiveFloat = 1.0
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    lr_decay_steps: PositiveInt | None = None

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

        `cosine` is half a period, without restarts (Loshchilov and Hutter 2017, eq. 5).
        """
        if self.lr_schedule == "constant" or self.lr_decay_steps is None:
            return self.lr
        progress = min(env_steps / self.lr_decay_steps, 1.0)
        left = 1.0 - progress
        if self.lr_schedule == "cosine":
            left = (1.0 + math.cos(math.pi * progress)) / 2
        return self.lr * (FINAL_LR + (1.0 - FINAL_LR) * left)

    def return_bounds(self, progress: Progress) -> tuple[float, float]:
        """The lowest and the highest return that the rewards seen so far allow."""
        return return_bounds(progress.lowest_reward, progress.highest_reward, self.gamma)

    def moving_hyperparameters(self, progress: Progress) -> dict[str, float]:
        """The numbers of an update that change during training."""
        return {"lr": self.learning_rate(progress.env_steps)}

    @property
    def softmax_temperature(self) -> float | None:
        """The temperature of softmax behavior; None if behavior is greedy."""
        return self.temperature if self.behaviour == "softmax" else None

    @property
    @abstractmethod
    def representation(self) -> Representation:
        """How returns are represented, and so what the loss is."""

    @property
    def next_action(self) -> NextAction:
        """The rule for the action by which the next state is valued."""
        return taken_action if self.td_target == "sarsa" else greedy_action
