"""What training works with, and what a checkpoint keeps of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from dqn_runner.agents.agent import Agent
from dqn_runner.agents.spec import AgentSpec
from dqn_runner.buffers.rows import RowStorage
from dqn_runner.envs.vector import Environments
from dqn_runner.errors import RunError, in_a_line
from dqn_runner.seeding import get_state, set_state
from dqn_runner.training.checkpoint import Checkpoints
from dqn_runner.training.evaluation import Evaluator
from dqn_runner.training.meter import diverged
from dqn_runner.types import Best, EnvStep, Progress, Transition


class Assembler(Protocol):
    """Makes transitions of steps."""

    needs_final_action: bool  # the action at an observation that ended a truncated episode

    def transitions(
        self, step: EnvStep, final_action: Mapping[int, int], /
    ) -> Iterator[Transition]:
        """The transitions that `step` completes; `final_action` is by environment."""

    def forget(self, i: int, /) -> None:
        """Drop what is not complete in environment `i`."""

    def get_state(self) -> Any:
        """What is not complete yet."""

    def set_state(self, state: Any, /) -> None:
        """Go on from `state`."""


class Sampler(Protocol):
    """Chooses which transitions to learn from."""

    def anneal(self, env_steps: int, /) -> None:
        """Adapt to `env_steps`, before a round of learning."""

    def draw(self, batch_size: int, rng: np.random.Generator, /) -> tuple[Tensor, Tensor]:
        """Indices into the storage and importance weights, both [batch_size]."""

    def update(self, indices: Tensor, priorities: Tensor, /) -> None:
        """Take note of the priorities [B] that an update found at `indices` [B]."""

    def get_state(self) -> dict[str, Any]:
        """What drawing depends on beside the storage, as tensors and numbers."""

    def set_state(self, state: dict[str, Any], /) -> None:
        """Go on from there; the storage is filled already."""


class Parts(NamedTuple):
    """What training works with, built and seeded."""

    agent: Agent
    envs: Environments
    storage: RowStorage
    sampler: Sampler
    assembler: Assembler
    epsilon: Callable[[int, int], float]
    agent_spec: AgentSpec
    evaluator: Evaluator
    replay_rng: np.random.Generator
    evaluation_rng: np.random.Generator
    checkpoints: Checkpoints
    frames_per_step: int = 1  # of the game, in an env step
    num_rows: int = 1  # of the memory that an update works on, one for each run


def save_best(parts: Parts, progress: Progress) -> None:
    """Save what the agent has learned as best.pt."""
    learned = {"agent": parts.agent.get_state(), "env_steps": progress.env_steps}
    parts.checkpoints.save_best(learned)


def save(parts: Parts, progress: Progress) -> None:
    """Save all that is needed to go on as if nothing had happened.

    Raises RunError, and leaves the last checkpoint as it is, if the parameters are not finite.
    """
    if not bool(torch.isfinite(parts.agent.learner.state.params).all()):
        raise diverged(progress)
    best, network = progress.best, parts.agent.learner.rule.network
    state = {
        "env_steps": progress.env_steps,
        "trained_together": parts.num_rows,  # in result.json that is the number of runs
        "progress": progress.get_state(),
        "agent": parts.agent.get_state(),
        "envs": parts.envs.get_state(),
        "assembler": parts.assembler.get_state(),
        "sampler": parts.sampler.get_state(),
        "best": best and vars(replace(best, params=network.by_rows(best.params))),
        "streams": {
            "env": get_state(parts.envs.rng),
            "replay": get_state(parts.replay_rng),
            "evaluation": get_state(parts.evaluation_rng),
        },
    }
    parts.checkpoints.save_last(state, parts.storage.rings)


def restore(parts: Parts, progress: Progress, state: dict[str, Any]) -> list[int]:
    """Put everything back as it was when `state` was saved.

    Returns the environments that are not where they were, because they are not deterministic.
    Raises RunError for a state that does not fit.
    """
    try:
        return _restore(parts, progress, state)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError) as error:
        raise RunError(f"the checkpoint does not fit this run: {in_a_line(error)}") from error


def _restore(parts: Parts, progress: Progress, state: dict[str, Any]) -> list[int]:
    progress.set_state(state["progress"])
    parts.agent.set_state(state["agent"])
    best, network = state["best"], parts.agent.learner.rule.network
    progress.best = best and Best(**{**best, "params": network.from_rows(best["params"])})
    parts.assembler.set_state(state["assembler"])
    parts.checkpoints.load_replay(state, parts.storage.rings)
    parts.sampler.set_state(state.get("sampler", {}))  # older runs have drawn uniformly
    streams = state["streams"]
    set_state(parts.envs.rng, streams["env"])
    set_state(parts.replay_rng, streams["replay"])
    set_state(parts.evaluation_rng, streams["evaluation"])
    strayed = parts.envs.set_state(state["envs"])
    for i in strayed:
        parts.assembler.forget(i)
        parts.storage.forget(i)
    return strayed
