"""hydra/sweeper=optuna: trials that Optuna proposes, each a job for every seed.

Only this process opens the study.
"""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import optuna
from hydra.core.override_parser.types import Override
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, Trial, TrialState
from pydantic import Field
from rich.console import Console

from dqn_runner.analysis.statistics import iqm
from dqn_runner.composing.command import Command, Job
from dqn_runner.config import messages, root
from dqn_runner.errors import ConfigError
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.spec import PositiveInt, Spec
from dqn_runner.sweeps.candidate import Candidate
from dqn_runner.sweeps.grid import (
    Sweep,
    checked,
    compiled,
    is_to_do,
    repay_compiling,
)
from dqn_runner.sweeps.sharing import update_function
from dqn_runner.sweeps.space import (
    as_overrides,
    choices_or_ends,
    example_point,
    search_space,
    write_experiment,
)
from dqn_runner.sweeps.study import may_exist, open_study


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


class Search:
    """Asks Optuna for trials until there are `n_trials`, and tells it their results."""

    def __init__(self, command: Command) -> None:
        """Compose and check everything that can be before a job starts; raises ConfigError."""
        self._command = command
        self.spec = messages.checked(SearchSpec, command.sweeper_config, "hydra.sweeper")
        swept = [*command.parse(self.spec.space), *command.given]
        self.space = search_space(swept)
        self._seeds = self._trial_seeds(swept)
        if not self.space:
            raise ConfigError(
                "hydra/sweeper=optuna: nothing to choose; name what is, for example "
                "agent.lr=tag(log,interval(1e-5,1e-2))"
            )
        checked(self._jobs(example_point(self.space), 0))
        if may_exist(self.spec.storage):
            self._open_study()

    def run(self) -> int:
        """Search; returns how many trials have failed."""
        failed = 0
        console = Console(soft_wrap=True)
        with Sweep(self._command) as sweep:
            study = self._open_study()
            self._announce(study, console)
            candidates = self._interrupted(study)
            while candidates or (candidates := self._ask(study)):
                jobs = [job for candidate in candidates for job in candidate.jobs]
                sweep.run(jobs, functools.partial(self._look, candidates))
                for candidate in candidates:
                    state = self._tell(study, candidate)
                    failed += state == TrialState.FAIL
                    _report(study, candidate.trial.number, console)
                candidates = []
        self._report_best(study, console)
        return failed

    def _look(self, candidates: Sequence[Candidate]) -> None:
        """Tell Optuna of new evaluations; let trials end in which it sees no hope."""
        enough = min(self.spec.prune_after_seeds or len(self._seeds), len(self._seeds))
        for candidate in candidates:
            candidate.look(enough)

    def _trial_seeds(self, swept: Sequence[Override]) -> Sequence[Any]:
        """The seeds of each trial: what was typed as `seed`, which is no part of the space."""
        self.space.pop("seed", None)
        for override in reversed(swept):
            if override.key_or_group == "seed" and override.is_sweep_override():
                values = override.sweep_string_iterator()
                # What is no number is refused with the rest of the configuration.
                return [int(value) if value.isdecimal() else value for value in values]
            if override.key_or_group == "seed":
                return [override.value()]
        return self.spec.seeds

    def _jobs(self, params: Mapping[str, Any], number: int) -> list[Job]:
        return [self._job(params, number, seed) for seed in self._seeds]

    def _job(self, params: Mapping[str, Any], number: int, seed: Any) -> Job:
        fixed = [
            o.input_line or ""
            for o in self._command.given
            if not o.is_sweep_override() and o.key_or_group != "seed"
        ]
        lines = [*fixed, *as_overrides(params), f"seed={seed}"]
        return self._command.job(lines, f"trial={number},seed={seed}")

    @functools.cached_property
    def _num_sharing(self) -> int:
        """How many runs share an update, if trials spread evenly over the updates there are.

        If a number from a range decides the update, such as a batch size, each trial is assumed to
        draw another one.
        """
        point, num_updates = example_point(self.space), 1
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
        """The trials that an earlier command left unfinished."""
        return [
            self._candidate(study, Trial(study, trial._trial_id), set(trial.intermediate_values))
            for trial in study.get_trials(states=(TrialState.RUNNING,))
        ]

    def _candidate(self, study: optuna.Study, trial: Trial, reported: set[int]) -> Candidate:
        """The trial with its jobs, or with none if there is nothing to run."""
        same = [
            other.number
            for other in study.get_trials(states=(TrialState.COMPLETE, TrialState.RUNNING))
            if other.number < trial.number and other.params == trial.params
        ]
        if same:
            return Candidate(trial, [], reported, duplicate_of=same[0])
        jobs = self._jobs(trial.params, trial.number)
        try:
            config = checked(jobs)[0]
        except ConfigError as error:  # the values do not go together
            print(f"dqn-train: error: trial={trial.number}: {error}", file=sys.stderr)
            return Candidate(trial, [], reported)
        if repay_compiling([config] * self._num_sharing):
            jobs = [compiled(job) for job in jobs]
        return Candidate(trial, jobs, reported)

    def _ask(self, study: optuna.Study) -> list[Candidate]:
        """The next trials; none if there are enough."""
        left = self.spec.n_trials - len(study.trials)
        number = min(left, self.spec.trials_at_a_time)
        return [self._candidate(study, study.ask(self.space), set()) for _ in range(number)]

    def _tell(self, study: optuna.Study, candidate: Candidate) -> TrialState:
        """Tell Optuna how the trial ended; returns its state."""
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
        """Print the best trial as one would type it, and write it as an experiment."""
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
        """What the search decided for the trial, and the same run alone would decide otherwise."""
        job = self._jobs(trial.params, trial.number)[0]
        (config,) = checked([job])
        ran = RunDirectory(job.path).config
        if config.compile != "auto" or repay_compiling([config]) or not ran.is_file():
            return []
        return ["compile=always"] if root.read(ran, trust=True).compile == "always" else []


def _belongs_to_best(override: Override) -> bool:
    swept, key = override.is_sweep_override(), override.key_or_group
    return not swept and not override.is_hydra_override() and key != "seed"


def _report(study: optuna.Study, number: int, console: Console) -> None:
    trial: FrozenTrial = study.trials[number]
    outcome = f"{trial.value:,.1f}" if trial.value is not None else trial.state.name.lower()
    if trial.state == TrialState.PRUNED:
        outcome = "pruned" if trial.last_step is None else f"pruned at {trial.last_step:,}"
    best = study.get_trials(states=(TrialState.COMPLETE,))
    console.print(
        f"trial={number}  {outcome}  {' '.join(as_overrides(trial.params))}"
        + (f"  (best {study.best_value:,.1f}, trial={study.best_trial.number})" if best else ""),
        highlight=False,
        markup=False,
    )
