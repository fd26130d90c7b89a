"""Hydra's side of the command line: finding conf/, composing, and refusing bad input in a line.

Every job is composed and checked before Hydra makes a directory or starts the first one.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from dqn_runner.errors import ConfigError

HELP = """\
dqn-train: train a DQN agent, log it to SwanLab, and keep everything in one run directory

usage: dqn-train [KEY=VALUE ...] [GROUP=OPTION ...] [-m] [--config-dir DIR] [--version]

examples:
  dqn-train env=cartpole agent.lr=1e-4
  dqn-train env=lunarlander total_timesteps=300000 epsilon=linear target_update=hard
  dqn-train -m agent.lr=1e-3,1e-4 seed=0,1,2       six runs in one folder, and a table

groups, each chosen by GROUP=OPTION; --config-dir DIR adds options of your own:
{groups}

settings, each set by KEY=VALUE (agent.lr=1e-4), here with the values that would be used:
{settings}

conf/ explains each setting beside its default. --hydra-help tells what Hydra adds: --cfg shows a
configuration, --multirun is -m, --shell-completion completes names in your shell.
dqn-eval RUN_DIR plays a trained policy and films it.
"""
GROUPS = {
    "env": "the environment; env.id=ID takes any discrete-action Gymnasium environment",
    "agent": "learning rate, discount, n-step returns, double Q-learning, loss, optimiser",
    "network": "the Q-network",
    "buffer": "the replay buffer",
    "epsilon": "how exploration decays",
    "target_update": "how the target network follows: hard copies or soft steps",
    "tracker": "what SwanLab is told, and its mode: offline, online, local or disabled",
    "experiment": "settings of several groups under one name",
}
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
            base = self._compose(fixed)
            self.is_sweep = parsed.multirun or base.hydra.mode == RunMode.MULTIRUN
            if swept and not self.is_sweep:
                lines = " ".join(_line(override) for override in swept)
                raise ConfigError(f"{lines}: several values; -m runs each of them")
            key = "hydra.sweep.dir" if self.is_sweep else "hydra.run.dir"
            self.directory = Path(OmegaConf.select(base, key))
            jobs = self._combinations(base, given) if self.is_sweep else [fixed]
            configs = (self._compose(job) if self.is_sweep else base for job in jobs)
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

    def _combinations(self, base: DictConfig, given: list[Override]) -> list[list[str]]:
        """The overrides of each job: every combination of what is swept."""
        params = base.hydra.sweeper.get("params") or {}
        swept = self._parse([f"{key}={value}" for key, value in params.items()])
        (jobs,) = BasicSweeper.split_arguments([*swept, *given], max_batch_size=None)
        return [list(job) for job in jobs]

    def _name_folders_by_what_differs(self) -> list[str]:
        jobs = [dict(o.split("=", 1) for o in job.overrides if "=" in o) for job in self.jobs]
        same = {k for k, value in jobs[0].items() if all(job.get(k) == value for job in jobs)}
        if len(jobs) == 1 or not same:
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


def help_text(arguments: list[str]) -> str:
    """What `dqn-train --help` says, with the configuration that the other `arguments` make."""
    parsed = get_args_parser().parse_intermixed_args(arguments)
    hydra = _hydra(parsed)
    try:
        config = hydra.compose_config(parsed.config_name or "config", parsed.overrides, RunMode.RUN)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(" ".join(str(error).split())) from error
    with open_dict(config):
        del config["hydra"]
    repository = hydra.config_loader.repository  # type: ignore[attr-defined]
    groups = [
        f"  {group:14} {' '.join(repository.get_group_options(group))}\n{'':17}{what}"
        for group, what in GROUPS.items()
    ]
    settings = OmegaConf.to_yaml(config).rstrip().replace("\n", "\n  ")
    return HELP.format(groups="\n".join(groups), settings=f"  {settings}")


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

    def sweep_folder(differs: str, number: int) -> str:
        # One component of a path, short enough for any file system.
        name = re.sub(r"[^\w.,=+\-\[\]]", "_", differs)
        return name if 0 < len(name) <= 200 else f"{name[:180]}_{number}".lstrip("_")

    OmegaConf.register_new_resolver("run_folder", subject, replace=True)
    OmegaConf.register_new_resolver("sweep_folder", sweep_folder, replace=True)


def subject(choices: Mapping[str, str], overrides: Sequence[str]) -> str:
    """What a run is about: its experiment if it has one, and else its environment."""
    experiment = choices.get("experiment", "none")
    if experiment != "none":
        return experiment
    ids = [override.split("=", 1)[1] for override in overrides if override.startswith("env.id=")]
    return re.sub(r"[^\w.\-]", "_", ids[-1]) if ids else choices["env"]


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
