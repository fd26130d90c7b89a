"""Learning: one DQN update as a pure function of tensors, and the state it moves.

Nothing here reads a clock, draws a number or waits for a device, so the same function can run
eagerly, compiled or captured.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dqn_runner.agents.targets import Loss, next_state_value, td_loss, td_target
from dqn_runner.learning.compilation import capture, compile_ahead
from dqn_runner.learning.optimizers import SGD, Adam, AdamW, RMSprop
from dqn_runner.target_update import soft_update
from dqn_runner.types import Batch

METRICS = ("train/td_loss", "train/q_mean", "train/grad_norm")


class LearnerState(NamedTuple):
    """All that an update changes."""

    params: Tensor  # [P]
    target_params: Tensor  # [P]
    slots: Tensor  # [S, P], the optimiser's state vectors
    num_updates: Tensor  # [], updates so far
    metric_sums: Tensor  # [len(METRICS)], over the updates since they were last read
    q_extremes: Tensor  # [2], the largest of -Q and of Q in the batches of those updates


class UpdateRule(NamedTuple):
    """What an update computes, apart from numbers: each value of it is a different function."""

    network: Callable[[Tensor, Tensor], Tensor]  # (params [P], obs [B, ...]) -> [B, A]
    optimizer: Adam | AdamW | RMSprop | SGD
    loss: Loss
    double: bool
    clip_norm: bool
    clip_value: bool
    soft_target: bool
    clip_target: bool = False


def update(
    rule: UpdateRule,
    hyper: dict[str, Tensor],
    state: LearnerState,
    storage: Batch,
    indices: Tensor,
) -> tuple[LearnerState, Tensor]:
    """One gradient step on the rows `indices` [B] of `storage`; returns also the TD errors [B].

    Mnih et al. 2015, algorithm 1, the lines from "Set y_j" on; with `rule.double`, van Hasselt
    et al. 2016. Where the storage has next actions the target is SARSA's.
    """
    batch = storage.rows(indices)
    with torch.no_grad():
        online_q = rule.network(state.params, batch.next_obs) if rule.double else None
        target_q = rule.network(state.target_params, batch.next_obs)
        next_value = next_state_value(target_q, online_q, batch.next_action)
        target = td_target(batch.reward, batch.discount, next_value)
        if rule.clip_target:
            target = target.clamp(hyper["return_low"], hyper["return_high"])
    with torch.enable_grad():
        params = state.params.detach().requires_grad_()
        q_value = rule.network(params, batch.obs).gather(1, batch.action.unsqueeze(1)).squeeze(1)
        td_error = target - q_value
        loss = td_loss(rule.loss, td_error).mean()
        (grad,) = torch.autograd.grad(loss, params)

    grad_norm = torch.linalg.vector_norm(grad)
    if rule.clip_value:
        grad = grad.clamp(-hyper["max_grad_value"], hyper["max_grad_value"])
    if rule.clip_norm:
        norm = torch.linalg.vector_norm(grad) if rule.clip_value else grad_norm
        grad = grad * (hyper["max_grad_norm"] / (norm + 1e-6)).clamp(max=1.0)
    num_updates = state.num_updates + 1
    new_params, slots = rule.optimizer.step(state.params, grad, state.slots, num_updates, hyper)
    target_params = state.target_params
    if rule.soft_target:
        target_params = soft_update(target_params, new_params, hyper["tau"])
    metrics = torch.stack([loss.detach(), q_value.detach().mean(), grad_norm])
    q_value = q_value.detach()
    new_state = LearnerState(
        new_params,
        target_params,
        slots,
        num_updates,
        state.metric_sums + metrics,
        state.q_extremes.maximum(torch.stack([-q_value, q_value]).amax(dim=1)),
    )
    return new_state, td_error.detach()


class Learner:
    """The state of learning, in memory that stays where it is, and the update that moves it."""

    def __init__(
        self, rule: UpdateRule, hyperparameters: dict[str, float], initial_params: Tensor
    ) -> None:
        self.rule = rule
        self._numbers = dict(hyperparameters)
        self._hyper = initial_params.new_tensor(list(hyperparameters.values()))
        self.state = LearnerState(
            params=initial_params.clone(),
            target_params=initial_params.clone(),
            slots=initial_params.new_zeros(rule.optimizer.num_slots, len(initial_params)),
            num_updates=initial_params.new_zeros(()),
            metric_sums=initial_params.new_zeros(len(METRICS)),
            q_extremes=initial_params.new_full((2,), -math.inf),
        )
        self._in_place: Callable[..., Tensor] = self._update_in_place
        self.updates = 0
        self._updates_at_reading = 0

    def compile(self, storage: Batch, batch_size: int) -> None:
        """From now on run the update compiled, for this storage; raises CompilationError."""
        indices = torch.zeros(batch_size, dtype=torch.int64, device=self._hyper.device)
        example = (self._hyper, *self.state, *storage.columns, indices)
        compiler = capture if self._hyper.is_cuda else compile_ahead
        self._in_place = compiler(self._update_in_place, example)

    def _update_in_place(self, hyper: Tensor, *tensors: Tensor) -> Tensor:
        """`update` as a function of tensors alone: state, columns of storage, indices."""
        state = LearnerState(*tensors[: len(LearnerState._fields)])
        *columns, indices = tensors[len(LearnerState._fields) :]
        numbers = dict(zip(self._numbers, hyper.unbind(), strict=True))
        new_state, td_error = update(self.rule, numbers, state, Batch(*columns), indices)
        for old, new in zip(state, new_state, strict=True):
            if new is not old:
                old.copy_(new)
        return td_error

    def set_hyperparameters(self, numbers: dict[str, float]) -> None:
        """Use other values of some hyperparameters from the next update on."""
        for name, value in numbers.items():
            if value != self._numbers[name]:
                self._hyper[list(self._numbers).index(name)] = value
                self._numbers[name] = value

    def update(self, storage: Batch, indices: Tensor) -> Tensor:
        """Learn from the rows `indices` [B] of `storage`; returns their TD errors [B]."""
        self.updates += 1
        return self._in_place(self._hyper, *self.state, *storage.columns, indices)

    def copy_target(self) -> None:
        """Set the target network to the online one."""
        self.state.target_params.copy_(self.state.params)

    def get_state(self) -> dict[str, Any]:
        """All that learning depends on, as tensors and numbers."""
        return {
            "updates": self.updates,
            "updates_at_reading": self._updates_at_reading,
            **self.state._asdict(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Take up learning where it stood; raises ValueError for a state of other shapes."""
        self.updates, self._updates_at_reading = state["updates"], state["updates_at_reading"]
        for name, tensor in self.state._asdict().items():
            if state[name].shape != tensor.shape:
                raise ValueError(f"{name} has shape {tuple(state[name].shape)}")
            tensor.copy_(state[name])

    def read_metrics(self) -> dict[str, float]:
        """Means, and the extremes of Q, over the updates since the last reading.

        Empty if there were none.
        """
        count = self.updates - self._updates_at_reading
        if count == 0:
            return {}
        means = (self.state.metric_sums / count).tolist()
        minus_q_min, q_max = self.state.q_extremes.tolist()
        self.state.metric_sums.zero_()
        self.state.q_extremes.fill_(-math.inf)
        self._updates_at_reading = self.updates
        extremes = {"train/q_min": -minus_q_min, "train/q_max": q_max}
        return dict(zip(METRICS, means, strict=True)) | extremes
