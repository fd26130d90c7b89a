"""R runs that learn and act by one call: their learners' tensors are rows of a stack."""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.func import vmap

from dqn_runner.allocation import Stack
from dqn_runner.learning.compilation import CompilationError, capture, compile_ahead
from dqn_runner.learning.learner import Learner, in_place
from dqn_runner.types import Array, StepInputs

logger = logging.getLogger(__name__)


class LearnerGroup:
    """The learners of R runs; `learner` is any of them, as they differ in numbers alone.

    Their tensors lie in `stack`. Rows of runs that are over, or not there, are computed too, and
    mean nothing.
    """

    def __init__(self, learner: Learner, stack: Stack, *, compiles: bool) -> None:
        self._learner, self._stack, self._compiles = learner, stack, compiles
        self._state = [stack.whole(tensor) for tensor in learner.state.tensors]
        self._network = [stack.whole(t) for t in (learner.state.params, *learner.buffers)]
        self._is_cuda = learner.state.params.is_cuda
        self._inputs: dict[str, tuple[tuple[Tensor, ...], Tensor]] = {}  # of the last update
        self._update: Callable[..., Tensor] | None = None
        self._values: Callable[..., Tensor] | None = None

    def update(
        self, inputs: Mapping[int, StepInputs], storage: Sequence[Tensor], unmoved: list[int]
    ) -> dict[int, Tensor]:
        """An update of the runs that `inputs` are for; returns their priorities [B].

        Those of `unmoved` stay as they are. `storage` are the tensors of the replay storage of any
        run.
        """
        idle = next(iter(inputs.values()))
        if len(inputs) < self._stack.num_runs:
            idle = idle._replace(indices=torch.zeros_like(idle.indices))
        rows = [inputs.get(run, idle) for run in range(self._stack.num_runs)]
        stacked = [
            self._stacked(name, column)
            for name, column in zip(StepInputs._fields, zip(*rows, strict=True), strict=True)
        ]
        if self._update is None:
            constants = map(self._stack.whole, (*self._learner.tensors, *storage))
            update = in_place(vmap(self._learner.update_tensors))
            self._update = self._made(update, list(constants), stacked)
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
        """Action values [R, N, A] of `obs` [R, N, *obs_shape], without noise."""
        given = torch.from_numpy(obs).to(self._network[0].device)
        if self._values is None:
            self._values = self._made(self._values_of_all, self._network, [given])
        values: Array = self._values(given).cpu().numpy()
        return values

    def _values_of_all(self, *tensors: Tensor) -> Tensor:
        no_noise = tensors[0].new_empty(self._stack.num_runs, 0)
        return vmap(self._learner.values)(*tensors, no_noise)

    def _made(
        self, function: Callable[..., Tensor], constants: Sequence[Tensor], given: Sequence[Tensor]
    ) -> Callable[..., Tensor]:
        """`function` of `constants` and of tensors like `given`, compiled if that can be."""
        if self._compiles:
            compiler = capture if self._is_cuda else compile_ahead
            try:
                return compiler(function, constants, [tensor.clone() for tensor in given])
            except CompilationError as reason:
                self._compiles = False
                logger.warning("runs are trained uncompiled, several times slower: %s", reason)

        @torch.no_grad()
        def eager(*tensors: Tensor) -> Tensor:
            return function(*constants, *tensors)

        return eager
