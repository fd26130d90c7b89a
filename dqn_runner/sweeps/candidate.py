"""A trial of Optuna's as jobs, and what they log while they run.

The jobs know nothing of Optuna: their evaluations are read from their metrics.jsonl, and a file in
their run directories prunes them. That works with every launcher.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np
from optuna.trial import Trial

from dqn_runner.analysis.statistics import iqm
from dqn_runner.composing.command import Job
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.runs.metrics_file import EVALUATION, MetricsReader, is_number
from dqn_runner.sweeps.grid import is_to_do

logger = logging.getLogger(__name__)


@dataclass
class Candidate:
    """A trial with its jobs, one for each seed."""

    trial: Trial
    jobs: list[Job]  # none if another trial has the same, or if the settings do not go together
    reported: set[int] = field(default_factory=set)  # when Optuna was told of evaluations
    duplicate_of: int | None = None  # the number of an earlier trial, which ends before this one
    evaluations: list[Evaluations] = field(init=False)  # of each job

    def __post_init__(self) -> None:
        self.evaluations = [Evaluations(job) for job in self.jobs]

    def look(self, enough: int) -> None:
        """Report evaluations that `enough` jobs have made; ask the jobs to end if Optuna prunes."""
        values: dict[int, list[float]] = {}
        for evaluations in self.evaluations:
            evaluations.update()
            for at, value in evaluations.values.items():
                values.setdefault(at, []).append(value)
        for at in sorted(values.keys() - self.reported):
            if len(values[at]) >= enough:
                self.reported.add(at)
                self.trial.report(float(iqm(np.array(values[at]))), at)
                if self.trial.should_prune():
                    self._prune()

    def _prune(self) -> None:
        for job in self.jobs:
            if is_to_do(job):
                job.path.mkdir(parents=True, exist_ok=True)
                RunDirectory(job.path).prune_request.touch()


class Evaluations:
    """The mean returns that a job has logged, by the env steps or episodes they are due at."""

    def __init__(self, job: Job) -> None:
        self._path = RunDirectory(job.path).metrics
        self._unit = "episodes" if job.config["eval"]["unit"] == "episode" else "env_steps"
        self._begin()

    def _begin(self) -> None:
        self._reader, self.values = MetricsReader(self._path, EVALUATION), dict[int, float]()

    def update(self) -> None:
        """Read the new ones; warn of the first line that holds no row."""
        if self._reader.is_rewritten():
            self._begin()
        was_whole = not self._reader.problem
        for row in self._reader.new_rows():
            value, at = row.get(EVALUATION), row.get(self._unit)
            if is_number(value) and is_number(at):
                self.values[int(at)] = value
        if was_whole and self._reader.problem:
            logger.warning("%s; left out", self._reader.problem)
