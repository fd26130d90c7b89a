"""What a run asks for: compilation, actions and updates, by itself or for several runs at once.

Training is a generator that yields requests and is sent what they ask for. So the same loop trains
a run alone, where each request is served at once, and runs together, whose requests wait until all
of them can be served by one call.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from dqn_runner.agents.agent import Agent
from dqn_runner.envs.vector import Environments
from dqn_runner.learning.compilation import CompilationError
from dqn_runner.types import Array

logger = logging.getLogger(__name__)

UNCOMPILED = "the update runs uncompiled, several times slower: %s"

T = TypeVar("T")


class Compile(NamedTuple):
    """Asks, before anything else, that acting and updates be compiled; told whether they are."""

    agent: Agent
    storage: Sequence[Tensor]
    batch_size: int
    obs: Array  # [N, *obs_shape], like those that are acted on

    def serve(self) -> bool:
        """Whether they are; a warning says why not."""
        try:
            self.agent.compile(self.storage, self.batch_size, self.obs)
        except CompilationError as reason:
            logger.warning(UNCOMPILED, reason)
            return False
        return True


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


Request = Compile | Act | Learn
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
