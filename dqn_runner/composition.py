"""Hydra's side of the command line: finding conf/, composing, and refusing bad input in a line.

Every job is composed and checked before Hydra makes a directory or starts the first one.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from hydra import version
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dqn_runner.errors import ConfigError

TASK_NAME = "train"
VERSION_BASE = "1.3"


class Job(NamedTuple):
    """One run that the command line asks for."""

    config: dict[str, Any]  # plain values, not yet checked
    overrides: list[str]


class Command:
    """A command line, composed: what it will run and where; `launch` runs it."""

    def __init__(self, arguments: list[str]) -> None:
        """Raises ConfigError, with one line, where Hydra cannot make sense of `arguments`."""
        parsed = get_args_parser().parse_intermixed_args(arguments)
        self._name = parsed.config_name or "config"
        self._overrides: list[str] = list(parsed.overrides)
        self._hydra = _hydra(parsed)
        with self._one_line():
            given = self._parse(self._overrides)
            for override in given:
                self._check_group(override)
            swept = [override for override in given if override.is_sweep_override()]
            fixed = [_line(override) for override in given if override not in swept]
            mode = self._hydra.get_mode(self._name, fixed)
            self.is_sweep = parsed.multirun or mode == RunMode.MULTIRUN
            if swept and not self.is_sweep:
                lines = " ".join(_line(override) for override in swept)
                raise ConfigError(f"{lines}: several values; -m runs each of them")
            jobs = self._expand(fixed, given)
            configs = [self._compose(job) for job in jobs]
            key = "hydra.sweep.dir" if self.is_sweep else "hydra.run.dir"
            self.directory = Path(OmegaConf.select(self._compose(fixed), key))
            self.jobs = [
                Job(_plain(config), [o for o in job if not o.startswith("hydra.")])
                for config, job in zip(configs, jobs, strict=True)
            ]
        self._pinned = [_assignment(key, self.directory)]
        if self.is_sweep:
            self._pinned += self._name_folders_by_what_differs()

    def launch(self, task: Callable[[DictConfig], Any]) -> list[Any]:
        """Let Hydra run `task` for every job; returns what each of them returned."""
        overrides = [*self._overrides, *self._pinned]
        if not self.is_sweep:
            return [self._hydra.run(self._name, task, overrides).return_value]
        batches = self._hydra.multirun(self._name, task, overrides)
        return [job.return_value for batch in batches for job in batch]

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
        HydraConfig.instance().set_config(config)
        return config

    def _expand(self, fixed: list[str], given: list[Override]) -> list[list[str]]:
        """The overrides of each job: every combination of what is swept."""
        if not self.is_sweep:
            return [fixed]
        params = self._compose(fixed).hydra.sweeper.get("params") or {}
        swept = self._parse([f"{key}={value}" for key, value in params.items()])
        (jobs,) = BasicSweeper.split_arguments([*swept, *given], max_batch_size=None)
        return [list(job) for job in jobs]

    def _name_folders_by_what_differs(self) -> list[str]:
        keys = [dict(o.split("=", 1) for o in job.overrides if "=" in o) for job in self.jobs]
        same = {k for k in keys[0] if all(job.get(k) == keys[0][k] for job in keys)}
        if len(self.jobs) == 1 or not same:
            return []
        excluded = ",".join(sorted(key.lstrip("+~") for key in same))
        return [f"hydra.job.config.override_dirname.exclude_keys=[{excluded}]"]

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except MissingConfigException as error:
            raise ConfigError(_unknown_option(error)) from error
        except OverrideParseException as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"{error.override}: {reason}") from error
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(self._explain(error)) from error

    def _explain(self, error: Exception) -> str:
        from dqn_runner.config import unknown_key

        text = " ".join(str(error).split())
        match = re.match(r"Could not override '([^']+)'", text)
        if not match:
            return text
        key = match.group(1)
        values = dict(o.split("=", 1) for o in self._overrides if "=" in o)
        defaults = self._hydra.compose_config(self._name, [], RunMode.RUN)
        return unknown_key(key, values.get(key, ""), _plain(defaults))


def _hydra(parsed: argparse.Namespace) -> Hydra:
    version.setbase(VERSION_BASE)
    register_resolvers()
    search_path = create_config_search_path(parsed.config_path or conf_dir())
    if parsed.config_dir:
        directory = os.path.abspath(parsed.config_dir)
        if not os.path.isdir(directory):
            raise ConfigError(f"--config-dir={parsed.config_dir}: no such directory")
        anchor = SearchPathQuery(provider="schema")
        search_path.prepend("command-line", f"file://{directory}", anchor=anchor)
    GlobalHydra.instance().clear()
    return Hydra.create_main_hydra2(task_name=TASK_NAME, config_search_path=search_path)


def conf_dir() -> str:
    """The directory of the configuration groups, in an installed wheel or in a checkout."""
    package = Path(__file__).resolve().parent
    for candidate in (package / "conf", package.parent / "conf"):
        if (candidate / "config.yaml").is_file():
            return str(candidate)
    raise ConfigError(f"conf/config.yaml: neither in {package} nor beside it")


def register_resolvers() -> None:
    """Make known what conf/config.yaml names directories with."""

    def run_folder(env: str, experiment: str) -> str:
        return subject(env, experiment)

    def sweep_folder(differs: str, number: int) -> str:
        # One component of a path, short enough for any file system.
        name = re.sub(r"[^\w.,=+\-\[\]]", "_", differs)
        return name if 0 < len(name) <= 200 else f"{name[:180]}_{number}".lstrip("_")

    OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)
    OmegaConf.register_new_resolver("sweep_folder", sweep_folder, replace=True)


def subject(env: str, experiment: str) -> str:
    """What a run is about: its experiment if it has one, and else its environment."""
    return env if experiment == "none" else experiment


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
        return " ".join(str(error).split())
    return f"{group}={option}: must be one of {options}"
