"""One run, from its configuration to its result.json."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from rich.console import Console
from rich.status import Status

from dqn_runner.agents.policies import LearnedPolicy
from dqn_runner.allocation import Allocate, own_memory
from dqn_runner.analysis.curve import draw_curve
from dqn_runner.config.build import building
from dqn_runner.config.root import Config, find_modules, read
from dqn_runner.errors import ConfigError, RunError, Stopped
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.runs.films import Films
from dqn_runner.runs.metrics_file import MetricsFile, cut
from dqn_runner.runs.progress_bar import ProgressDisplay
from dqn_runner.runs.report import (
    EvaluationLog,
    Scores,
    announce,
    report,
    report_stop,
    result,
    start_of,
)
from dqn_runner.runs.stop_signals import StopSignals
from dqn_runner.runs.tracked import close_tracker, open_tracker
from dqn_runner.seeding import draw_seed
from dqn_runner.tracking.tracker import EndState, SwanLabTracker, result_metrics
from dqn_runner.training.evaluation import Evaluation
from dqn_runner.training.loop import Logger, Training
from dqn_runner.training.requests import Asking, serve
from dqn_runner.training.state import Parts, restore, save, save_best
from dqn_runner.types import Best, Progress

logger = logging.getLogger(__name__)

T = TypeVar("T")

# What each budget counts, by its name in progress and in result.json.
BUDGETS = {"total_timesteps": "env_steps", "total_episodes": "episodes"}


class Host(NamedTuple):
    """What a run has from its process, where it is alone or one of several trained together."""

    console: Console
    signals: StopSignals
    memory: Allocate = own_memory
    num_runs: int = 1  # that are trained together
    num_rows: int = 1  # in the memory of all of them
    # Closes SwanLab's side of a run by an action that takes long; after a signal it may wait.
    close: Callable[[EndState, Callable[[], None]], None] = lambda _, action: action()


def run(config: Config, path: Path, console: Console) -> Scores:
    """Train as `config` says, in the new run directory `path`.

    Raises RunError if `path` holds a run already or something fails, and Stopped after a signal,
    with the last checkpoint saved and the tracker closed.
    """
    return alone(running(config, path, Host(console, StopSignals())))


def resume(path: Path, budgets: dict[str, int], console: Console, *, trust: bool = False) -> Scores:
    """Go on with the run in `path` from its last checkpoint, as if nothing had happened.

    `budgets` may be larger than those it had. Without a checkpoint it starts from the beginning.
    Raises what `run` raises, and ConfigError for a run that has nothing left to do.
    """
    return alone(resuming(path, budgets, Host(console, StopSignals()), trust=trust))


def alone(asking: Asking[T]) -> T:
    """Drive a run by itself, serving each of its requests at once."""
    with flushed_denormals():
        return serve(asking)


def running(config: Config, path: Path, host: Host) -> Asking[Scores]:
    """`run`, as a generator that whoever drives it acts and learns for."""
    started, run_dir = time.perf_counter(), RunDirectory(path)
    find_modules(config)
    run_dir.claim_new()
    with contextlib.closing(run_dir):
        config, parts = yield from assemble(config, run_dir, host)
        run_dir.start(config.plain())
        return (yield from finish(config, parts, run_dir, Progress(), host, started))


def resuming(
    path: Path, budgets: dict[str, int], host: Host, *, trust: bool = False
) -> Asking[Scores]:
    """`resume`, as a generator that whoever drives it acts and learns for."""
    started, run_dir, progress = time.perf_counter(), RunDirectory(path), Progress()
    run_dir.check_sound()
    config = extended(read(run_dir.config, trust=trust), budgets)
    run_dir.claim()
    with contextlib.closing(run_dir):
        has_finished = run_dir.has_finished()
        if has_finished:
            check_extended(config, run_dir)
        elif run_dir.result.exists():
            logger.warning("%s holds no result; it is made again", run_dir.result)
        config, parts = yield from assemble(config, run_dir, host)
        state = parts.checkpoints.load_last()
        if state is None and run_dir.result.exists():
            raise RunError("it has finished, and its checkpoints are gone: nothing to go on from")
        if state is None:
            run_dir.metrics.unlink(missing_ok=True)
        else:
            restore_all(parts, progress, state)
            cut(run_dir.metrics, progress.env_steps, progress.episodes)
        run_dir.reopen(config.plain())
        logger.info("goes on at env step %s", f"{progress.env_steps:,}")
        return (yield from finish(config, parts, run_dir, progress, host, started))


def restore_all(parts: Parts, progress: Progress, state: dict[str, Any]) -> None:
    """Restore a checkpoint's state, and warn if that was not possible in full."""
    before = state.get("trained_together", 1)
    if before != parts.num_rows:
        logger.warning(
            "its updates were computed in %d rows, one for each run of a group, and now in %d: "
            "from here on it agrees with an undisturbed run up to the rounding of floats",
            before,
            parts.num_rows,
        )
    for i in restore(parts, progress, state):
        logger.warning(
            "environment %d is not deterministic: it goes on with a new episode, and the run will "
            "not be the one it would have been",
            i,
        )


