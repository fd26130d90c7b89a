"""Hydra's side of the command line: finding conf/, composing, and refusing bad input in a line.

Every job is composed and checked before Hydra makes a directory or starts the first one.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from dqn_runner.config_loader import JOB_FOLDER, ConfigLoader, forget
from dqn_runner.errors import ConfigError, in_a_line

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
        parsed = get_args_parser().parse_intermixed_args(arguments)
        self._name = parsed.config_name or "config"
        self._overrides: list[str] = list(parsed.overrides)
        self._hydra = create_hydra(parsed)
        with self._one_line():
            self.given = self._parse(self._overrides)
            for override in self.given:
                self._check_group(override)
            swept = [override for override in self.given if override.is_sweep_override()]
            self.fixed = [_line(o) for o in self.given if not o.is_sweep_override()]
            base = self._compose(self.fixed)
            self.is_sweep = parsed.multirun or base.hydra.mode == RunMode.MULTIRUN
            if swept and not self.is_sweep:
                lines = " ".join(_line(override) for override in swept)
                raise ConfigError(f"{lines}: several values; -m runs each of them")
            key = "hydra.sweep.dir" if self.is_sweep else "hydra.run.dir"
            self.directory = Path(OmegaConf.select(base, key))
            self._pinned = [_assignment(key, self.directory)]
            choices = base.hydra.runtime.choices
            # A preset of a user's own says by its name which launcher it is for.
            kind = OmegaConf.select(base, "hydra.launcher.name")
            self.launcher: str = kind or choices.get("hydra/launcher") or "basic"
            self.sweeper: str = choices.get("hydra/sweeper") or "basic"
            self.sweeper_config: dict[str, Any] = OmegaConf.to_container(  # type: ignore[assignment]
                base.hydra.sweeper, resolve=True
            )
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
        with self._one_line():
            config = self._compose([*overrides, *self._pinned])
            if folder is None:
                with open_dict(config.hydra.job):
                    config.hydra.job.num = number
                folder = str(OmegaConf.select(config, JOB_FOLDER))
            task = [line for line in overrides if not re.match(r"[+~]*hydra[./]", line)]
            return Job(_plain(config), task, self.directory / folder)

    def groups(self) -> set[str]:
        """The names of the configuration groups."""
        return set(self._hydra.config_loader.list_groups(""))

    def parse(self, settings: Mapping[str, Any]) -> list[Override]:
        """Hydra's reading of settings that may have several values each."""
        with self._one_line():
            return self._parse([f"{key}={value}" for key, value in settings.items()])

    def _jobs(self, base: DictConfig) -> list[Job]:
        if not self.is_sweep:
            return [Job(_plain(base), self.fixed, self.directory)]
        if self.sweeper == "optuna":  # proposes its jobs as it goes
            return []
        if self.sweeper != "basic":
            raise ConfigError(f"hydra/sweeper={self.sweeper}: must be basic or optuna")
        swept = self.parse(self.sweeper_config.get("params") or {})
        given = [*swept, *self.given]
        for override in given:
            _check_values(override)
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
        parser = OverridesParser.create(config_loader=self._hydra.config_loader)
        return parser.parse_overrides(overrides)

    def _check_group(self, override: Override) -> None:
        options = self._hydra.config_loader.get_group_options(override.key_or_group)
        if options and not override.is_delete() and not isinstance(override.value(), str | list):
            if override.is_sweep_override():
                return
            raise ConfigError(f"{_line(override)}: must be one of {', '.join(options)}")

    def _compose(self, overrides: list[str]) -> DictConfig:
        config = self._hydra.compose_config(self._name, overrides, RunMode.RUN)
        # For what asks for it as ${hydra:...}; set_config would copy all of it, for each job.
        HydraConfig.instance().cfg = config  # type: ignore[assignment]  # as set_config does
        return config

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except MissingConfigException as error:
            raise ConfigError(_unknown_option(error)) from error
        except OverrideParseException as error:
            reasons = [line.strip() for line in str(error).splitlines() if line.strip()]
            vague = reasons[0].startswith("Error parsing override") and len(reasons) > 1
            raise ConfigError(f"{error.override}: {reasons[vague]}") from error
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(self._explain(error)) from error

    def _explain(self, error: Exception) -> str:
        from dqn_runner.config import unknown_key

        text = in_a_line(error)
        match = re.match(r"Could not override '([^']+)'", text)
        if not match:
            return text
        key = match.group(1)
        values = dict(o.split("=", 1) for o in self._overrides if "=" in o)
        defaults = self._hydra.compose_config(self._name, [], RunMode.RUN)
        return unknown_key(key, values.get(key, ""), _plain(defaults))


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
    package = Path(__file__).resolve().parent
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
        name = re.sub(r"[^\w.,=+\-\[\]]", "_", differs) or "defaults"
        return name if len(name) <= 200 else f"{name[:180]}_{_digest([differs])}"

    OmegaConf.register_new_resolver("run_folder", subject, replace=True)
    OmegaConf.register_new_resolver("sweep_folder", sweep_folder, replace=True)


def subject(choices: Mapping[str, str], overrides: Sequence[str]) -> str:
    """What a run is about: its experiment if it has one, and else its environment."""
    experiment = choices.get("experiment", "none")
    if experiment != "none":
        return experiment
    ids = [override.split("=", 1)[1] for override in overrides if override.startswith("env.id=")]
    return re.sub(r"[^\w.\-]", "_", ids[-1]) if ids else choices["env"]


def _check_values(override: Override) -> None:
    """Refuse a sweep over nothing, and one over what only a search can choose from."""
    if not override.is_sweep_override():
        return
    if not override.is_discrete_sweep():
        raise ConfigError(f"{_line(override)}: a range without steps needs hydra/sweeper=optuna")
    try:
        values = list(override.sweep_string_iterator())
    except ValueError as error:  # such as a range in steps of zero
        raise ConfigError(f"{_line(override)}: {error}") from error
    if not values:
        raise ConfigError(f"{_line(override)}: holds no value")


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


def _unknown_option(error: MissingConfigException) -> str:
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    options = ", ".join(error.options or ())
    if not group:
        return in_a_line(error)
    return f"{group}={option}: must be one of {options}"
