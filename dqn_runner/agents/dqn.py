"""DQN: the settings of the algorithm, and returns represented as one value for each action."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from pydantic import model_validator
from torch import Tensor
from torch.nn import functional

from dqn_runner.agents.targets import NextAction, greedy_action, return_bounds, taken_action
from dqn_runner.learning.optimizers import Hyper, OptimizerSpec
from dqn_runner.spec import PositiveFloat, PositiveInt, Probability, Spec
from dqn_runner.types import Batch, Outputs, Progress

Loss = Literal["mse", "huber"]

FINAL_LR = 0.01  # of agent.lr, at the end of a schedule


class AgentSpec(Spec):
    """The algorithm's own settings; an extension of DQN is off if it is false, 1 or null."""

    lr: PositiveFloat
    gamma: Probability
    n_step: PositiveInt
    double: bool
    loss: Loss
    max_grad_norm: PositiveFloat | None
    max_grad_value: PositiveFloat | None
    optimizer: OptimizerSpec
    # With defaults: the config.yaml of older runs has none of these.
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
        numbers = {"lr": self.learning_rate(progress.env_steps)}
        if self.clip_target:
            numbers["return_low"], numbers["return_high"] = self.return_bounds(progress)
        return numbers

    @property
    def softmax_temperature(self) -> float | None:
        """The temperature of softmax behavior; None if behavior is greedy."""
        return self.temperature if self.behaviour == "softmax" else None

    @property
    def representation(self) -> ScalarReturn:
        """How returns are represented, and so what the loss is."""
        return ScalarReturn(self.loss, self.clip_target)

    @property
    def next_action(self) -> NextAction:
        """The rule for the action by which the next state is valued."""
        return taken_action if self.td_target == "sarsa" else greedy_action


class ScalarReturn(NamedTuple):
    """The expected return of each action, learned by `loss` (Mnih et al. 2015, algorithm 1).

    With `clip_target` a target stays between the hyperparameters `return_low` and `return_high`
    (Andrychowicz et al. 2017, section 4.4).
    """

    loss_kind: Loss
    clip_target: bool = False

    def target(self, batch: Batch, following: Outputs, action: Tensor, hyper: Hyper) -> Tensor:
        """The TD target: reward + discount · value of the next state [B].

        `discount` is γ^k·(1 - terminated): truncation bootstraps and termination does not.
        """
        target = batch.reward + batch.discount * following.values_of(action)
        if self.clip_target:
            target = target.clamp(hyper["return_low"], hyper["return_high"])
        return target

    def loss(self, outputs: Outputs, action: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The square of each TD error or Huber's loss with δ = 1, and its size: both [B]."""
        td_error = target - outputs.values_of(action)
        return td_loss(self.loss_kind, td_error), td_error.detach().abs()


def td_loss(kind: Loss, td_error: Tensor) -> Tensor:
    """Loss [B] of each TD error [B]: its square, or Huber's with δ = 1."""
    if kind == "mse":
        return td_error.square()
    return functional.huber_loss(td_error, torch.zeros_like(td_error), reduction="none")
