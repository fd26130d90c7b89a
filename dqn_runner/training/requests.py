"""What training asks for: actions and updates, for one run by itself or for several at once.

Training is a generator that yields requests and is sent what they ask for. So the same loop trains
a run alone, where each request is served at once, and runs together, whose requests wait until all
of them can be served by one call.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from dqn_runner.agents.agent import Agent
from dqn_runner.envs.vector import Environments

T = TypeVar("T")


class Act(NamedTuple):
    """Asks for actions [N] in `envs`; see `Agent.act`."""

    agent: Agent
    envs: Environments
    epsilon: float
    env_steps: int  # so far

    def serve(self) -> list[int]:
        """The actions."""
        return self.agent.act(self.envs.obs, self.epsilon, self.envs.action_mask)


class Learn(NamedTuple):
    """Asks for an update, and for the priorities [B] that it found; see `Agent.learn`."""

    agent: Agent
    storage: Sequence[Tensor]
    indices: Tensor
    weights: Tensor

    def serve(self) -> Tensor:
        """The priorities, after the update."""
        return self.agent.learn(self.storage, self.indices, self.weights)


Request = Act | Learn
Asking = Generator[Request, Any, T]  # it ends with a T


def serve(asking: Asking[T]) -> T:
    """Serve each request of `asking` at once; returns what it ends with."""
    try:
        request = next(asking)
        while True:
            try:
                answer = request.serve()
            except BaseException as error:
                request = asking.throw(error)
            else:
                request = asking.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result
