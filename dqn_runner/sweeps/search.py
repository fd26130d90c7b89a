"""hydra/sweeper=optuna: trials that Optuna proposes, each a job for every seed.

The study is opened by this process alone. What running jobs have logged is read from their
metrics.jsonl, and a trial is pruned by a file in its run directories, which works with every
launcher and leaves Optuna out of the jobs.
"""

from __future__ import annotations

import functools
import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, Trial, TrialState
from pydantic import Field
from rich.console import Console

from dqn_runner.analysis.statistics import iqm
from dqn_runner.composing.command import Command, Job
from dqn_runner.config.messages import checked
from dqn_runner.config.root import Config, read
from dqn_runner.errors import ConfigError
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.runs.metrics_file import EVALUATION, MetricsReader, is_number
from dqn_runner.spec import PositiveInt, Spec
from dqn_runner.sweeps.grid import Sweep, Task, is_to_do, repay_compiling, update_function
from dqn_runner.sweeps.space import (
    a_point,
    as_overrides,
    choices_or_ends,
    search_space,
    write_experiment,
)
from dqn_runner.sweeps.study import may_exist, open_study

logger = logging.getLogger(__name__)


class SearchSpec(Spec):
    """The settings of conf/hydra/sweeper/optuna.yaml."""

    n_trials: PositiveInt
    """Trials altogether, with those of earlier calls in the same folder."""
    trials_at_a_time: PositiveInt
    """Trials started together; each has a job for each seed."""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    """Seeds of each trial; seed=... on the command line is used instead."""
    objective: Literal["final", "best"]
    """Which policy's return counts; the value of a trial is the IQM over seeds."""
    prune_after_seeds: PositiveInt | None
    """Seeds that must have come to an evaluation before it can prune; null for all."""
    study_name: str
    """Name of Optuna's study."""
    storage: str
    """URL of Optuna's database."""
    sampler: dict[str, Any]
    """Sampler of Optuna and its arguments."""
    pruner: dict[str, Any]
    """Pruner of Optuna and its arguments."""
    space: dict[str, Any] = Field(default_factory=dict)
    """What is searched, as KEY: interval(...), choice(...) or range(...)."""


@dataclass
class Candidate:
    """A trial of Optuna's with its jobs, one for each seed."""

    trial: Trial
    jobs: list[Job]  # none where another trial has the same or the settings do not go together
    reported: set[int] = field(default_factory=set)
    duplicate_of: int | None = None  # the number of an earlier trial, which ends before this one
    evaluations: list[Evaluations] = field(init=False)  # of each job

    def __post_init__(self) -> None:
        self.evaluations = [Evaluations(job) for job in self.jobs]


class Evaluations:
    """The mean returns that a job has logged, by the env steps or episodes they are due at."""

    def __init__(self, job: Job) -> None:
        self._path = RunDirectory(job.path).metrics
        self._unit = "episodes" if job.config["eval"]["unit"] == "episode" else "env_steps"
        self._begin()

    def _begin(self) -> None:
        self._reader, self.values = MetricsReader(self._path, EVALUATION), dict[int, float]()

    def update(self) -> None:
        """Read those that are new; warn of the first line that holds no row."""
        if self._reader.is_rewritten():
            self._begin()
        was_whole = not self._reader.problem
        for row in self._reader.new_rows():
            value, at = row.get(EVALUATION), row.get(self._unit)
            if is_number(value) and is_number(at):
                self.values[int(at)] = value
        if was_whole and self._reader.problem:
            logger.warning("%s; left out", self._reader.problem)


