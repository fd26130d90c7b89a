"""The training loop: deep Q-learning with experience replay (Mnih et al. 2015, algorithm 1)."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dqn_runner.agents.agent import Agent
from dqn_runner.agents.dqn import AgentSpec
from dqn_runner.buffers.uniform import UniformBuffer
from dqn_runner.envs.vector import Environments
from dqn_runner.errors import RunError, Stopped, in_a_line
from dqn_runner.seeding import draw_seed, get_state, set_state
from dqn_runner.training.checkpoint import Checkpoints
from dqn_runner.training.evaluation import Evaluator
from dqn_runner.training.meter import Meter, diverged
from dqn_runner.training.spec import TrainingSpec, crossings
from dqn_runner.types import EnvStep, Progress, Row, Transition

logger = logging.getLogger(__name__)

# Q-values may leave the possible returns by this share of their range before it is called
# divergence: a network that is still wrong somewhere does so for a while.
SLACK = 0.5


class Logger(Protocol):
    """Something that takes rows of metrics."""

    def log(self, row: Row, /) -> None: ...


class Assembler(Protocol):
    """Makes transitions of the steps taken under ε."""

    def transitions(self, step: EnvStep, epsilon: float, /) -> Iterator[Transition]: ...

    def forget(self, i: int, /) -> None: ...

    def get_state(self) -> Any: ...

    def set_state(self, state: Any, /) -> None: ...


@dataclass
class Parts:
    """What training works with, built and seeded."""

    agent: Agent
    envs: Environments
    buffer: UniformBuffer
    assembler: Assembler
    epsilon: Callable[[int, int], float]
    agent_spec: AgentSpec
    evaluator: Evaluator
    replay_rng: np.random.Generator
    evaluation_rng: np.random.Generator
    checkpoints: Checkpoints
    loggers: list[Logger]
    best: Best | None = None


@dataclass
class Best:
    """The parameters [P] with the best evaluation so far (the latest of equals)."""

    mean: float
    env_steps: int
    params: Tensor


def train(
    spec: TrainingSpec, parts: Parts, progress: Progress, check_stop: Callable[[], None]
) -> None:
    """Train until a budget is spent.

    `check_stop` is called between steps, of evaluations too, where everything is consistent, and
    may raise.
    """
    agent, envs, buffer = parts.agent, parts.envs, parts.buffer
    meter = Meter(progress)
    if progress.env_steps > progress.reported_env_steps:  # it was stopped in an evaluation
        report(spec, parts, progress, meter, check_stop)
    while not spec.is_spent(progress):
        check_stop()
        steps_before, episodes_before = progress.env_steps, progress.episodes

        progress.epsilon = parts.epsilon(progress.env_steps, progress.episodes)
        action = agent.act(envs.obs, progress.epsilon)
        step = envs.step(action)
        progress.see(step.reward)
        for transition in parts.assembler.transitions(step, progress.epsilon):
            buffer.add(transition)
        progress.env_steps += spec.num_envs
        for episode in step.episodes:
            progress.finish(episode)
            log(parts, progress, episode.metrics())

        phase_ends = spec.ends_phase(episodes_before, progress)
        updates = updates_due(spec, len(buffer), steps_before, progress, phase_ends)
        if updates:
            agent.learner.set_hyperparameters(parts.agent_spec.moving_hyperparameters(progress))
        for _ in range(updates):
            agent.learn(buffer.storage, buffer.sample(spec.batch_size, parts.replay_rng))
        if phase_ends:
            buffer.clear()
        agent.observe_env_steps(steps_before, progress.env_steps)
        report(spec, parts, progress, meter, check_stop)


def report(
    spec: TrainingSpec,
    parts: Parts,
    progress: Progress,
    meter: Meter,
    check_stop: Callable[[], None],
) -> None:
    """Evaluate, log and save, as far as that has become due since the last report.

    Where `check_stop` raises in the evaluation it is all still due.
    """
    steps_before, episodes_before = progress.reported_env_steps, progress.reported_episodes
    row: Row = {}
    by_env_steps = spec.eval.unit == "env_step"
    before = steps_before if by_env_steps else episodes_before
    now = progress.env_steps if by_env_steps else progress.episodes
    if crossings(before, now, spec.eval.interval):
        with meter.paused("evaluating"):
            row |= evaluate(spec, parts, progress, check_stop)
    if crossings(steps_before, progress.env_steps, spec.log.interval) or spec.is_spent(progress):
        row |= meter.read(parts.agent)
        row["train/lr"] = parts.agent_spec.learning_rate(progress.env_steps)
        warn_of_divergence(row, parts, progress)
    if row:
        log(parts, progress, row)
    progress.reported_env_steps, progress.reported_episodes = progress.env_steps, progress.episodes
    if crossings(steps_before, progress.env_steps, spec.checkpoint.interval):
        save(parts, progress)


def updates_due(
    spec: TrainingSpec, stored: int, steps_before: int, progress: Progress, phase_ends: bool
) -> int:
    """How many updates follow a step: some at each, or all of a phase's at its end."""
    if spec.phase.epochs is not None:
        return spec.phase.epochs * (stored // spec.batch_size) if phase_ends else 0
    if progress.env_steps < spec.learning_starts or stored < spec.batch_size:
        return 0
    rounds = crossings(steps_before, progress.env_steps, spec.train_frequency)
    return rounds * spec.gradient_steps


def log(parts: Parts, progress: Progress, metrics: Row) -> None:
    """Hand a row to everyone who takes rows."""
    row = {"env_steps": progress.env_steps, "episodes": progress.episodes} | metrics
    for logger in parts.loggers:
        logger.log(row)


def evaluate(
    spec: TrainingSpec, parts: Parts, progress: Progress, check_stop: Callable[[], None]
) -> Row:
    """Evaluate the policy on fresh episodes, and keep it where it is the best so far.

    Where that is stopped nothing has changed, and the same seeds will be drawn again.
    """
    rng = copy.deepcopy(parts.evaluation_rng)
    seeds = [draw_seed(rng) for _ in range(spec.eval.num_episodes)]
    try:
        evaluation = parts.evaluator.evaluate(parts.agent.policy.seeded(seeds), seeds, check_stop)
    except Stopped as stop:
        stop.at_safe_point = True  # of training, wherever the evaluation was
        raise
    parts.evaluation_rng = rng
    if parts.best is None or evaluation.mean >= parts.best.mean:
        params = parts.agent.learner.state.params.clone()
        parts.best = Best(evaluation.mean, progress.env_steps, params)
        save_best(parts, progress)
    return evaluation.metrics() | {"eval/best_return_mean": parts.best.mean}


def save_best(parts: Parts, progress: Progress) -> None:
    """Save what the agent has learned as best.pt."""
    learned = {"agent": parts.agent.get_state(), "env_steps": progress.env_steps}
    parts.checkpoints.save_best(learned)


def save(parts: Parts, progress: Progress) -> None:
    """Save all that it takes to go on as if nothing had happened.

    Raises RunError, and leaves the last checkpoint as it is, where learning has come to nothing.
    """
    if not bool(torch.isfinite(parts.agent.learner.state.params).all()):
        raise diverged(progress)
    state = {
        "env_steps": progress.env_steps,
        "progress": progress.get_state(),
        "agent": parts.agent.get_state(),
        "envs": parts.envs.get_state(),
        "assembler": parts.assembler.get_state(),
        "best": parts.best and vars(parts.best),
        "streams": {
            "env": get_state(parts.envs.rng),
            "replay": get_state(parts.replay_rng),
            "evaluation": get_state(parts.evaluation_rng),
        },
    }
    parts.checkpoints.save_last(state, parts.buffer)


def restore(parts: Parts, progress: Progress, state: dict[str, Any]) -> list[int]:
    """Put everything back as it was when `state` was saved.

    Returns the environments that are not where they were, for they are not deterministic. Raises
    RunError for a state that does not fit.
    """
    try:
        return _restore(parts, progress, state)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError) as error:
        reason = in_a_line(error)
        raise RunError(f"the checkpoint does not fit this run: {reason}") from error


