"""Hydra's side of the command line: finding conf/, composing, and refusing bad input in a line.

Every job is composed and checked before Hydra makes a directory or starts the first one.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from dqn_runner.composing.config_loader import JOB_FOLDER, ConfigLoader, forget
from dqn_runner.composing.overrides import (
    as_text,
    compose,
    first_line,
    parse_arguments,
    parse_overrides,
    quoted,
    unquoted,
)
from dqn_runner.errors import ConfigError, in_a_line

MOST_JOBS = 100_000  # of a sweep; each is composed and checked beforehand

TASK_NAME = "train"
VERSION_BASE = "1.3"


class Job(NamedTuple):
    """One run that the command line asks for."""

    config: dict[str, Any]  # plain values, not yet checked
    overrides: list[str]  # without Hydra's own
    path: Path  # its run directory


class Command:
    """A command line, composed: what it will run and where."""

    def __init__(self, arguments: list[str]) -> None:
        """Raises ConfigError, with one line, where Hydra cannot make sense of `arguments`."""
        parsed = parse_arguments(arguments)
        self._name = parsed.config_name or "config"
        self._overrides: list[str] = parsed.overrides
        self._hydra = create_hydra(parsed)
        with self._one_line():
            self.given = self._parse(self._overrides)
            for override in self.given:
                self._check_group(override)
                _check_number_of_jobs([override])
            swept = [override for override in self.given if override.is_sweep_override()]
            self.fixed = [_line(o) for o in self.given if not o.is_sweep_override()]
            base = self._compose(self.fixed)
            self.is_sweep = parsed.multirun or base.hydra.mode == RunMode.MULTIRUN
            if swept and not self.is_sweep:
                lines = unquoted(" ".join(_line(override) for override in swept))
                raise ConfigError(f"{lines}: several values; -m runs each of them")
            key = "hydra.sweep.dir" if self.is_sweep else "hydra.run.dir"
            self.directory = _directory(key, OmegaConf.select(base, key))
            self._pinned = [_assignment(key, self.directory)]
            choices = base.hydra.runtime.choices
            for override in self.given:
                self._check_name(override, choices)
            # A preset of a user's own says by its name which launcher it is for.
            kind = OmegaConf.select(base, "hydra.launcher.name")
            self.launcher: str = kind or choices.get("hydra/launcher") or "basic"
            self.sweeper: str = choices.get("hydra/sweeper") or "basic"
            self.sweeper_config: dict[str, Any] = _mapping("hydra.sweeper", base)
            self.jobs = self._jobs(base)

    def run(self, task: Callable[[DictConfig], Any]) -> Any:
        """Let Hydra run `task` for the one job there is; returns what it returned."""
        overrides = [*self._overrides, *self._pinned]
        return self._hydra.run(self._name, task, overrides).return_value

    def context(self) -> tuple[HydraContext, DictConfig]:
        """What Hydra's launchers are set up with for a sweep."""
        overrides = [*self._overrides, *self._pinned]
        config = self._hydra.compose_config(
            self._name, overrides, RunMode.MULTIRUN, with_log_configuration=True
        )
        loader = self._hydra.config_loader
        return HydraContext(config_loader=loader, callbacks=Callbacks(config)), config

    def job(self, overrides: list[str], folder: str | None = None, number: int = 0) -> Job:
        """One job of the sweep; `folder`, unless given, is named by what differs."""
        overrides = [quoted(line) for line in overrides]  # choice(...) has left its quotes out
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
        """Hydra's reading of settings that may have several values each."""
        with self._one_line():
            return self._parse([quoted(f"{key}={value}") for key, value in settings.items()])

    def _jobs(self, base: DictConfig) -> list[Job]:
        if not self.is_sweep:
            return [Job(_plain(base), self.fixed, self.directory)]
        if self.sweeper == "optuna":  # proposes its jobs as it goes
            return []
        if self.sweeper != "basic":
            raise ConfigError(f"hydra/sweeper={self.sweeper}: must be basic or optuna")
        swept = self.parse(_mapping("hydra.sweeper.params", base))
        given = [*swept, *self.given]
        for override in given:
            _check_values(override)
        _check_number_of_jobs(given)
        self._name_folders_by_what_is_swept(base, given)
        (combinations,) = BasicSweeper.split_arguments(given, max_batch_size=None)
        different = dict.fromkeys(tuple(job) for job in combinations)
        return _apart([self.job(list(job), number=i) for i, job in enumerate(different)])

    def _name_folders_by_what_is_swept(self, base: DictConfig, given: list[Override]) -> None:
        same = [o.key_or_group for o in given if not o.is_sweep_override()]
        if len(same) < len(given):
            excluded = {*same, *base.hydra.job.config.override_dirname.exclude_keys}
            names = ",".join(sorted(excluded))
            self._pinned.append(f"hydra.job.config.override_dirname.exclude_keys=[{names}]")

    def _parse(self, overrides: list[str]) -> list[Override]:
        return parse_overrides(overrides, self._hydra)

    def _check_group(self, override: Override) -> None:
        options = self._hydra.config_loader.get_group_options(override.key_or_group)
        if not options or override.is_delete() or override.is_sweep_override():
            return
        value = override.value()
        chosen = value if isinstance(value, list) else [value]
        if not all(isinstance(name, str) for name in chosen):
            raise ConfigError(f"{_line(override)}: must be one of {', '.join(options)}")

    def _check_name(self, override: Override, choices: Mapping[str, str]) -> None:
        """Refuse `epsilon.name=fixed`, which would keep the settings of another option."""
        group, _, last = override.key_or_group.rpartition(".")
        name = None if override.is_sweep_override() else override.value()
        options = self._hydra.config_loader.get_group_options(group) if last == "name" else ()
        if name in options and name != choices.get(group):
            raise ConfigError(f"{_line(override)}: {group}={name} chooses it, with its settings")

    def _compose(self, overrides: list[str]) -> DictConfig:
        config = compose(self._hydra, self._name, overrides, self.given)
        # For what asks for it as ${hydra:...}; set_config would copy all of it, for each job.
        HydraConfig.instance().cfg = config  # type: ignore[assignment]  # as set_config does
        return config

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except HydraException as error:
            raise ConfigError(in_a_line(error)) from error
        except OmegaConfBaseException as error:  # wherever it is that the value is asked for
            interpolated = " ".join(line for line in self._overrides if "${" in line)
            where = f"{interpolated}: " if interpolated else ""
            raise ConfigError(f"{where}{first_line(error)}") from error