class Search:
    """Asks Optuna for trials until there are `n_trials`, and tells it what came of them."""

    def __init__(self, command: Command, check: Callable[[Sequence[Job]], list[Config]]) -> None:
        """Compose and check all that can be before anything starts; raises ConfigError."""
        self._command, self._check = command, check
        self.spec = checked(SearchSpec, command.sweeper_config, "hydra.sweeper")
        swept = [*command.parse(self.spec.space), *command.given]
        self.space = search_space(swept)
        self._seeds = self._trial_seeds(swept)
        if not self.space:
            raise ConfigError(
                "hydra/sweeper=optuna: nothing to choose; name what is, for example "
                "agent.lr=tag(log,interval(1e-5,1e-2))"
            )
        check(self._jobs(a_point(self.space), 0))
        if may_exist(self.spec.storage):
            self._open_study()

    def run(self, task: Task) -> int:
        """Search; returns how many trials have failed meanwhile."""
        failed = 0
        console = Console(soft_wrap=True)
        is_repaid = functools.partial(_is_repaid, self._num_sharing())
        with Sweep(self._command, functools.partial(task, is_repaid=is_repaid)) as sweep:
            study = self._open_study()
            self._announce(study, console)
            candidates = self._interrupted(study)
            while candidates or (candidates := self._ask(study)):
                watch = functools.partial(self._watch, candidates)
                sweep.run([job for c in candidates for job in c.jobs], watch)
                for candidate in candidates:
                    state = self._tell(study, candidate)
                    failed += state == TrialState.FAIL
                    _report(study, candidate.trial.number, console)
                candidates = []
        self._report_best(study, console)
        return failed

    def _trial_seeds(self, swept: Sequence[Any]) -> list[int]:
        seeds = self.spec.seeds
        for override in swept:
            if override.key_or_group == "seed":
                values = override.sweep_string_iterator() if override.is_sweep_override() else ()
                seeds = [int(value) for value in values] or [override.value()]
        self.space.pop("seed", None)
        return seeds

    def _jobs(self, params: dict[str, Any], number: int) -> list[Job]:
        return [self._job(params, number, seed) for seed in self._seeds]

    def _job(self, params: dict[str, Any], number: int, seed: int) -> Job:
        fixed = [
            o.input_line or ""
            for o in self._command.given
            if not o.is_sweep_override() and o.key_or_group != "seed"
        ]
        lines = [*fixed, *as_overrides(params), f"seed={seed}"]
        return self._command.job(lines, f"trial={number},seed={seed}")

    def _num_sharing(self) -> int:
        """How many runs share an update, where trials spread evenly over those that there are.

        Of a number that an update is made for, such as a batch size from a range, each trial is
        taken to have one of its own.
        """
        point, num_updates = a_point(self.space), 1
        for key, distribution in self.space.items():
            values = choices_or_ends(distribution)
            jobs = [self._job({**point, key: value}, 0, self._seeds[0]) for value in values]
            differ = len({update_function(job.config) for job in jobs})
            is_number = not isinstance(distribution, CategoricalDistribution)
            num_updates *= self.spec.n_trials if is_number and differ > 1 else differ
        return len(self._seeds) * max(1, self.spec.n_trials // num_updates)

    def _open_study(self) -> optuna.Study:
        fixed = [o for o in self._command.given if not o.is_sweep_override()]
        about = {
            "space": {key: repr(distribution) for key, distribution in self.space.items()},
            "settings": [o.input_line for o in fixed if not o.is_hydra_override()],
            "seeds": self._seeds,
            "objective": self.spec.objective,
        }
        spec = self.spec
        return open_study(spec.storage, spec.study_name, about, spec.sampler, spec.pruner)

    def _interrupted(self, study: optuna.Study) -> list[Candidate]:
        """The trials that an earlier call left unfinished."""
        return [
            self._candidate(study, Trial(study, trial._trial_id), set(trial.intermediate_values))
            for trial in study.get_trials(states=(TrialState.RUNNING,))
        ]

    def _candidate(self, study: optuna.Study, trial: Trial, reported: set[int]) -> Candidate:
        """The trial with its jobs; none where they would make the same runs as those of another."""
        same = [
            other.number
            for other in study.get_trials(states=(TrialState.COMPLETE, TrialState.RUNNING))
            if other.number < trial.number and other.params == trial.params
        ]
        if same:
            return Candidate(trial, [], reported, duplicate_of=same[0])
        return Candidate(trial, self._jobs(trial.params, trial.number), reported)

    def _ask(self, study: optuna.Study) -> list[Candidate]:
        """The next trials; none where there are enough."""
        left = self.spec.n_trials - len(study.trials)
        candidates: list[Candidate] = []
        for _ in range(min(left, self.spec.trials_at_a_time)):
            candidate = self._candidate(study, study.ask(self.space), set())
            candidates.append(candidate)
            try:
                self._check(candidate.jobs)
            except ConfigError as error:  # of values that do not go together
                number = candidate.trial.number
                print(f"dqn-train: error: trial={number}: {error}", file=sys.stderr)
                candidate.jobs.clear()
        return candidates

    def _watch(self, candidates: Sequence[Candidate]) -> None:
        """Tell Optuna of evaluations; let trials end in which it sees no hope."""
        enough = min(self.spec.prune_after_seeds or len(self._seeds), len(self._seeds))
        for candidate in candidates:
            values: dict[int, list[float]] = {}
            for evaluations in candidate.evaluations:
                evaluations.update()
                for at, value in evaluations.values.items():
                    values.setdefault(at, []).append(value)
            for at in sorted(values):
                if len(values[at]) >= enough and at not in candidate.reported:
                    candidate.reported.add(at)
                    candidate.trial.report(float(iqm(np.array(values[at]))), at)
                    if candidate.trial.should_prune():
                        _give_up(candidate)

    def _tell(self, study: optuna.Study, candidate: Candidate) -> TrialState:
        """Tell Optuna how the trial ended; returns that."""
        number = candidate.trial.number
        if candidate.duplicate_of is not None:
            same = study.trials[candidate.duplicate_of]
            study.tell(
                number, same.value if same.state == TrialState.COMPLETE else None, same.state
            )
            return same.state
        run_dirs = [RunDirectory(job.path) for job in candidate.jobs]
        results = [run_dir.read_result() for run_dir in run_dirs if run_dir.has_finished()]
        if results and len(results) == len(run_dirs):
            scores = [r[self.spec.objective]["mean"] for r in results if r]
            candidate.trial.set_user_attr("scores", scores)
            study.tell(number, float(iqm(np.array(scores))))
            return TrialState.COMPLETE
        failed = not run_dirs or any(is_to_do(job) for job in candidate.jobs)
        state = TrialState.FAIL if failed else TrialState.PRUNED
        study.tell(number, state=state)
        return state

    def _announce(self, study: optuna.Study, console: Console) -> None:
        seeds = ", ".join(map(str, self._seeds))
        console.print(
            f"{self.spec.n_trials} trials, {len(study.trials)} of them from before, each with "
            f"seeds {seeds}; searching {', '.join(self.space)}",
            highlight=False,
            markup=False,
        )

    def _report_best(self, study: optuna.Study, console: Console) -> None:
        """Print the best trial as it is typed, and write it as an experiment."""
        if not study.get_trials(states=(TrialState.COMPLETE,)):
            console.print("no trial has finished")
            return
        best = study.best_trial
        fixed = [o.input_line for o in self._command.given if _belongs_to_best(o)]
        lines = [line for line in [*fixed, *as_overrides(best.params)] if line]
        lines += self._decided(best)
        path = self._command.directory / "experiment" / "best.yaml"
        overrides = self._command.parse(dict(line.split("=", 1) for line in lines))
        write_experiment(path, overrides, self._command.groups())
        console.print(
            f"best of {len(study.trials)} trials is trial={best.number} with {best.value:,.1f}\n"
            f"  dqn-train {shlex.join(lines)}\n"
            f"  dqn-train --config-dir {shlex.quote(str(self._command.directory))} experiment=best",
            highlight=False,
            markup=False,
        )

    def _decided(self, trial: FrozenTrial) -> list[str]:
        """What the search decided for the trial and a run of its own would decide otherwise."""
        job = self._jobs(trial.params, trial.number)[0]
        (config,) = self._check([job])
        ran = RunDirectory(job.path).config
        if config.compile != "auto" or repay_compiling([config]) or not ran.is_file():
            return []
        return ["compile=always"] if read(ran, trust=True).compile == "always" else []


def _is_repaid(runs: int, config: Config) -> bool:
    return repay_compiling([config] * runs)


def _belongs_to_best(override: Any) -> bool:
    swept, key = override.is_sweep_override(), override.key_or_group
    return not swept and not override.is_hydra_override() and key != "seed"


def _give_up(candidate: Candidate) -> None:
    for job in candidate.jobs:
        if is_to_do(job):
            job.path.mkdir(parents=True, exist_ok=True)
            RunDirectory(job.path).prune_request.touch()


def _report(study: optuna.Study, number: int, console: Console) -> None:
    trial: FrozenTrial = study.trials[number]
    came_of_it = f"{trial.value:,.1f}" if trial.value is not None else trial.state.name.lower()
    if trial.state == TrialState.PRUNED:
        came_of_it = "pruned" if trial.last_step is None else f"pruned at {trial.last_step:,}"
    best = study.get_trials(states=(TrialState.COMPLETE,))
    console.print(
        f"trial={number}  {came_of_it}  {' '.join(as_overrides(trial.params))}"
        + (f"  (best {study.best_value:,.1f}, trial={study.best_trial.number})" if best else ""),
        highlight=False,
        markup=False,
    )
