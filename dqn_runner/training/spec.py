"""When training learns, evaluates, logs, saves and ends."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dqn_runner.spec import PositiveInt, Spec
from dqn_runner.types import Progress

MOST_ENVIRONMENTS = 10_000  # of a run, all in one process
MOST_EPISODES = 1_000_000  # of an evaluation; each has a seed that is drawn beforehand


class PhaseSpec(Spec):
    """Collect `episodes` episodes, train `epochs` epochs on them, forget them, and so on.

    Both null: learning goes on step by step.
    """

    episodes: PositiveInt | None
    epochs: PositiveInt | None

    @model_validator(mode="after")
    def _is_whole(self) -> PhaseSpec:
        if (self.episodes is None) != (self.epochs is None):
            names = ("episodes", "epochs") if self.episodes is None else ("epochs", "episodes")
            raise ValueError("{}=null: must be set too, as phase.{} is".format(*names))
        return self


class EvalSpec(Spec):
    """Evaluations without ε: every `interval` env steps or episodes, and at the end of the run.

    An evaluation episode is ended after `max_episode_steps`, as if its environment truncated it.
    """

    interval: PositiveInt | None
    unit: Literal["env_step", "episode"]
    num_episodes: Annotated[int, Field(gt=0, le=MOST_EPISODES)]
    final_episodes: Annotated[int, Field(gt=0, le=MOST_EPISODES)]
    max_episode_steps: PositiveInt | None = None  # older runs lack it


class LogSpec(Spec):
    """A row of metrics every `interval` env steps."""

    interval: PositiveInt | None


class CheckpointSpec(Spec):
    """A checkpoint every `interval` env steps (and at the end, however the run ends)."""

    interval: PositiveInt | None


class TrainingSpec(Spec):
    """The rhythm of training, in env steps over all environments unless a name says otherwise."""

    total_timesteps: PositiveInt | None
    total_episodes: PositiveInt | None
    num_envs: Annotated[int, Field(gt=0, le=MOST_ENVIRONMENTS)]
    learning_starts: Annotated[int, Field(ge=0)]
    train_frequency: PositiveInt
    gradient_steps: PositiveInt
    batch_size: PositiveInt
    phase: PhaseSpec = PhaseSpec(episodes=None, epochs=None)  # older runs lack it
    eval: EvalSpec
    log: LogSpec
    checkpoint: CheckpointSpec

    @model_validator(mode="after")
    def _has_an_end(self) -> TrainingSpec:
        if self.total_timesteps is None and self.total_episodes is None:
            raise ValueError("total_timesteps=null: total_episodes is null too; one must be set")
        return self

    @model_validator(mode="after")
    def _has_one_rhythm(self) -> TrainingSpec:
        only = {"learning_starts": 0, "train_frequency": 1, "gradient_steps": 1}
        set_too = [name for name, value in only.items() if getattr(self, name) != value]
        if self.phase.episodes is not None and set_too:
            given = " ".join(f"{name}={getattr(self, name)}" for name in set_too)
            needed = " and ".join(f"{name}={only[name]}" for name in set_too)
            raise ValueError(
                f"{given}: phase.episodes={self.phase.episodes} needs {needed}, for a phase learns "
                "when its episodes are collected"
            )
        return self

    def ends_phase(self, episodes_before: int, progress: Progress) -> bool:
        """Whether a phase's episodes are complete; the budget's end completes the last phase."""
        if self.phase.episodes is None:
            return False
        complete = crossings(episodes_before, progress.episodes, self.phase.episodes)
        return bool(complete) or self.is_spent(progress)

    def is_spent(self, progress: Progress) -> bool:
        """Whether one of the budgets is used up."""
        steps, episodes = self.total_timesteps, self.total_episodes
        return (steps is not None and progress.env_steps >= steps) or (
            episodes is not None and progress.episodes >= episodes
        )

    def updates_due(
        self, stored: int, steps_before: int, progress: Progress, phase_ends: bool
    ) -> int:
        """How many updates follow a step: some at each, or all those of a phase at its end."""
        if self.phase.epochs is not None:
            return self.phase.epochs * (stored // self.batch_size) if phase_ends else 0
        if progress.env_steps < self.learning_starts or stored < self.batch_size:
            return 0
        rounds = crossings(steps_before, progress.env_steps, self.train_frequency)
        return rounds * self.gradient_steps


def crossings(before: int, now: int, interval: int | None) -> int:
    """How many multiples of `interval` lie in (before, now]; none if it is null."""
    return 0 if interval is None else now // interval - before // interval
