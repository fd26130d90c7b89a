"""Training several runs in lockstep: one call makes the updates of all, and one acts for all."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dqn_runner.allocation import Stack
from dqn_runner.errors import Stopped
from dqn_runner.learning.compilation import CompilationError
from dqn_runner.learning.together import LearnerGroup
from dqn_runner.training.evaluation import never_stop
from dqn_runner.training.requests import UNCOMPILED, Act, Asking, Compile, Learn, Request
from dqn_runner.types import Array

logger = logging.getLogger(__name__)


class Lockstep:
    """Drives `runs`, by their row in `stack`, where their tensors are.

    Those that are furthest behind take the next step. A run that fails must tell so itself; it
    leaves, and what is computed in its row means nothing from then on. `enter` is called with the
    row of a run whenever that goes on, and `check_stop`, which may raise Stopped, between what
    takes long before the first step.
    """

    def __init__(
        self,
        runs: Mapping[int, Asking[Any]],
        stack: Stack,
        *,
        enter: Callable[[int], None],
        check_stop: Callable[[], None] = never_stop,
    ) -> None:
        self._runs, self._stack, self._enter = runs, stack, enter
        self._check_stop = check_stop
        self._requests: dict[int, Request] = {}  # of the runs that are not over
        self._group: LearnerGroup | None = None
        self._obs: Array | None = None  # [R, N, *obs_shape]
        self._stop: Stopped | None = None

    def run(self) -> None:
        """Drive all runs until they are over; raises Stopped if a signal has ended one."""
        with contextlib.ExitStack() as stack:
            for asking in self._runs.values():
                stack.callback(asking.close)
            for run in self._runs:
                self._check_stop()
                self._go_on(run, None)
            self._check_stop()
            self._compile()
            while self._requests:
                learning = {r: q for r, q in self._requests.items() if isinstance(q, Learn)}
                if learning:
                    self._learn(learning)
                else:
                    self._act({r: q for r, q in self._requests.items() if isinstance(q, Act)})
        if self._stop is not None:
            raise self._stop

    def _go_on(self, run: int, answer: object, error: BaseException | None = None) -> None:
        """Answer the request of a run, or raise `error` there; it goes on to the next one."""
        self._enter(run)
        asking = self._runs[run]
        try:
            self._requests[run] = asking.send(answer) if error is None else asking.throw(error)
        except StopIteration:
            self._requests.pop(run, None)
        except Stopped as stop:
            self._requests.pop(run, None)
            if not stop.at_safe_point:  # a second signal: the others do not save first
                raise
            self._stop = self._stop or stop

    def _compile(self) -> None:
        """Compile for all, if all ask for it; each that asks is told whether it is."""
        asking = {r: q for r, q in self._requests.items() if isinstance(q, Compile)}
        if not asking:
            return
        reason = ""
        if len(asking) < len(self._requests):
            reason = "others of its group are not compiled"
        else:
            row, first = next(iter(asking.items()))
            self._enter(row)
            obs = None if first.agent.acts_with_noise else first.obs
            try:
                self._group_of(first).compile(first.batch_size, obs)
            except CompilationError as error:
                reason = str(error)
        for run in asking:
            self._enter(run)
            if reason:
                logger.warning(UNCOMPILED, reason)
            self._go_on(run, not reason)

    def _act(self, acting: Mapping[int, Act]) -> None:
        behind = min(request.env_steps for request in acting.values())
        due = {run: request for run, request in acting.items() if request.env_steps == behind}
        try:
            q_values = self._q_values(due)
        except Exception as error:  # of a network of the user's own
            for run in due:
                self._go_on(run, None, error)
            return
        answers: dict[int, tuple[list[int] | None, Exception | None]] = {}
        for run, (agent, envs, epsilon, _) in due.items():
            values = None if q_values is None else q_values[run]
            try:
                action = agent.act(envs.obs, epsilon, envs.action_mask, values)
            except Exception as error:
                answers[run] = None, error
            else:
                envs.begin(action)
                answers[run] = action, None
        for run, answer in answers.items():
            self._go_on(run, *answer)

    def _q_values(self, due: Mapping[int, Act]) -> Array | None:
        """Action values [R, N, A] for those that are due; None if each computes its own."""
        if self._group is None or not self._group.acts:
            return None
        if self._obs is None:
            obs = next(iter(due.values())).envs.obs
            self._obs = np.zeros((self._stack.num_rows, *obs.shape), obs.dtype)
        for run, request in due.items():
            self._obs[run] = request.envs.obs
        return self._group.q_values(self._obs)

    def _learn(self, learning: Mapping[int, Learn]) -> None:
        group = self._group_of(next(iter(learning.values())))
        inputs = {
            run: request.agent.next_inputs(request.indices, request.weights)
            for run, request in learning.items()
        }
        waiting = [run for run in self._requests if run not in learning]
        try:
            priorities = group.update(inputs, waiting)
        except Exception as error:  # of a network of the user's own
            for run in learning:
                self._go_on(run, None, error)
            return
        for run, request in learning.items():
            try:
                request.agent.observe_update()
            except Exception as error:
                self._go_on(run, None, error)
            else:
                self._go_on(run, priorities[run])

    def _group_of(self, request: Compile | Learn) -> LearnerGroup:
        if self._group is None:
            self._group = LearnerGroup(request.agent.learner, self._stack, request.storage)
        return self._group
