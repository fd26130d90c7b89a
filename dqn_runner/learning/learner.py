"""Learning: one update as a pure function of tensors, and the state it changes.

Nothing here reads a clock, draws a number or waits for a device. The same function runs eagerly,
compiled, captured in a CUDA graph, and under `torch.func.vmap` over a leading axis of runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.func import grad_and_value

from dqn_runner.learning.compilation import capture, compile_ahead
from dqn_runner.learning.optimizers import SGD, Adam, AdamW, Hyper, RMSprop
from dqn_runner.target_update import soft_update
from dqn_runner.types import Batch, Outputs, StepInputs

METRICS = ("train/td_loss", "train/q_mean", "train/grad_norm")


class Representation(Protocol):
    """How returns are represented: what is learned, and how wrong a prediction of it is."""

    def target(self, batch: Batch, following: Outputs, action: Tensor, hyper: Hyper, /) -> Tensor:
        """What to predict [B, ...], with `next_obs` valued by `action` [B].

        `following` is the target network's output for `next_obs`.
        """

    def loss(self, outputs: Outputs, action: Tensor, target: Tensor, /) -> tuple[Tensor, Tensor]:
        """The loss [B] and the replay priority [B] of each prediction."""


class LearnerState(NamedTuple):
    """All that an update changes."""

    params: Tensor  # [P]
    target_params: Tensor  # [P]
    slots: Tensor  # [S, P], the optimizer's state vectors
    num_updates: Tensor  # [], the optimizer's counter
    metric_sums: Tensor  # [len(METRICS)], over the updates since they were last read
    q_extremes: Tensor  # [2], the largest of -Q and of Q in the batches of those updates


class UpdateRule(NamedTuple):
    """The choices that make an update another function; numbers do not."""

    network: Callable[[Tensor, Sequence[Tensor], Tensor, Tensor], Outputs]  # see FlatNetwork
    gather: Callable[[Sequence[Tensor], Tensor], Batch]  # (tensors of the storage, indices [B])
    representation: Representation
    # (target network's values [B, A], online network's or None, batch) -> action [B]
    next_action: Callable[[Tensor, Tensor | None, Batch], Tensor]
    optimizer: Adam | AdamW | RMSprop | SGD
    double: bool  # `next_action` asks for the online network's values too
    clip_norm: bool
    clip_value: bool
    soft_target: bool


def update(  # noqa: PLR0917
    rule: UpdateRule,
    state: LearnerState,
    storage: Sequence[Tensor],
    inputs: StepInputs,
    hyper: Hyper,
    buffers: Sequence[Tensor] = (),
) -> tuple[LearnerState, Tensor]:
    """One gradient step; returns the new state and the priorities [B].

    `storage` and `buffers` are the tensors of the replay storage and of the network. Mnih et al.
    2015, algorithm 1, the lines from "Sample random minibatch" on.
    """

    def network(params: Tensor, obs: Tensor) -> Outputs:
        return rule.network(params, buffers, obs, inputs.noise)

    batch = rule.gather(storage, inputs.indices)
    target_params = state.target_params
    if not rule.soft_target:
        target_params = torch.where(inputs.copy_target, state.params, target_params)
    following = network(target_params, batch.next_obs)
    online_q = network(state.params, batch.next_obs).q_values if rule.double else None
    next_action = rule.next_action(following.q_values, online_q, batch)
    target = rule.representation.target(batch, following, next_action, hyper)

    def mean_loss(params: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        outputs = network(params, batch.obs)
        loss, priority = rule.representation.loss(outputs, batch.action, target)
        return (inputs.weights * loss).mean(), (priority, outputs.values_of(batch.action))

    grad, (loss, (priority, q_value)) = grad_and_value(mean_loss, has_aux=True)(state.params)
    grad, grad_norm = clipped(rule, grad, hyper)
    count = state.num_updates + 1
    params, slots = rule.optimizer.step(state.params, grad, state.slots, count, hyper)
    if rule.soft_target:
        target_params = soft_update(target_params, params, hyper["tau"])
    metrics = torch.stack([loss, q_value.mean(), grad_norm])
    extremes = torch.stack([-q_value, q_value]).amax(dim=1)
    new_state = LearnerState(
        params,
        target_params,
        slots,
        count,
        state.metric_sums + metrics,
        state.q_extremes.maximum(extremes),
    )
    return new_state, priority


def clipped(rule: UpdateRule, grad: Tensor, hyper: Hyper) -> tuple[Tensor, Tensor]:
    """The gradient [P], clipped by value and then by norm, and its norm before that."""
    grad_norm = torch.linalg.vector_norm(grad)
    if rule.clip_value:
        grad = grad.clamp(-hyper["max_grad_value"], hyper["max_grad_value"])
    if rule.clip_norm:
        norm = torch.linalg.vector_norm(grad) if rule.clip_value else grad_norm
        grad = grad * (hyper["max_grad_norm"] / (norm + 1e-6)).clamp(max=1.0)
    return grad, grad_norm


class Learner:
    """The state of learning, in memory that stays where it is, and the update that changes it."""

    def __init__(
        self,
        rule: UpdateRule,
        hyperparameters: dict[str, float],
        initial_params: Tensor,
        buffers: Sequence[Tensor] = (),
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
        self.buffers = tuple(buffer.clone() for buffer in buffers)
        self._noise = initial_params.new_empty(0)
        self._no_yes = torch.tensor([False, True], device=initial_params.device).unbind()
        self._copy_is_due = False
        self._compiled: Callable[..., Tensor] | None = None
        self.updates = 0
        self._updates_at_reading = 0

    def compile(self, storage: Sequence[Tensor], batch_size: int) -> None:
        """From now on run the update compiled, on this storage; raises CompilationError."""
        indices = torch.zeros(batch_size, dtype=torch.int64, device=self._hyper.device)
        weights = torch.ones(batch_size, device=self._hyper.device)
        inputs = StepInputs(indices, weights, self._noise, self._no_yes[False].clone())
        compiler = capture if self._hyper.is_cuda else compile_ahead
        constants = (self._hyper, *self.state, *self.buffers, *storage)
        self._compiled = compiler(self._update_in_place, constants, inputs)

    def _update_in_place(self, hyper: Tensor, *tensors: Tensor) -> Tensor:
        """`update` as a function of tensors alone, which writes the new state over the old.

        After `hyper` come those of the state, the buffers, the storage and the inputs.
        """
        others = iter(tensors)
        state = LearnerState(*islice(others, len(LearnerState._fields)))
        buffers = tuple(islice(others, len(self.buffers)))
        *storage, indices, weights, noise, copy_target = others
        inputs = StepInputs(indices, weights, noise, copy_target)
        numbers = dict(zip(self._numbers, hyper.unbind(), strict=True))
        new_state, priorities = update(self.rule, state, storage, inputs, numbers, buffers)
        for old, new in zip(state, new_state, strict=True):
            old.copy_(new)
        return priorities

    def set_hyperparameters(self, numbers: dict[str, float]) -> None:
        """Use other values of some hyperparameters from the next update on."""
        for name, value in numbers.items():
            if value != self._numbers[name]:
                self._hyper[list(self._numbers).index(name)] = value
                self._numbers[name] = value

    def update(self, storage: Sequence[Tensor], indices: Tensor, weights: Tensor) -> Tensor:
        """Learn from the rows `indices` [B] of `storage`, whose losses count by `weights` [B].

        Returns their priorities [B].
        """
        self.updates += 1
        copy_target, self._copy_is_due = self._no_yes[self._copy_is_due], False
        inputs = (indices, weights, self._noise, copy_target)
        if self._compiled is not None:
            return self._compiled(*inputs)
        return self._update_in_place(self._hyper, *self.state, *self.buffers, *storage, *inputs)

    def copy_target(self) -> None:
        """Have the next update begin by setting the target network to the online one."""
        self._copy_is_due = True

    def get_state(self) -> dict[str, Any]:
        """All that learning depends on, as tensors and numbers."""
        return {
            "updates": self.updates,
            "updates_at_reading": self._updates_at_reading,
            "copy_is_due": self._copy_is_due,
            "buffers": list(self.buffers),
            **self.state._asdict(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on learning from `state`; raises ValueError for a state of other shapes."""
        self.updates, self._updates_at_reading = state["updates"], state["updates_at_reading"]
        self._copy_is_due = state.get("copy_is_due", False)  # older runs have copied at once
        pairs = [(name, tensor, state[name]) for name, tensor in self.state._asdict().items()]
        # Older runs kept no buffers; their seed has made the same ones.
        kept = state.get("buffers", self.buffers)
        pairs += [("buffers", *pair) for pair in zip(self.buffers, kept, strict=True)]
        for name, tensor, saved in pairs:
            if saved.shape != tensor.shape:
                raise ValueError(f"{name} has shape {tuple(saved.shape)}")
            tensor.copy_(saved)

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
