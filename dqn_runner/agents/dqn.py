"""DQN: a return represented by its expectation, one value for each action."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dqn_runner.agents.spec import AgentSpec
from dqn_runner.learning.learner import Losses, NextState
from dqn_runner.learning.optimizers import Hyper
from dqn_runner.networks.heads import Head, StreamsMaker, make_scalar_head
from dqn_runner.types import Outputs, Progress, at_action

Loss = Literal["mse", "huber"]


class DQNSpec(AgentSpec):
    """DQN's own settings."""

    # With a default: the config.yaml of older runs has no name.
    name: Literal["dqn"] = "dqn"
    """The kind of agent."""
    loss: Loss
    """Loss of the TD error."""
    clip_target: bool = False  # older runs lack it
    """Keep targets within the returns that the rewards seen so far allow."""

    def head(self, make_streams: StreamsMaker, num_features: int) -> Head:
        """One value for each action."""
        return make_scalar_head(make_streams, num_features)

    @property
    def representation(self) -> ScalarReturn:
        """One value for each action."""
        return ScalarReturn(self.loss, self.clip_target)

    def moving_hyperparameters(self, progress: Progress, num_actions: int) -> dict[str, float]:
        """The numbers of an update that change during training."""
        numbers = super().moving_hyperparameters(progress, num_actions)
        if self.clip_target:
            bounds = self.return_bounds(progress, num_actions)
            numbers["return_low"], numbers["return_high"] = bounds
        return numbers


class ScalarReturn(NamedTuple):
    """The expected return of each action, learned by `loss` (Mnih et al. 2015, algorithm 1).

    With `clip_target` a target stays between the hyperparameters `return_low` and `return_high`
    (Andrychowicz et al. 2017, section 4.4).
    """

    loss_kind: Loss
    clip_target: bool = False

    def target(self, next_state: NextState, hyper: Hyper) -> Tensor:
        """The expected return [B] that the next state promises."""
        target = next_state.expected_return
        if self.clip_target:
            target = target.clamp(hyper["return_low"], hyper["return_high"])
        return target

    def loss(self, outputs: Outputs, action: Tensor, target: Tensor) -> Losses:
        """The square of each TD error, or Huber's loss with δ = 1; its size is the priority."""
        q_value = at_action(outputs.q_values, action)
        td_error = target - q_value
        return Losses(td_loss(self.loss_kind, td_error), td_error.detach().abs(), q_value)


def td_loss(kind: Loss, td_error: Tensor) -> Tensor:
    """Loss [B] of each TD error [B]: its square, or Huber's with δ = 1."""
    if kind == "mse":
        return td_error.square()
    return functional.huber_loss(td_error, torch.zeros_like(td_error), reduction="none")
