"""From a command line to the runs it asks for.

All of them are composed before a directory is made or a run is started, so bad input costs nothing.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice, product
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from dqn_runner.composing.hydra_internals import (
    JOB_FOLDER,
    create_hydra,
    parse_arguments,
    sweep_context,
)
from dqn_runner.composing.overrides import (
    as_text,
    assignment,
    digest,
    parse_for,
    quoted,
    typed,
    unquoted,
)
from dqn_runner.composing.refusals import compose, first_line
from dqn_runner.errors import ConfigError, in_a_line

MOST_JOBS = 100_000  # of a sweep; each is composed and checked beforehand


class Job(NamedTuple):
    """One run that the command line asks for."""

    config: dict[str, Any]  # plain values, not yet checked
    overrides: list[str]  # without Hydra's own
    path: Path  # its run directory


class Command:
    """A command line, composed: what it will run, and in which directories."""

    def __init__(self, arguments: list[str]) -> None:
        """Raises ConfigError, with one line, if `arguments` cannot be composed."""
        parsed = parse_arguments(arguments)
        self._name = parsed.config_name
        self._overrides: list[str] = parsed.overrides
        self._hydra = create_hydra(parsed)
        with self._one_line():
            self.given = self._parse(self._overrides)
            for override in self.given:
                self._check_group(override)
                _check_number_of_jobs([override])
            swept = [override for override in self.given if override.is_sweep_override()]
            self.fixed = [typed(o) for o in self.given if not o.is_sweep_override()]
            self._chosen = self._first_options(swept)
            base = self._compose([*self._chosen, *self.fixed])
            self.is_sweep = parsed.multirun or base.hydra.mode == RunMode.MULTIRUN
            if swept and not self.is_sweep:
                lines = unquoted(" ".join(typed(override) for override in swept))
                raise ConfigError(f"{lines}: several values; -m runs each of them")
            key = "hydra.sweep.dir" if self.is_sweep else "hydra.run.dir"
            self.directory = _directory(key, OmegaConf.select(base, key))
            self._pinned = [assignment(key, self.directory)]
            if self.is_sweep:  # Hydra itself does not tell the jobs about -m
                self._pinned.append("hydra.mode=MULTIRUN")
            choices = base.hydra.runtime.choices
            for override in self.given:
                self._check_name(override, choices)
            # The `name` in a user's own preset says which launcher it is for.
            kind = OmegaConf.select(base, "hydra.launcher.name")
            self.launcher: str = kind or choices.get("hydra/launcher") or "basic"
            self.sweeper: str = choices.get("hydra/sweeper") or "basic"
            self.sweeper_config: dict[str, Any] = _mapping("hydra.sweeper", base)
            self.jobs = self._jobs(base)

    def run(self, task: Callable[[DictConfig], Any]) -> Any:
        """Let Hydra run `task` for the only job; returns what `task` returned."""
        overrides = [*self._overrides, *self._pinned]
        return self._hydra.run(self._name, task, overrides).return_value

    def context(self) -> tuple[HydraContext, DictConfig]:
        """What Hydra's launchers are set up with for a sweep."""
        overrides = [*self._chosen, *self._overrides, *self._pinned]
        return sweep_context(self._hydra, self._name, overrides)

    def job(self, overrides: list[str], folder: str | None = None, number: int = 0) -> Job:
        """One job of the sweep; without `folder`, its folder is named by what differs."""
        overrides = [quoted(line) for line in overrides]  # choice(...) drops quotes
        with self._one_line():
            config = self._compose([*overrides, *self._pinned])
            if folder is None:
                with open_dict(config.hydra.job):
                    config.hydra.job.num = number
                folder = str(_directory(JOB_FOLDER, OmegaConf.select(config, JOB_FOLDER)))
            task = [line for line in overrides if not re.match(r"[+~]*hydra[./]", line)]
            return Job(_plain(config), task, self.directory / folder)

    def groups(self) -> set[str]:
        """The names of the configuration groups."""
        return set(self._hydra.config_loader.list_groups(""))

    def parse(self, settings: Mapping[str, Any]) -> list[Override]:
        """Hydra's reading of settings, each of which may have several values."""
        with self._one_line():
            return self._parse([quoted(f"{key}={value}") for key, value in settings.items()])

    def _jobs(self, base: DictConfig) -> list[Job]:
        if not self.is_sweep:
            return [Job(_plain(base), self.fixed, self.directory)]
        if self.sweeper == "optuna":  # proposes its jobs one after another
            self._name_by_what_is_swept(base, self.given, is_search=True)
            return []
        if self.sweeper != "basic":
            raise ConfigError(f"hydra/sweeper={self.sweeper}: must be basic or optuna")
        swept = self.parse(_mapping("hydra.sweeper.params", base))
        given = [*swept, *self.given]
        for override in given:
            _check_values(override)
        _check_number_of_jobs(given)
        self._name_by_what_is_swept(base, given)
        combinations = enumerate(_combinations(given))
        return _in_own_folders([self.job(list(lines), number=i) for i, lines in combinations])

    def _name_by_what_is_swept(
        self, base: DictConfig, given: list[Override], *, is_search: bool = False
    ) -> None:
        """Leave what all jobs share out of their folders' names and of their names in SwanLab."""
        same = [o.key_or_group for o in given if not o.is_sweep_override()]
        if is_search or len(same) < len(given):
            excluded = {*same, *base.hydra.job.config.override_dirname.exclude_keys}
            names = ",".join(sorted(excluded))
            self._pinned.append(f"hydra.job.config.override_dirname.exclude_keys=[{names}]")

    def _parse(self, overrides: list[str]) -> list[Override]:
        return parse_for(self._hydra.config_loader, overrides)

    def _first_options(self, swept: list[Override]) -> list[str]:
        """The first option of each group that is swept: what is fixed may be a setting of it."""
        return [
            f"{override.key_or_group}={next(iter(override.sweep_string_iterator()))}"
            for override in swept
            if override.is_discrete_sweep()
            and _number_of_values(override)
            and self._hydra.config_loader.get_group_options(override.key_or_group)
        ]

    def _check_group(self, override: Override) -> None:
        options = self._hydra.config_loader.get_group_options(override.key_or_group)
        if not options or override.is_delete() or override.is_sweep_override():
            return
        value = override.value()
        chosen = value if isinstance(value, list) else [value]
        if not all(isinstance(name, str) for name in chosen):
            raise ConfigError(f"{typed(override)}: must be one of {', '.join(options)}")

    def _check_name(self, override: Override, choices: Mapping[str, str]) -> None:
        """Refuse `epsilon.name=fixed`, which would keep the settings of another option."""
        group, _, last = override.key_or_group.rpartition(".")
        name = None if override.is_sweep_override() else override.value()
        options = self._hydra.config_loader.get_group_options(group) if last == "name" else ()
        if name in options and name != choices.get(group):
            raise ConfigError(f"{typed(override)}: {group}={name} chooses it, with its settings")

    def _compose(self, overrides: list[str]) -> DictConfig:
        config = compose(self._hydra, self._name, overrides, self.given)
        # ${hydra:...} is looked up in it. set_config would copy the whole of it for each job.
        HydraConfig.instance().cfg = config  # type: ignore[assignment]  # as set_config does
        return config

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except HydraException as error:
            raise ConfigError(in_a_line(error)) from error
        except OmegaConfBaseException as error:  # of ${...}, which may be resolved anywhere
            interpolated = " ".join(line for line in self._overrides if "${" in line)
            where = f"{interpolated}: " if interpolated else ""
            raise ConfigError(f"{where}{first_line(error)}") from error