def _restore(parts: Parts, progress: Progress, state: dict[str, Any]) -> list[int]:
    progress.set_state(state["progress"])
    parts.agent.set_state(state["agent"])
    parts.assembler.set_state(state["assembler"])
    parts.best = state["best"] and Best(**state["best"])
    parts.checkpoints.load_replay(state, parts.buffer)
    streams = state["streams"]
    set_state(parts.envs.rng, streams["env"])
    set_state(parts.replay_rng, streams["replay"])
    set_state(parts.evaluation_rng, streams["evaluation"])
    strayed = parts.envs.set_state(state["envs"])
    for i in strayed:
        parts.assembler.forget(i)
    return strayed


def warn_of_divergence(row: Row, parts: Parts, progress: Progress) -> None:
    """Say once where Q-values are far from any return that is possible."""
    low, high = parts.agent_spec.return_bounds(progress)
    slack = SLACK * (high - low)
    if progress.has_warned or slack == 0.0 or "train/q_max" not in row:
        return
    if row["train/q_max"] > high + slack:
        beyond, limit = row["train/q_max"], f"at most {_short(high)}"
    elif row["train/q_min"] < low - slack:
        beyond, limit = row["train/q_min"], f"at least {_short(low)}"
    else:
        return
    progress.has_warned = True
    logger.warning(
        "Q-values of %s where returns so far allow %s: learning diverges; try "
        "agent.clip_target=true, network.norm=layer_norm or agent.loss=mse",
        _short(beyond),
        limit,
    )


def _short(number: float) -> str:
    """`number` to three digits, as a person writes it: 12,300."""
    return f"{float(f'{number:.3g}'):,g}"
