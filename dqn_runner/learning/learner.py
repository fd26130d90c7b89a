"""Learning: one update as a pure function of tensors, and the state it changes.

Nothing here reads a clock, draws a number or waits for a device. The same function runs eagerly,
compiled, captured in a CUDA graph, and under `torch.func.vmap` over a leading axis of runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.func import grad_and_value

from dqn_runner.allocation import Allocate, own_memory
from dqn_runner.learning.compilation import capture, compile_ahead
from dqn_runner.learning.optimizers import SGD, Adam, AdamW, Hyper, RMSprop, Slots
from dqn_runner.networks.flat import FlatNetwork
from dqn_runner.target_update import soft_update
from dqn_runner.types import Batch, Outputs, StepInputs

METRICS = ("train/td_loss", "train/q_mean", "train/grad_norm")
# What of the state has a number for each parameter; the counter only where some can be reset.
PER_PARAMETER = ("params", "target_params", "num_updates", "slots")


Network = Callable[[Tensor], Outputs]  # observations [B, *obs_shape] -> what it says of them


class NextState(NamedTuple):
    """What a prediction is backed up by."""

    reward: Tensor  # [B], with the bonus of the policy, if it has any
    discount: Tensor  # [B]
    outputs: Outputs  # the target network's for the next observations
    average: Callable[[Tensor], Tensor]  # [B, A, ...] -> [B, ...], over the next state's policy

    @property
    def expected_return(self) -> Tensor:
        """The TD target [B] of values: reward + discount · value of the next state.

        `discount` is γ^k·(1 - terminated): truncation bootstraps and termination does not.
        """
        return self.reward + self.discount * self.average(self.outputs.q_values)


class Losses(NamedTuple):
    """What is told of each prediction."""

    loss: Tensor  # [B]
    priority: Tensor  # [B], in replay
    q_value: Tensor  # [B], the expected return that is predicted


class Representation(Protocol):
    """How returns are represented: what is learned, and how wrong a prediction of it is."""

    def target(self, next_state: NextState, hyper: Hyper, /) -> Tensor:
        """What to predict [B, ...]."""

    def loss(self, outputs: Outputs, action: Tensor, target: Tensor, /) -> Losses:
        """How far what is predicted of `action` [B] is from `target` [B, ...]."""


# (batch, target network, online network, hyperparameters) -> how the next state is valued
NextStateRule = Callable[[Batch, Network, Network, Hyper], NextState]


class LearnerState(NamedTuple):
    """All that an update changes."""

    params: Tensor  # [P]
    target_params: Tensor  # [P]
    num_updates: Tensor  # [] or [P], the optimizer's counter
    metric_sums: Tensor  # [len(METRICS)], over the updates since they were last read
    q_extremes: Tensor  # [2], the largest of -Q and of Q in the batches of those updates
    target_extremes: Tensor  # [2], the same of the expected returns that were the targets
    slots: Slots  # the optimizer's

    @classmethod
    def of(cls, tensors: Iterator[Tensor], num_slots: int) -> LearnerState:
        """The state of the next `tensors`, which come in the order of the property."""
        others = dict(zip(cls._fields[:-1], tensors, strict=False))
        return cls(**others, slots=tuple(islice(tensors, num_slots)))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of its tensors."""
        *others, slots = self
        return (*others, *slots)


