"""When training learns, evaluates, logs, saves and ends."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dqn_runner.spec import PositiveInt, Spec
from dqn_runner.types import Progress

MOST_ENVIRONMENTS = 10_000  # of a run, all in one process
MOST_EPISODES = 1_000_000  # of an evaluation; each has a seed that is drawn beforehand
MOST_FILMED_STEPS = 1_000  # of an evaluation's episode


class PhaseSpec(Spec):
    """Collect `episodes` episodes, train `epochs` epochs on them, forget them, and so on.

    Both null: learning goes on step by step.
    """

    episodes: PositiveInt | None
    """Episodes that a phase collects; null to learn step by step."""
    epochs: PositiveInt | None
    """Passes over these episodes in a phase; null to learn step by step."""

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
    """Env steps or episodes between evaluations; null for none."""
    unit: Literal["env_step", "episode"]
    """What interval counts."""
    num_episodes: Annotated[int, Field(gt=0, le=MOST_EPISODES)]
    """Episodes of an evaluation during training."""
    final_episodes: Annotated[int, Field(gt=0, le=MOST_EPISODES)]
    """Episodes for the final and for the best policy, after training."""
    max_episode_steps: PositiveInt | None = None  # older runs lack it
    """Env steps after which an evaluation's episode is cut; null for no limit."""
    video_interval: PositiveInt | None = None
    """Env steps between films of an evaluation's first episode, of 1,000 steps or less; or null."""

    @model_validator(mode="after")
    def _films_evaluations(self) -> EvalSpec:
        if self.video_interval is not None and self.interval is None:
            raise ValueError(
                f"video_interval={self.video_interval}: interval is null, so nothing is filmed"
            )
        return self


class LogSpec(Spec):
    """A row of metrics every `interval` env steps."""

    interval: PositiveInt | None
    """Env steps between rows of metrics; null for none."""


class CheckpointSpec(Spec):
    """A checkpoint every `interval` env steps (and at the end, however the run ends)."""

    interval: PositiveInt | None
    """Env steps between checkpoints; null for the one at the end alone."""
    keep_replay: Literal["always", "until_finished"] = "always"
    """Whether a finished run keeps its transitions, without which it cannot be extended."""


class TrainingSpec(Spec):
    """The rhythm of training, in env steps over all environments unless a name says otherwise."""

    total_timesteps: PositiveInt | None
    """Env steps after which the run ends; null for no limit."""
    total_episodes: PositiveInt | None
    """Episodes after which the run ends, unless its env steps end first; null for no limit."""
    num_envs: Annotated[int, Field(gt=0, le=MOST_ENVIRONMENTS)]
    """Environments that are stepped side by side."""
    learning_starts: Annotated[int, Field(ge=0)]
    """Env steps before the first update."""
    train_frequency: PositiveInt
    """Env steps between rounds of learning."""
    gradient_steps: PositiveInt
    """Updates in a round of learning."""
    batch_size: PositiveInt
    """Transitions in the batch of an update."""
    phase: PhaseSpec = PhaseSpec(episodes=None, epochs=None)  # older runs lack it
    """Learning in phases: collect episodes, train on them, forget them, and so on."""
    eval: EvalSpec
    """Evaluations without ε, in environments of their own."""
    log: LogSpec
    """The rows of metrics.jsonl."""
    checkpoint: CheckpointSpec
    """Saving, so that an interrupted run can be continued."""

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