def _check_values(override: Override) -> None:
    """Refuse a sweep without values, and one over a range that only a search can use."""
    if not override.is_sweep_override():
        return
    if override.is_hydra_override():
        raise ConfigError(f"{typed(override)}: must be one value; {as_text(typed(override))}")
    if not override.is_discrete_sweep():
        raise ConfigError(f"{typed(override)}: a range without steps needs hydra/sweeper=optuna")
    if not _number_of_values(override):
        raise ConfigError(f"{typed(override)}: holds no value")


def _number_of_values(override: Override) -> int:
    """How many values a sweep has; counting ends just above MOST_JOBS."""
    try:
        return sum(1 for _ in islice(override.sweep_string_iterator(), MOST_JOBS + 1))
    except ValueError as error:  # such as a range in steps of zero
        raise ConfigError(f"{typed(override)}: {error}") from error


def _check_number_of_jobs(overrides: Sequence[Override]) -> None:
    swept = [override for override in overrides if override.is_discrete_sweep()]
    if math.prod(map(_number_of_values, swept)) > MOST_JOBS:
        lines = unquoted(" ".join(map(typed, swept)))
        raise ConfigError(f"{lines}: must make at most {MOST_JOBS:,} jobs")


def _combinations(overrides: Sequence[Override]) -> list[tuple[str, ...]]:
    """Every combination of the values, once each; of two overrides of a key the last one counts."""
    lines: dict[str, list[str]] = {}
    for override in overrides:
        key, swept = override.get_key_element(), override.is_sweep_override()
        values = (
            override.sweep_string_iterator() if swept else [override.get_value_element_as_str()]
        )
        lines[key] = [f"{key}={value}" for value in values]
    return list(dict.fromkeys(product(*lines.values())))


def _in_own_folders(jobs: list[Job]) -> list[Job]:
    """The jobs; a digest is added to the folder names of those that would share a folder."""
    names = Counter(job.path for job in jobs)
    return [
        job
        if names[job.path] == 1
        else job._replace(path=job.path.with_name(f"{job.path.name}_{digest(job.overrides)}"))
        for job in jobs
    ]


def _plain(config: DictConfig) -> dict[str, Any]:
    task = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    plain: dict[str, Any] = OmegaConf.to_container(task, resolve=True)  # type: ignore[assignment]
    return plain


def _mapping(key: str, config: DictConfig) -> dict[str, Any]:
    section = OmegaConf.select(config, key)
    if section is not None and not isinstance(section, DictConfig):
        raise ConfigError(f"{key}={section}: must be a mapping, such as {{key: value}}")
    mapping: Any = OmegaConf.to_container(section or OmegaConf.create(), resolve=True)
    return dict(mapping)


def _directory(key: str, value: Any) -> Path:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{key}=: must name a directory")
    return Path(value)
