"""Training several runs in lockstep: one call makes the updates of all, and one acts for all."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dqn_runner.allocation import Stack
from dqn_runner.errors import Stopped
from dqn_runner.learning.together import LearnerGroup
from dqn_runner.training.requests import Act, Asking, Learn, Request
from dqn_runner.types import Array


class Lockstep:
    """Drives `runs`, by their row in `stack`, where their tensors are.

    Those that are furthest behind take the next step. A run that fails must tell so itself; it
    leaves, and what is computed in its row means nothing from then on. `enter` is called with the
    row of a run whenever that goes on.
    """

    def __init__(
        self,
        runs: Mapping[int, Asking[Any]],
        stack: Stack,
        *,
        compiles: bool,
        enter: Callable[[int], None],
    ) -> None:
        self._runs, self._stack, self._enter = runs, stack, enter
        self._compiles = compiles
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
                self._go_on(run, None)
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
            self._stop = self._stop or stop

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
        first = next(iter(due.values()))
        if not self._compiles or first.agent.acts_with_noise:
            return None
        if self._obs is None:
            obs = first.envs.obs
            self._obs = np.zeros((self._stack.num_runs, *obs.shape), obs.dtype)
        for run, request in due.items():
            self._obs[run] = request.envs.obs
        return self._group_of(first).q_values(self._obs)

    def _learn(self, learning: Mapping[int, Learn]) -> None:
        first = next(iter(learning.values()))
        inputs = {
            run: request.agent.next_inputs(request.indices, request.weights)
            for run, request in learning.items()
        }
        waiting = [run for run in self._requests if run not in learning]
        try:
            priorities = self._group_of(first).update(inputs, first.storage, waiting)
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

    def _group_of(self, request: Request) -> LearnerGroup:
        if self._group is None:
            learner = request.agent.learner
            self._group = LearnerGroup(learner, self._stack, compiles=self._compiles)
        return self._group