class UpdateRule(NamedTuple):
    """The choices that make an update another function; numbers do not."""

    network: FlatNetwork
    gather: Callable[[Sequence[Tensor], Tensor], Batch]  # (tensors of the storage, indices [B])
    representation: Representation
    next_state: NextStateRule
    optimizer: Adam | AdamW | RMSprop | SGD
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
    batch = rule.gather(storage, inputs.indices)
    noise = rule.network.split_noise(inputs.noise, len(inputs.indices))

    def network(params: Tensor, noise: Tensor) -> Network:
        return lambda obs: rule.network(params, buffers, obs, noise)

    online_noise, target_noise, selection_noise = noise
    next_state = rule.next_state(
        batch,
        network(state.target_params, target_noise),
        network(state.params, selection_noise),
        hyper,
    )
    target = rule.representation.target(next_state, hyper)

    def mean_loss(params: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        outputs = network(params, online_noise)(batch.obs)
        losses = rule.representation.loss(outputs, batch.action, target)
        return (inputs.weights * losses.loss).mean(), (losses.priority, losses.q_value)

    grad, (loss, (priority, q_value)) = grad_and_value(mean_loss, has_aux=True)(state.params)
    grad, grad_norm = clipped(rule, grad, hyper)
    count = state.num_updates + 1
    params, slots = rule.optimizer.step(state.params, grad, state.slots, count, hyper)
    target_params = state.target_params
    if rule.soft_target:
        target_params = soft_update(target_params, params, hyper["tau"])
    metrics = torch.stack([loss, q_value.mean(), grad_norm])
    new_state = LearnerState(
        params,
        target_params,
        count,
        state.metric_sums + metrics,
        state.q_extremes.maximum(extremes(q_value)),
        state.target_extremes.maximum(extremes(next_state.expected_return)),
        slots,
    )
    return new_state, priority


def extremes(values: Tensor) -> Tensor:
    """The largest of -x and of x [2], for x in `values` [B]."""
    return torch.stack([-values, values]).amax(dim=1)


def clipped(rule: UpdateRule, grad: Tensor, hyper: Hyper) -> tuple[Tensor, Tensor]:
    """The gradient [P], clipped by value and then by norm, and its norm before that."""
    grad_norm = torch.linalg.vector_norm(grad)
    if rule.clip_value:
        grad = grad.clamp(-hyper["max_grad_value"], hyper["max_grad_value"])
    if rule.clip_norm:
        norm = torch.linalg.vector_norm(grad) if rule.clip_value else grad_norm
        grad = grad * (hyper["max_grad_norm"] / (norm + 1e-6)).clamp(max=1.0)
    return grad, grad_norm


def in_place(update: Callable[..., tuple[LearnerState, Tensor]]) -> Callable[..., Tensor]:
    """`update` of the hyperparameters, the state and more, which writes the new state over the old.

    It returns the priorities.
    """

    def updated_in_place(*tensors: Tensor) -> Tensor:
        new_state, priorities = update(*tensors)
        for old, new in zip(tensors[1:], new_state.tensors, strict=False):
            if new is not old:  # a target network may stay as it is
                old.copy_(new)
        return priorities

    return updated_in_place


class Learner:
    """The state of learning, in memory that stays where it is, and the update that changes it."""

    def __init__(
        self,
        rule: UpdateRule,
        hyperparameters: dict[str, float],
        initial_params: Tensor,
        buffers: Sequence[Tensor] = (),
        *,
        counts: bool = False,
        memory: Allocate = own_memory,
    ) -> None:
        """With `counts` each parameter has a counter of its own, so that some can be reset."""

        def kept(tensor: Tensor) -> Tensor:
            return memory(tuple(tensor.shape), tensor.dtype, tensor.device).copy_(tensor)

        self.rule = rule
        self._numbers = dict(hyperparameters)
        self._hyper = kept(initial_params.new_tensor(list(hyperparameters.values())))
        initial_state = LearnerState(
            params=initial_params,
            target_params=initial_params,
            num_updates=initial_params.new_zeros(len(initial_params) if counts else ()),
            metric_sums=initial_params.new_zeros(len(METRICS)),
            q_extremes=initial_params.new_full((2,), -math.inf),
            target_extremes=initial_params.new_full((2,), -math.inf),
            slots=(torch.zeros_like(initial_params),) * rule.optimizer.num_slots,
        )
        self.state = LearnerState.of(map(kept, initial_state.tensors), rule.optimizer.num_slots)
        self.buffers = tuple(map(kept, buffers))
        self._no_noise = initial_params.new_empty(0)
        self._compiled: Callable[..., Tensor] | None = None
        self.updates = 0
        self._updates_at_reading = 0

    def compile(self, storage: Sequence[Tensor], batch_size: int) -> None:
        """From now on run the update compiled, on this storage; raises CompilationError."""
        compiler = capture if self._hyper.is_cuda else compile_ahead
        constants = (*self.tensors, *storage)
        inputs = self.example_inputs(batch_size)
        self._compiled = compiler(in_place(self.update_tensors), constants, inputs)

    def example_inputs(self, batch_size: int) -> StepInputs:
        """Inputs of the form that updates have."""
        indices = torch.zeros(batch_size, dtype=torch.int64, device=self._hyper.device)
        weights = torch.ones(batch_size, device=self._hyper.device)
        noise = self.rule.network.draw_noise(np.random.default_rng(0), batch_size)
        return StepInputs(indices, weights, noise)

    def compiled_values(self, obs: Tensor, noise: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """Action values [N, A] of tensors like `obs` [N, *obs_shape] and weight noise like `noise`.

        They are the online network's, as it changes. Raises CompilationError.
        """
        compiler = capture if self._hyper.is_cuda else compile_ahead
        return compiler(self.values, (self.state.params, *self.buffers), (obs, noise))

    def values(self, params: Tensor, *tensors: Tensor) -> Tensor:
        """Action values [N, A]: a function of `params`, the buffers, observations and noise."""
        *buffers, obs, noise = tensors
        return self.rule.network(params, buffers, obs, noise).q_values

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The hyperparameters, the state and the buffers."""
        return (self._hyper, *self.state.tensors, *self.buffers)

    def update_tensors(self, hyper: Tensor, *tensors: Tensor) -> tuple[LearnerState, Tensor]:
        """`update` as a function of tensors alone: `self.tensors`, the storage and the inputs."""
        others = iter(tensors)
        state = LearnerState.of(others, self.rule.optimizer.num_slots)
        buffers = tuple(islice(others, len(self.buffers)))
        *storage, indices, weights, noise = others
        inputs = StepInputs(indices, weights, noise)
        numbers = dict(zip(self._numbers, hyper.unbind(), strict=True))
        return update(self.rule, state, storage, inputs, numbers, buffers)

    def set_hyperparameters(self, numbers: dict[str, float]) -> None:
        """Use other values of some hyperparameters from the next update on."""
        for name, value in numbers.items():
            if value != self._numbers[name]:
                self._hyper[list(self._numbers).index(name)] = value
                self._numbers[name] = value

    def update(
        self,
        storage: Sequence[Tensor],
        indices: Tensor,
        weights: Tensor,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Learn from the rows `indices` [B] of `storage`, whose losses count by `weights` [B].

        `noise` is what the network's `draw_noise` drew, if it takes any. Returns the rows'
        priorities [B].
        """
        inputs = self.next_inputs(indices, weights, noise)
        if self._compiled is not None:
            return self._compiled(*inputs)
        return in_place(self.update_tensors)(*self.tensors, *storage, *inputs)

    def next_inputs(
        self, indices: Tensor, weights: Tensor, noise: Tensor | None = None
    ) -> StepInputs:
        """What the next update begins with; it must follow."""
        self.updates += 1
        return StepInputs(indices, weights, self._no_noise if noise is None else noise)

    def copy_target(self) -> None:
        """Set the target network to the online one."""
        self.state.target_params.copy_(self.state.params)

    def reset(self, part: slice, params: Tensor) -> None:
        """Begin anew with that part of `params` [P], in both networks and in the optimizer."""
        self.state.params[part] = params[part]
        self.state.target_params[part] = params[part]
        for slot in self.state.slots:
            slot[part] = 0.0
        self.state.num_updates[part] = 0.0

    def get_state(self) -> dict[str, Any]:
        """All that learning depends on, as tensors and numbers; all weights by rows."""
        state = {**self.state._asdict(), "slots": torch.stack(self.state.slots)}
        for name in PER_PARAMETER:
            if state[name].ndim:
                state[name] = self.rule.network.by_rows(state[name])
        return {
            "updates": self.updates,
            "updates_at_reading": self._updates_at_reading,
            "buffers": list(self.buffers),
            **state,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on learning from `state`; raises ValueError for a state of other shapes."""
        self.updates, self._updates_at_reading = state["updates"], state["updates_at_reading"]
        # Older runs did not look at their targets.
        state = {"target_extremes": self.state.target_extremes, **state}
        for name in PER_PARAMETER:
            if state[name].shape[-1:] == self.state.params.shape:
                state[name] = self.rule.network.from_rows(state[name])
        tensors = self.state._asdict()
        slots = tensors.pop("slots")
        pairs = [(name, tensor, state[name]) for name, tensor in tensors.items()]
        if len(state["slots"]) != len(slots):
            raise ValueError(f"slots has shape {tuple(state['slots'].shape)}")
        pairs += [("slots", *pair) for pair in zip(slots, state["slots"], strict=True)]
        # Older runs kept no buffers; their seed has made the same ones.
        kept = state.get("buffers", self.buffers)
        pairs += [("buffers", *pair) for pair in zip(self.buffers, kept, strict=True)]
        for name, tensor, saved in pairs:
            if saved.shape != tensor.shape:
                raise ValueError(f"{name} has shape {tuple(saved.shape)}")
            tensor.copy_(saved)
        if state.get("copy_is_due"):  # older runs copied at the next update
            self.copy_target()

    def read_target_extremes(self) -> tuple[float, float]:
        """The lowest and the highest expected return that was a target since the last reading."""
        minus_lowest, highest = self.state.target_extremes.tolist()
        self.state.target_extremes.fill_(-math.inf)
        return -minus_lowest, highest

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
