"""What all agents share, however they represent a return."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dqn_runner.agents import targets
from dqn_runner.agents.targets import horizon, return_bounds
from dqn_runner.learning.learner import NextStateRule, Representation
from dqn_runner.learning.optimizers import OptimizerSpec
from dqn_runner.networks.heads import Head, StreamsMaker
from dqn_runner.spec import NonNegativeFloat, PositiveFloat, PositiveInt, Probability, Spec
from dqn_runner.types import EnvStep, Progress

FINAL_LR = 0.01  # of agent.lr, at the end of a schedule


class MunchausenSpec(Spec):
    """Munchausen's bonus, with the values of Vieillard et al. 2020, table 1, as defaults."""

    alpha: NonNegativeFloat = 0.9
    """Share of the scaled log-policy that is added to the reward, α."""
    temperature: PositiveFloat = 0.03
    """Temperature of the softmax policy, τ, in units of the return."""
    clip: Annotated[float, Field(lt=0, allow_inf_nan=False)] = -1.0
    """Lowest scaled log-policy, l₀; what is lower counts as this."""


class AgentSpec(Spec, ABC):
    """The settings that all agents share; an extension of DQN is off if it is false, 1 or null."""

    name: str
    """The kind of agent."""
    lr: PositiveFloat
    """Learning rate of the optimizer, at the start of its schedule."""
    gamma: Probability
    """Discount factor of an env step."""
    n_step: PositiveInt
    """Env steps whose rewards a target adds up before it bootstraps."""
    double: bool
    """Double Q-learning: the online network selects, the target network evaluates."""
    max_grad_norm: PositiveFloat | None
    """Largest norm of the gradient over all parameters; null for no clipping."""
    max_grad_value: PositiveFloat | None
    """Largest absolute value in the gradient; null for no clipping."""
    optimizer: OptimizerSpec
    """The optimizer; null stands for torch's default."""
    # With defaults: the config.yaml of older runs has none of these.
    td_target: Literal["max", "sarsa", "munchausen"] = "max"
    """Value of the next state: of its best action, of the one taken there, or Munchausen's."""
    munchausen: MunchausenSpec = MunchausenSpec()
    """The bonus of td_target=munchausen."""
    behaviour: Literal["greedy", "softmax"] = "greedy"
    """How to act when ε does not ask for a random action: greedy or by softmax of Q."""
    temperature: PositiveFloat = 1.0
    """Temperature of the softmax, in units of the return."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls, down to 1 % of lr."""
    lr_decay_steps: PositiveInt | None = None
    """Env steps until the learning rate has fallen; null for the budget."""
    reward_clip: PositiveFloat | None = None
    """Rewards are learned from as if clipped to between -reward_clip and it; null: as they are."""
    reward_scale: PositiveFloat = 1.0
    """Factor on the rewards that are learned from, after reward_clip."""
    reset_interval: PositiveInt | None = None
    """Updates between resets of the last layers (all of a network of your own); null for none."""

    @model_validator(mode="after")
    def _next_state_has_one_policy(self) -> AgentSpec:
        if self.td_target == "sarsa" and (self.double or self.n_step != 1):
            raise ValueError(
                "td_target=sarsa: needs agent.double=false and agent.n_step=1, for its target is "
                "the value of the one action taken next"
            )
        if self.td_target == "munchausen" and self.double:
            raise ValueError(
                "td_target=munchausen: needs agent.double=false, for its policy is a softmax of "
                "the target network's values, and no action is selected"
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

    def learned_from(self, step: EnvStep) -> EnvStep:
        """The step with the rewards that are learned from, clipped and then scaled.

        Its episodes keep the returns that the environment gave.
        """
        rewards, most = step.reward, self.reward_clip
        if most is None and self.reward_scale == 1.0:
            return step
        if most is not None:
            rewards = [min(max(reward, -most), most) for reward in rewards]
        return step._replace(reward=[self.reward_scale * reward for reward in rewards])

    def return_bounds(self, progress: Progress, num_actions: int) -> tuple[float, float]:
        """The lowest and the highest return that the rewards seen so far allow."""
        bounds = return_bounds(progress.lowest_reward, progress.highest_reward, self.gamma)
        return self.with_bonus(bounds, horizon(self.gamma), num_actions)

    def with_bonus(
        self, returns: tuple[float, float], horizon: float, num_actions: int
    ) -> tuple[float, float]:
        """The lowest and the highest of `returns`, with Munchausen's bonus over `horizon` steps.

        For A actions a softmax of temperature τ has an entropy of at most log A, so that a step
        adds at most τ·log A to the value of a state. Its best action has a log-policy of at least
        -log A: the value loses at most α·τ·log A a step, and no more than the clipped bonus. Any
        other action loses α·|clip| at most, once.
        """
        if self.td_target != "munchausen":
            return returns
        if math.isinf(horizon):
            return -math.inf, math.inf
        bonus, (low, high) = self.munchausen, returns
        gain = bonus.temperature * math.log(num_actions)
        loss = bonus.alpha * min(gain, -bonus.clip)
        return low - horizon * loss + bonus.alpha * bonus.clip, high + horizon * gain

    def moving_hyperparameters(self, progress: Progress, num_actions: int) -> dict[str, float]:
        """The numbers of an update that change during training."""
        numbers = {"lr": self.learning_rate(progress.env_steps)}
        if self.td_target == "munchausen":
            bonus = self.munchausen
            numbers["munchausen_alpha"] = bonus.alpha
            numbers["munchausen_temperature"] = bonus.temperature
            numbers["munchausen_clip"] = bonus.clip
        return numbers

    @property
    def softmax_temperature(self) -> float | None:
        """The temperature of softmax behavior; None if behavior is greedy."""
        return self.temperature if self.behaviour == "softmax" else None

    @property
    @abstractmethod
    def representation(self) -> Representation:
        """How returns are represented, and so what the loss is."""

    @abstractmethod
    def head(self, make_streams: StreamsMaker, num_features: int) -> Head:
        """What a network ends in, so that it tells what the representation learns."""

    @property
    def next_state(self) -> NextStateRule:
        """The rule for the policy by which the next state is valued."""
        if self.td_target == "max" and self.double:
            return targets.selected_action
        rules = {
            "max": targets.best_action,
            "sarsa": targets.taken_action,
            "munchausen": targets.munchausen,
        }
        return rules[self.td_target]
