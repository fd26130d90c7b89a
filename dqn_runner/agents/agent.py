"""The agent: acts by its action values, with ε at random, and learns from replay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dqn_runner.agents.c51 import CategoricalSpec
from dqn_runner.agents.policies import LearnedPolicy, make_policy
from dqn_runner.agents.spec import AgentSpec
from dqn_runner.learning.learner import Learner
from dqn_runner.networks.flat import FlatNetwork
from dqn_runner.seeding import get_state, set_state
from dqn_runner.target_update import Hard, Soft, Unit
from dqn_runner.types import Array, EnvStep, Progress, StepInputs


class Resets(NamedTuple):
    """The last layers are drawn anew every `interval` updates, for the networks as for `draw`.

    As with high replay ratios in Nikishin et al. 2022 and in SR-SPR (D'Oro et al. 2023).
    """

    interval: int
    rng: np.random.Generator
    draw: Callable[[], Tensor]  # parameters [P], from `rng`


class Agent:
    """Behavior and learning around one Q-network.

    `policy` is what it has learned to do, by which it is evaluated. It acts by the same, apart from
    ε and from the noise on the network's weights, new at each step.
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
        noise_rng: np.random.Generator | None = None,
        resets: Resets | None = None,
    ) -> None:
        self.learner = learner
        self._network = network
        self.num_actions = num_actions
        self._target_update = target_update
        self._rng, self._temperature = rng, temperature
        self._noise_rng = noise_rng or np.random.default_rng(0)
        self._resets = resets
        self.policy = self.policy_of(learner.state.params)
        noisy_q = network.on_arrays(learner.state.params, learner.buffers, self._noise_rng)
        self._behavior = make_policy(noisy_q, temperature, rng)
        self.acts_with_noise = network.has_weight_noise

    def act(
        self,
        obs: Array,
        epsilon: float,
        action_mask: Array | None = None,
        q_values: Array | None = None,
    ) -> list[int]:
        """Actions [N] for `obs` [N, *obs_shape]; each environment has a coin of its own for ε.

        They are among those that `action_mask` [N, A] allows. `q_values` [N, A] are given where
        they have been computed already.
        """
        coins = self._rng.random(len(obs)).tolist()
        explorers = [i for i, coin in enumerate(coins) if coin < epsilon]
        all_explore = len(explorers) == len(coins)
        action: list[int]
        if all_explore:
            action = [0] * len(coins)
        elif q_values is None:
            action = self._behavior(obs, action_mask).tolist()
        else:
            action = self._behavior.choose(q_values, action_mask).tolist()
        for i in explorers:
            if action_mask is None:
                action[i] = int(self._rng.integers(self.num_actions))
            else:
                action[i] = int(self._rng.choice(np.flatnonzero(action_mask[i])))
        return action

    def compile(self, storage: Sequence[Tensor], batch_size: int, obs: Array) -> None:
        """Learn from batches of `storage`, and act on observations like `obs`, by compiled code.

        If one of them cannot be compiled, neither is. Raises CompilationError.
        """
        behavior = self._compiled_behavior(obs)
        self.learner.compile(storage, batch_size)
        self._behavior = behavior

    def _compiled_behavior(self, obs: Array) -> LearnedPolicy:
        """The behavior by compiled values, where observations have the shape of `obs`.

        That of networks that act without torch, and of the user's own, stays as it is.
        """
        network, learner, rng = self._network, self.learner, self._noise_rng
        params, buffers = learner.state.params, learner.buffers
        if not network.is_ours or network.on_numpy(params, buffers) is not None:
            return self._behavior
        eager, shape = network.on_arrays(params, buffers, rng), obs.shape

        def on_device(obs: Array) -> Tensor:
            return torch.from_numpy(obs).to(params.device)

        example = network.draw_weight_noise(np.random.default_rng(0))
        compiled = learner.compiled_values(on_device(obs.copy()), example)

        def q_values(obs: Array) -> Array:
            if obs.shape != shape:
                return eager(obs)
            values: Array = compiled(on_device(obs), network.draw_weight_noise(rng)).cpu().numpy()
            return values

        return make_policy(q_values, self._temperature, self._rng)

    def final_actions(self, step: EnvStep, epsilon: float) -> dict[int, int]:
        """The action at the final observation of each environment that `step` truncated."""
        return {
            i: self.act(step.next_obs[i : i + 1], epsilon, _rows(step.next_mask, i))[0]
            for i, (terminated, truncated) in enumerate(
                zip(step.terminated, step.truncated, strict=True)
            )
            if truncated and not terminated
        }

    def learn(self, storage: Sequence[Tensor], indices: Tensor, weights: Tensor) -> Tensor:
        """One update on the rows `indices` [B] of `storage`; returns their priorities [B]."""
        noise = self._network.draw_noise(self._noise_rng, len(indices))
        priorities = self.learner.update(storage, indices, weights, noise)
        self.observe_update()
        return priorities

    def next_inputs(self, indices: Tensor, weights: Tensor) -> StepInputs:
        """What an update on the rows `indices` [B] begins with, if it is made elsewhere.

        `observe_update` must follow it.
        """
        noise = self._network.draw_noise(self._noise_rng, len(indices))
        return self.learner.next_inputs(indices, weights, noise)

    def observe_update(self) -> None:
        """Do what is due after an update: copy the target network, reset the last layers."""
        self._copy_target("update", self.learner.updates - 1, self.learner.updates)
        if self._resets is not None and self.learner.updates % self._resets.interval == 0:
            self.learner.reset(self._network.last_layers, self._resets.draw())

    def settle_range(self, spec: AgentSpec, progress: Progress) -> None:
        """Before the first update, fix the range of returns that is represented.

        Only if `spec` leaves it to the rewards seen so far.
        """
        if self.learner.updates == 0 and isinstance(spec, CategoricalSpec) and spec.is_open:
            support = self.support
            assert support is not None
            support.copy_(spec.settled(progress, self.num_actions).atoms)

    @property
    def support(self) -> Tensor | None:
        """The returns [K] that are represented; None if any can be."""
        return self._network.buffer("head.support", self.learner.buffers)

    def observe_env_steps(self, before: int, now: int) -> None:
        """Update the target network if its interval is counted in env steps."""
        self._copy_target("env_step", before, now)

    def _copy_target(self, unit: Unit, before: int, now: int) -> None:
        if self._target_update.copies(unit, before, now):
            self.learner.copy_target()

    def policy_of(self, params: Tensor) -> LearnedPolicy:
        """The policy of `params` [P]; it follows them as they change in place."""
        q_function = self._network.on_arrays(params, self.learner.buffers)
        return make_policy(q_function, self._temperature, self._rng)

    def get_state(self) -> dict[str, Any]:
        """What the agent has learned and the state of its exploration, as tensors and numbers."""
        streams = {"exploration": get_state(self._rng), "noise": get_state(self._noise_rng)}
        if self._resets is not None:
            streams["resets"] = get_state(self._resets.rng)
        return {**self.learner.get_state(), **streams}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on as the agent whose state this was."""
        self.learner.set_state(state)
        set_state(self._rng, state["exploration"])
        if "noise" in state:  # older runs had none
            set_state(self._noise_rng, state["noise"])
        if self._resets is not None:
            set_state(self._resets.rng, state["resets"])


def _rows(action_mask: Array | None, i: int) -> Array | None:
    """What `action_mask` [N, A] says of environment `i`: [1, A]."""
    return None if action_mask is None else action_mask[i : i + 1]