def extended(config: Config, budgets: dict[str, int]) -> Config:
    """`config` with larger budgets; raises ConfigError for one that is not larger."""
    for name, budget in budgets.items():
        former = getattr(config, name)
        if former is None:
            had = " and ".join(n for n in BUDGETS if getattr(config, n) is not None)
            raise ConfigError(f"{name}={budget}: the run has none; a larger {had} extends it")
        if budget <= former:
            raise ConfigError(f"{name}={budget}: must be more than the run had, {former}")
    return config.model_copy(update=budgets)


def check_extended(config: Config, run_dir: RunDirectory) -> None:
    """Raise ConfigError if the run has spent a budget and `config` has no larger one.

    And if it cannot go on, because it removed its transitions when it had finished.
    """
    if config.checkpoint.keep_replay == "until_finished":
        raise ConfigError(
            f"resume={run_dir.path}: has finished, and removed its transitions then, as "
            "checkpoint.keep_replay=until_finished says; it cannot be extended"
        )
    done = run_dir.read_result() or {}
    limits = {name: getattr(config, name) for name in BUDGETS}
    spent = [n for n, limit in limits.items() if limit is not None and done[BUDGETS[n]] >= limit]
    if spent:
        names = " and ".join(spent)
        raise ConfigError(f"resume={run_dir.path}: has finished; a larger {names} extends it")


def assemble(config: Config, run_dir: RunDirectory, host: Host) -> Asking[tuple[Config, Parts]]:
    """Build what training works with, and show what takes time."""
    with contextlib.nullcontext() if host.console.quiet else shown_compiling(host.console):
        config, parts = yield from building(config, run_dir, host.memory)
    return config, parts._replace(num_rows=host.num_rows)


@contextlib.contextmanager
def shown_compiling(console: Console) -> Iterator[None]:
    """Show that the agent is built, and what compiling it waits for."""
    compiling = logging.getLogger("dqn_runner.learning.compilation")
    with console.status("building the agent") as status:
        shown = _Shown(status)
        compiling.addHandler(shown)
        try:
            yield
        finally:
            compiling.removeHandler(shown)


class _Shown(logging.Handler):
    """Shows what is logged in a status line."""

    def __init__(self, status: Status) -> None:
        super().__init__(logging.INFO)
        self._status = status

    def emit(self, record: logging.LogRecord) -> None:
        """Show the record's text in place of what is shown."""
        self._status.update(record.getMessage())


def finish(  # noqa: PLR0917
    config: Config,
    parts: Parts,
    run_dir: RunDirectory,
    progress: Progress,
    host: Host,
    started: float,
) -> Asking[Scores]:
    """Train on from `progress`, score, and write the result."""
    run_dir.note_start(start_of(config, run_dir))
    announce(config, parts, host.console)
    began = started - progress.elapsed_seconds
    scores, ended = yield from train_and_score(config, parts, run_dir, progress, host, began)
    run_dir.finish(ended)
    if config.checkpoint.keep_replay == "until_finished":
        parts.checkpoints.remove_replay()
    report(config, run_dir, scores, host.console)
    logger.info("finished, after %s s", f"{ended['wall_time_seconds']:,.1f}")
    return scores


