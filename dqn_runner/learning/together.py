"""R runs that learn and act by one call: their learners' tensors are rows of a stack."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from dqn_runner.allocation import Stack
from dqn_runner.learning.compilation import capture, compile_ahead
from dqn_runner.learning.learner import Learner, in_place
from dqn_runner.types import Array, StepInputs


class LearnerGroup:
    """The learners of R runs; `learner` is any of them, as they differ in numbers alone.

    Their tensors lie in `stack`. Rows of runs that are over, or not there, are computed too, and
    mean nothing.
    """

    def __init__(self, learner: Learner, stack: Stack, storage: Sequence[Tensor]) -> None:
        """`storage` are the tensors of the replay storage of any run."""
        self._learner, self._stack = learner, stack
        self._state = [stack.whole(tensor) for tensor in learner.state.tensors]
        self._network = [stack.whole(t) for t in (learner.state.params, *learner.buffers)]
        self._constants = [stack.whole(tensor) for tensor in (*learner.tensors, *storage)]
        self._inputs: dict[str, tuple[tuple[Tensor, ...], Tensor]] = {}  # of the last update
        self._update: Callable[..., Tensor] = self._eager_update
        self._values: Callable[[Tensor], Tensor] | None = None

    def compile(self, batch_size: int, obs: Array | None) -> None:
        """From now on learn, and act on observations like `obs` [N, *obs_shape], by compiled code.

        Without `obs` each run acts by itself. If one of them cannot be compiled, neither is.
        Raises CompilationError.
        """
        compiler = capture if self._learner.state.params.is_cuda else compile_ahead
        rows = self._stack.num_rows
        values = None
        if obs is not None:
            given = self._on_device(np.stack([obs] * rows))
            values = compiler(self._values_of_all, self._network, [given])
        examples = [
            torch.stack([tensor] * rows) for tensor in self._learner.example_inputs(batch_size)
        ]
        self._update = compiler(self._update_of_all, self._constants, examples)
        self._values = values

    @property
    def acts(self) -> bool:
        """Whether it has action values for all, compiled."""
        return self._values is not None

    def update(self, inputs: Mapping[int, StepInputs], unmoved: Sequence[int]) -> dict[int, Tensor]:
        """An update of the runs that `inputs` are for; returns their priorities [B].

        Those of `unmoved` stay as they are.
        """
        idle = next(iter(inputs.values()))
        if len(inputs) < self._stack.num_rows:
            idle = idle._replace(indices=torch.zeros_like(idle.indices))
        rows = [inputs.get(run, idle) for run in range(self._stack.num_rows)]
        stacked = [
            self._stacked(name, column)
            for name, column in zip(StepInputs._fields, zip(*rows, strict=True), strict=True)
        ]
        before = [tensor[unmoved] for tensor in self._state] if unmoved else []
        priorities = self._update(*stacked).unbind()
        for tensor, rows_before in zip(self._state, before, strict=False):
            tensor[unmoved] = rows_before
        return {run: priorities[run] for run in inputs}

    def _stacked(self, name: str, rows: tuple[Tensor, ...]) -> Tensor:
        """The rows as one tensor; the one of the last update if they are the same again.

        As are weights that are all 1, and noise that there is not.
        """
        former, tensor = self._inputs.get(name, ((), None))
        if tensor is None or any(map(operator.is_not, rows, former)):
            tensor = torch.stack(rows)
            self._inputs[name] = rows, tensor
        return tensor

    def q_values(self, obs: Array) -> Array:
        """Action values [R, N, A] of `obs` [R, N, *obs_shape], without noise, if it `acts`."""
        assert self._values is not None
        values: Array = self._values(self._on_device(obs)).cpu().numpy()
        return values

    def _on_device(self, obs: Array) -> Tensor:
        return torch.from_numpy(obs).to(self._network[0].device)

    def _values_of_all(self, *tensors: Tensor) -> Tensor:
        no_noise = tensors[0].new_empty(self._stack.num_rows, 0)
        return vmap(self._learner.values)(*tensors, no_noise)

    def _update_of_all(self, *tensors: Tensor) -> Tensor:
        return in_place(vmap(self._learner.update_tensors))(*tensors)

    @torch.no_grad()
    def _eager_update(self, *inputs: Tensor) -> Tensor:
        return self._update_of_all(*self._constants, *inputs)