def create_hydra(parsed: argparse.Namespace) -> Hydra:
    """Hydra over conf/ and what `--config-dir` adds; raises ConfigError where that is not there."""
    version.setbase(VERSION_BASE)
    set_up_hydra()
    search_path = create_config_search_path(parsed.config_path or conf_dir())
    if parsed.config_dir:
        directory = os.path.abspath(parsed.config_dir)
        if not os.path.isdir(directory):
            raise ConfigError(f"--config-dir={parsed.config_dir}: no such directory")
        anchor = SearchPathQuery(provider="schema")
        search_path.prepend("command-line", f"file://{directory}", anchor=anchor)
    GlobalHydra.instance().clear()
    forget()
    hydra = Hydra(task_name=TASK_NAME, config_loader=ConfigLoader(search_path))
    GlobalHydra.instance().initialize(hydra)
    return hydra


def conf_dir() -> str:
    """The directory of the configuration groups, in an installed wheel or in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "conf", package.parent / "conf"):
        if (candidate / "config.yaml").is_file():
            return str(candidate)
    raise ConfigError(f"conf/config.yaml: neither in {package} nor beside it")


def set_up_hydra() -> None:
    """Make known what conf/config.yaml names directories with, and let conf/hydra be what counts.

    Other packages for Hydra may register launchers and sweepers by the names that ours have.
    """
    Plugins.instance()  # registers all there are
    ours = Path(conf_dir()) / "hydra"
    for file in ours.rglob("*.yaml"):
        entries = ConfigStore.instance().repo["hydra"]
        for part in file.relative_to(ours).parent.parts:
            entries = entries.get(part, {})
        entries.pop(file.name, None)

    def sweep_folder(differs: str) -> str:
        # One component of a path, short enough for any file system.
        name = re.sub(r"[^\w.,=+\-\[\]]", "_", unquoted(differs)) or "defaults"
        return name if len(name) <= 200 else f"{name[:180]}_{_digest([differs])}"

    OmegaConf.register_new_resolver("run_folder", subject, replace=True)
    OmegaConf.register_new_resolver("sweep_folder", sweep_folder, replace=True)


def subject(choices: Mapping[str, str], overrides: Sequence[str]) -> str:
    """What a run is about: its experiment if it has one, and else its environment."""
    experiment = choices.get("experiment", "none")
    if experiment != "none":
        return experiment
    ids = [override.split("=", 1)[1] for override in overrides if override.startswith("env.id=")]
    return re.sub(r"[^\w.\-]", "_", unquoted(ids[-1])) if ids else choices["env"]


def _check_values(override: Override) -> None:
    """Refuse a sweep over nothing, and one over what only a search can choose from."""
    if not override.is_sweep_override():
        return
    if override.is_hydra_override():
        raise ConfigError(f"{_line(override)}: must be one value; {as_text(_line(override))}")
    if not override.is_discrete_sweep():
        raise ConfigError(f"{_line(override)}: a range without steps needs hydra/sweeper=optuna")
    if not _number_of_values(override):
        raise ConfigError(f"{_line(override)}: holds no value")


def _number_of_values(override: Override) -> int:
    """How many values a sweep has; counting ends beyond the jobs that a sweep may have."""
    try:
        return sum(1 for _ in islice(override.sweep_string_iterator(), MOST_JOBS + 1))
    except ValueError as error:  # such as a range in steps of zero
        raise ConfigError(f"{_line(override)}: {error}") from error


def _check_number_of_jobs(overrides: Sequence[Override]) -> None:
    swept = [override for override in overrides if override.is_discrete_sweep()]
    if math.prod(map(_number_of_values, swept)) > MOST_JOBS:
        lines = unquoted(" ".join(map(_line, swept)))
        raise ConfigError(f"{lines}: must make at most {MOST_JOBS:,} jobs")


def _apart(jobs: list[Job]) -> list[Job]:
    """The jobs, with something added to the folders of those that would share one."""
    names = Counter(job.path for job in jobs)
    return [
        job
        if names[job.path] == 1
        else job._replace(path=job.path.with_name(f"{job.path.name}_{_digest(job.overrides)}"))
        for job in jobs
    ]


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:8]


def _plain(config: DictConfig) -> dict[str, Any]:
    task = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    plain: dict[str, Any] = OmegaConf.to_container(task, resolve=True)  # type: ignore[assignment]
    return plain


def _line(override: Override) -> str:
    return override.input_line or ""


def _assignment(key: str, value: Path) -> str:
    escaped = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}='{escaped}'"


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