def train_and_score(  # noqa: PLR0917
    config: Config,
    parts: Parts,
    run_dir: RunDirectory,
    progress: Progress,
    host: Host,
    began: float,
) -> Asking[tuple[Scores, dict[str, Any]]]:
    """Train and score while display and trackers follow; then close all that is open.

    Returns the scores, and what result.json holds.
    """
    end: EndState = "crashed"
    console, signals = host.console, host.signals
    with contextlib.ExitStack() as stack:
        stack.callback(parts.envs.close)
        stack.callback(parts.evaluator.close)
        metrics_file = MetricsFile(run_dir.metrics)
        stack.callback(metrics_file.close)
        tracker = open_tracker(config, run_dir, late=host.num_rows > 1)
        if tracker:
            stack.callback(lambda: host.close(end, lambda: close_tracker(tracker, end, console)))
        display = ProgressDisplay(progress, config.total_timesteps, config.total_episodes, console)
        films = Films(config, run_dir.videos, progress, tracker, signals.check)
        films.log_former()
        loggers: list[Logger] = [
            metrics_file, display, EvaluationLog(config.eval.num_episodes),
            *([tracker] if isinstance(tracker, SwanLabTracker) else []),
        ]  # fmt: skip
        training = Training(
            config, parts, progress, loggers,
            check_stop=signals.check, check_pruned=run_dir.check_pruned, film=films.film,
        )  # fmt: skip
        try:
            with display, signals:
                yield from train_and_save(training, parts, progress)
                scores = score(config, parts, progress, display, signals.check)
        except Stopped:
            end = "aborted"
            report_stop(config, run_dir, progress, console)
            raise
        draw_curve(run_dir.metrics, run_dir.curve)
        ended = result(progress, scores, time.perf_counter() - began, host.num_runs)
        if tracker:
            numbers = result_metrics(ended, progress.elapsed_seconds)
            tracker.log({"env_steps": progress.env_steps, **numbers})
            tracker.log_media("curve", run_dir.curve, progress.env_steps)
        end = "success"
    return scores, ended


def train_and_save(training: Training, parts: Parts, progress: Progress) -> Asking[None]:
    """Train, and save at the end or at the safe point where a signal stopped the run.

    If something fails nothing is saved: the last checkpoint is of a moment when all was well,
    and everything after it can be repeated exactly.
    """
    try:
        yield from training.asking()
    except Stopped as stop:
        if stop.at_safe_point:
            save(parts, progress)
        raise
    save(parts, progress)


@contextlib.contextmanager
def flushed_denormals() -> Iterator[None]:
    """Take denormal numbers for zero, as XLA always does.

    An optimizer's moments decay into them, and they make a CPU a third slower.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def score(
    config: Config,
    parts: Parts,
    progress: Progress,
    display: ProgressDisplay,
    check_stop: Callable[[], None],
) -> Scores:
    """Score the final policy, and the best one again: it was chosen by lucky episodes.

    If both have the same parameters they are one policy, with one score.
    """
    before = parts.evaluator.episodes

    def check() -> None:
        progress.scored = parts.evaluator.episodes - before
        display.look()
        check_stop()

    def fresh_episodes(policy: LearnedPolicy) -> Evaluation:
        seeds = [draw_seed(parts.evaluation_rng) for _ in range(config.eval.final_episodes)]
        return parts.evaluator.evaluate(policy.seeded(seeds), seeds, check)

    progress.activity = "final evaluation"
    final_params = parts.agent.learner.state.params
    best = progress.best
    if best is None:
        best = Best(float("nan"), progress.env_steps, final_params)
        save_best(parts, progress)
    is_final = torch.equal(best.params.cpu(), final_params.cpu())
    progress.to_score = config.eval.final_episodes * (1 if is_final else 2)
    final = fresh_episodes(parts.agent.policy)
    if is_final:
        return Scores(final, final, best.env_steps)
    return Scores(final, fresh_episodes(parts.agent.policy_of(best.params)), best.env_steps)
