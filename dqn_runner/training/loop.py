"""The training loop: deep Q-learning with experience replay (Mnih et al. 2015, algorithm 1)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from dqn_runner.agents.policies import LearnedPolicy
from dqn_runner.errors import Stopped
from dqn_runner.seeding import draw_seed, get_state, set_state
from dqn_runner.training.evaluation import never_stop
from dqn_runner.training.meter import Meter
from dqn_runner.training.requests import Act, Asking, Learn, serve
from dqn_runner.training.spec import TrainingSpec, crossings
from dqn_runner.training.state import Parts, save, save_best
from dqn_runner.types import Best, Progress, Row

STEPS_BETWEEN_PIECES = 64  # env steps between looks at what the next checkpoint would have to save


class Logger(Protocol):
    """Something that takes rows of metrics."""

    def log(self, row: Row, /) -> None:
        """Take one row."""


def never_film(policy: LearnedPolicy, seed: int) -> None:
    """A `film` that does nothing."""


class Training:
    """The training of one run, from where `progress` stands; each logger gets each row.

    `check_stop` is called between steps, also those of evaluations, and `check_pruned` after each
    evaluation. Both may raise; everything is consistent at those moments. `film` is called in each
    evaluation, with the policy and the seed of its first episode, and may raise Stopped.
    """

    def __init__(
        self,
        spec: TrainingSpec,
        parts: Parts,
        progress: Progress,
        loggers: Sequence[Logger],
        *,
        check_stop: Callable[[], None] = never_stop,
        check_pruned: Callable[[], None] = never_stop,
        film: Callable[[LearnedPolicy, int], None] = never_film,
    ) -> None:
        self._spec, self._parts, self._progress = spec, parts, progress
        self._loggers = loggers
        self._check_stop, self._check_pruned, self._film = check_stop, check_pruned, film
        self._meter = Meter(progress, parts.agent, parts.agent_spec, parts.frames_per_step)

    def run(self) -> None:
        """Train until a budget is spent."""
        serve(self.asking())

    def asking(self) -> Asking[None]:
        """Train until a budget is spent; whoever drives this acts and learns as it asks."""
        spec, parts, progress = self._spec, self._parts, self._progress
        agent, envs, storage, sampler = parts.agent, parts.envs, parts.storage, parts.sampler
        if progress.env_steps > progress.reported_env_steps:  # it was stopped in an evaluation
            self._report()
        while not spec.is_spent(progress):
            self._check_stop()
            steps_before, episodes_before = progress.env_steps, progress.episodes

            progress.epsilon = parts.epsilon(progress.env_steps, progress.episodes)
            action = yield Act(agent, envs, progress.epsilon, progress.env_steps)
            step = parts.agent_spec.learned_from(envs.step(action))
            progress.see(step.reward, step.terminated)
            final_action = (
                agent.final_actions(step, progress.epsilon)
                if parts.assembler.needs_final_action
                else {}
            )
            for transition in parts.assembler.transitions(storage.keep(step), final_action):
                storage.add(transition)
            progress.env_steps += spec.num_envs
            for episode in step.episodes:
                progress.finish(episode)
                self._log(episode.metrics())

            phase_ends = spec.ends_phase(episodes_before, progress)
            updates = spec.updates_due(len(storage), steps_before, progress, phase_ends)
            if updates:
                agent.settle_range(parts.agent_spec, progress)
                moving = parts.agent_spec.moving_hyperparameters(progress, agent.num_actions)
                agent.learner.set_hyperparameters(moving)
                sampler.anneal(progress.env_steps)
            for _ in range(updates):
                indices, weights = sampler.draw(spec.batch_size, parts.replay_rng)
                priorities = yield Learn(agent, storage.tensors, indices, weights)
                sampler.update(indices, priorities)
            if phase_ends:
                storage.clear()
            agent.observe_env_steps(steps_before, progress.env_steps)
            self._report()

    def _report(self) -> None:
        """Evaluate, log and save what has become due since the last report.

        If an evaluation is stopped, all of it is still due.
        """
        spec, progress = self._spec, self._progress
        steps_before, episodes_before = progress.reported_env_steps, progress.reported_episodes
        row: Row = {}
        by_env_steps = spec.eval.unit == "env_step"
        before = steps_before if by_env_steps else episodes_before
        now = progress.env_steps if by_env_steps else progress.episodes
        is_evaluated = bool(crossings(before, now, spec.eval.interval))
        if is_evaluated:
            with self._meter.paused("evaluating"):
                row |= self._evaluate()
        log_is_due = crossings(steps_before, progress.env_steps, spec.log.interval)
        if log_is_due or spec.is_spent(progress):
            row |= self._meter.read()
        if row:
            self._log(row)
        if is_evaluated:
            self._check_pruned()
        progress.reported_env_steps = progress.env_steps
        progress.reported_episodes = progress.episodes
        if crossings(steps_before, progress.env_steps, spec.checkpoint.interval):
            save(self._parts, progress)
        elif crossings(steps_before, progress.env_steps, STEPS_BETWEEN_PIECES):
            self._parts.checkpoints.save_pieces(self._parts.storage.rings)

    def _evaluate(self) -> Row:
        """Evaluate the policy on fresh episodes, and keep it if it is the best so far.

        If this is stopped nothing has changed, and the same seeds will be drawn again.
        """
        parts, progress = self._parts, self._progress
        before = get_state(parts.evaluation_rng)
        seeds = [draw_seed(parts.evaluation_rng) for _ in range(self._spec.eval.num_episodes)]
        policy, began = parts.agent.policy.seeded(seeds), time.perf_counter()
        try:
            evaluation = parts.evaluator.evaluate(policy, seeds, self._check_stop)
            progress.seconds_per_episode = (time.perf_counter() - began) / len(seeds)
            self._film(policy, seeds[0])
        except Stopped as stop:
            stop.at_safe_point = True  # of training, wherever the evaluation was
            set_state(parts.evaluation_rng, before)
            raise
        progress.evaluated_env_steps = progress.env_steps
        if progress.best is None or evaluation.mean >= progress.best.mean:
            params = parts.agent.learner.state.params.clone()
            progress.best = Best(evaluation.mean, progress.env_steps, params)
            save_best(parts, progress)
        return evaluation.metrics() | {"eval/best_return_mean": progress.best.mean}

    def _log(self, metrics: Row) -> None:
        """Give a row to every logger."""
        progress = self._progress
        row = {"env_steps": progress.env_steps, "episodes": progress.episodes} | metrics
        for logger in self._loggers:
            logger.log(row)
