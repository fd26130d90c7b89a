"""What happened between two rows of metrics, and whether learning still makes sense."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator

from dqn_runner.agents.agent import Agent
from dqn_runner.agents.c51 import CategoricalSpec
from dqn_runner.agents.spec import AgentSpec
from dqn_runner.errors import RunError
from dqn_runner.types import Progress, Row

logger = logging.getLogger(__name__)

# Q-values may leave the possible returns by this share of their range before they are called
# divergent: those of a network that has learned little do so for a while.
SLACK = 0.5
# By this share of their range, targets may leave the returns that are represented.
ROUNDING = 1e-4


class Meter:
    """Sums up what happened between two rows of metrics."""

    def __init__(
        self, progress: Progress, agent: Agent, agent_spec: AgentSpec, frames_per_step: int = 1
    ) -> None:
        self._progress, self._agent, self._agent_spec = progress, agent, agent_spec
        self._frames_per_step = frames_per_step
        self._read_at = time.perf_counter()
        self._paused_seconds = 0.0
        self._steps_at_reading = progress.env_steps

    @contextlib.contextmanager
    def paused(self, activity: str) -> Iterator[None]:
        """Do something that is shown under a name, and whose time does not count in the speed."""
        self._progress.activity, before = activity, self._progress.activity
        started = time.perf_counter()
        try:
            yield
        finally:
            self._progress.activity = before
        self._paused_seconds += time.perf_counter() - started

    def read(self) -> Row:
        """The metrics since the last reading; raises RunError if the loss is not finite."""
        progress = self._progress
        row: Row = {**self._agent.learner.read_metrics()}
        if not math.isfinite(row.get("train/td_loss", 0.0)):
            raise diverged(progress)
        if self._frames_per_step > 1:  # as papers on Atari count
            row["frames"] = progress.env_steps * self._frames_per_step
        row["train/epsilon"] = progress.epsilon
        progress.td_loss = row.get("train/td_loss", progress.td_loss)
        now = time.perf_counter()
        seconds = now - self._read_at - self._paused_seconds
        env_steps = progress.env_steps - self._steps_at_reading
        row["time/env_steps_per_second"] = env_steps / max(seconds, 1e-9)
        progress.elapsed_seconds += now - self._read_at
        row["time/elapsed_seconds"] = progress.elapsed_seconds
        row["train/lr"] = self._agent_spec.learning_rate(progress.env_steps)
        self._paused_seconds = 0.0
        self._read_at, self._steps_at_reading = now, progress.env_steps
        self._warn_of_divergence(row)
        self._warn_of_targets()
        return row

    def _warn_of_divergence(self, row: Row) -> None:
        """Say once if Q-values are far from any return that is possible."""
        progress = self._progress
        low, high = self._agent_spec.return_bounds(progress, self._agent.num_actions)
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
        remedies = "network.norm=layer_norm or agent=hl_gauss"
        if self._agent_spec.name == "dqn":
            remedies = "agent.clip_target=true, network.norm=layer_norm or agent.loss=mse"
        logger.warning(
            "Q-values of %s where returns so far allow %s: learning diverges; try %s",
            _short(beyond),
            limit,
            remedies,
        )

    def _warn_of_targets(self) -> None:
        """Say once if a target left the range of returns that the agent represents."""
        progress, support = self._progress, self._agent.support
        lowest, highest = self._agent.learner.read_target_extremes()
        if progress.has_warned_of_targets or not isinstance(self._agent_spec, CategoricalSpec):
            return
        assert support is not None
        low, high = self._agent_spec.reach(support)
        slack = ROUNDING * (high - low)
        if highest > high + slack:
            target, key, limit = highest, "v_max", high
        elif lowest < low - slack:
            target, key, limit = lowest, "v_min", low
        else:
            return
        progress.has_warned_of_targets = True
        logger.warning(
            "a target of %s is beyond agent.%s, which is %s, and counts as that; set agent.%s, or "
            "agent.reward_scale",
            _short(target),
            key,
            _short(limit),
            key,
        )


def diverged(progress: Progress) -> RunError:
    """The error for a loss or for parameters that are not finite."""
    return RunError(
        f"learning diverged before env step {progress.env_steps}: the loss is not finite; the last "
        "checkpoint is from before; try a smaller agent.lr, or agent.max_grad_norm"
    )


def _short(number: float) -> str:
    """`number` to three digits, as a person writes it: 12,300."""
    return f"{float(f'{number:.3g}'):,g}"
