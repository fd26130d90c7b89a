"""Hydra over conf/, with a loader that is fast enough for sweeps of a thousand jobs.

This is the only file that uses hydra._internal, which may change with any version of Hydra:

- Hydra: composing before anything is run has no public function that also runs jobs afterwards.
- create_config_search_path: conf/ and --config-dir are searched without @hydra.main, which exits.
- get_args_parser: the command line takes exactly the options that Hydra takes.
- Callbacks: Hydra's launchers must be given some, and a HydraContext cannot be made without.
- ConfigLoaderImpl, get_overrides_dirname, IConfigRepository: the loader that ours extends.
"""

from __future__ import annotations

import argparse
import copy
import functools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_repository import IConfigRepository
from hydra._internal.hydra import Hydra as Hydra  # noqa: PLC0414  # others name its type
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import GroupDefault, ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException
from hydra.plugins.config_source import ConfigResult
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from dqn_runner.composing.overrides import digest, parse, quoted, typed, unquoted
from dqn_runner.errors import ConfigError

TASK_NAME = "train"
VERSION_BASE = "1.3"
JOB_FOLDER = "hydra.sweep.subdir"
# The settings of Hydra's own that differ between a command and its jobs, and change nothing else.
FOLDERS = (JOB_FOLDER, "hydra.run.dir", "hydra.sweep.dir")

# Mappings that take any key; so do those of a user's own class.
FREE = ("env.kwargs", "hydra.launcher.options", "hydra.sweeper.params")

# Module-level: a loader is sent to a worker with each job, and must find there what it composed.
_composed: dict[tuple[object, ...], DictConfig] = {}


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Hydra's options, and `overrides`; raises ConfigError for an unknown option."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise ConfigError(message)

    parser.error = refuse  # type: ignore[method-assign]
    parsed = parser.parse_intermixed_args(arguments)
    for name in ("config_dir", "config_path", "config_name"):
        if getattr(parsed, name) == "":
            raise ConfigError(f"--{name.replace('_', '-')}=: must not be empty")
    for line in parsed.overrides:
        key, equals, _ = line.partition("=")
        if not key or not (equals or key.startswith("~")):
            raise ConfigError(
                f"{line}: must be KEY=VALUE, such as agent.lr=1e-4; a value with spaces is quoted, "
                "as in 'KEY=\"two words\"'"
            )
        if not key.isascii():
            raise ConfigError(f"{line}: no such key")
    parsed.config_name = parsed.config_name or "config"
    parsed.overrides = [quoted(line) for line in parsed.overrides]
    return parsed


def create_hydra(parsed: argparse.Namespace) -> Hydra:
    """Hydra over conf/ and `--config-dir`; raises ConfigError if that directory does not exist."""
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
    _composed.clear()  # the files may have changed
    hydra = Hydra(task_name=TASK_NAME, config_loader=ConfigLoader(search_path))
    GlobalHydra.instance().initialize(hydra)
    return hydra


def set_up_hydra() -> None:
    """Register the resolvers that conf/ asks for; let conf/hydra win.

    Other packages may register launchers and sweepers under the names that ours have.
    """
    Plugins.instance()  # registers what all packages bring
    ours = Path(conf_dir()) / "hydra"
    for file in ours.rglob("*.yaml"):
        entries = ConfigStore.instance().repo["hydra"]
        for part in file.relative_to(ours).parent.parts:
            entries = entries.get(part, {})
        entries.pop(file.name, None)

    def sweep_folder(differs: str) -> str:
        # One component of a path, short enough for any file system.
        name = re.sub(r"[^\w.,=+\-\[\]]", "_", unquoted(differs)) or "defaults"
        return name if len(name) <= 200 else f"{name[:180]}_{digest([differs])}"

    OmegaConf.register_new_resolver("run_folder", subject, replace=True)
    OmegaConf.register_new_resolver("known_of", known_of, replace=True)
    OmegaConf.register_new_resolver("sweep_folder", sweep_folder, replace=True)


def known_of(preset: str, env_id: str, values: list[Any]) -> ListConfig | None:
    """The `values` that a preset knows of its own environment; None if env.id is another."""
    return OmegaConf.create(list(values)) if env_id == preset else None


def subject(choices: Mapping[str, str], overrides: Sequence[str]) -> str:
    """The name of what a run is about: its experiment if it has one, else its environment."""
    experiment = choices.get("experiment", "none")
    if experiment != "none":
        return experiment
    ids = [override.split("=", 1)[1] for override in overrides if override.startswith("env.id=")]
    games = [line.split("=", 1)[1] for line in overrides if line.startswith("env.game=")]
    name = unquoted(ids[-1]) if ids else "_".join([choices["env"], *games[-1:]])
    return re.sub(r"[^\w.\-]", "_", name)


@functools.cache
def default_settings() -> Any:
    """The settings of conf/ as plain values, without any override."""
    set_up_hydra()  # a worker of a sweep has not done it
    loader = ConfigLoader(create_config_search_path(conf_dir()))
    config = loader.load_configuration("config", [], RunMode.RUN)
    with open_dict(config):
        del config["hydra"]
    return OmegaConf.to_container(config, resolve=True)


def conf_dir() -> str:
    """The directory of the configuration groups."""
    return str(shipped("conf/config.yaml").parent)


def shipped(name: str) -> Path:
    """A file that comes with the package: inside it in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / name, package.parent / name):
        if candidate.is_file():
            return candidate
    raise ConfigError(f"{name}: neither in {package} nor beside it")


def sweep_context(hydra: Hydra, name: str, overrides: list[str]) -> tuple[HydraContext, DictConfig]:
    """What Hydra's launchers are set up with for a sweep."""
    config = hydra.compose_config(name, overrides, RunMode.MULTIRUN, with_log_configuration=True)
    return HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config)), config


class ConfigLoader(ConfigLoaderImpl):
    """Composes what Hydra composes, but the same groups only once.

    Hydra composes every job anew from its files, two or three times, at 0.1 s each. A command and
    its jobs mostly differ in values: the groups are composed once, and values are set in a copy.
    """

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """As Hydra's own; raises the same exceptions."""
        parsed = parse(overrides)
        values = [override for override in parsed if self._is_value(override)]
        groups = [typed(override) for override in parsed if not self._is_value(override)]
        if any("searchpath" in line for line in groups):
            return super().load_configuration(
                config_name, overrides, run_mode, from_shell, validate_sweep_overrides
            )
        if validate_sweep_overrides:
            self.validate_sweep_overrides_legal(parsed, run_mode, from_shell)
        place = tuple((item.provider, item.path) for item in self.config_search_path.get_path())
        key = (place, config_name, run_mode, *groups)
        if key not in _composed:
            _composed[key] = super().load_configuration(
                config_name, groups, run_mode, from_shell, validate_sweep_overrides
            )
        config = copy.deepcopy(_composed[key])
        try:
            self._apply_overrides_to_config(values, config)
        except OmegaConfBaseException as error:
            raise ConfigCompositionException() from error
        _record_overrides(config, parsed)
        return config

    def chooses(self, override: Override) -> bool:
        """Whether `override` chooses an option of a group, and does not set a value."""
        return override.package is not None or self.repository.group_exists(override.key_or_group)

    def get_group_options(
        self,
        group_name: str,
        results_filter: ObjectType | None = ObjectType.CONFIG,
        config_name: str | None = None,
        overrides: list[str] | None = None,
    ) -> list[str]:
        """As Hydra's own, and of groups of ours also what is in their folders: minatar/breakout.

        Files whose names begin with _ are there for others to include.
        """
        options = super().get_group_options(group_name, results_filter, config_name, overrides)
        if results_filter is not ObjectType.CONFIG or re.match("($|hydra($|/))", group_name):
            return options
        find = self.repository.get_group_options
        for folder in find(group_name, ObjectType.GROUP):
            inner = find(f"{group_name}/{folder}", ObjectType.CONFIG)
            options += [f"{folder}/{option}" for option in inner]
        return sorted(option for option in options if not re.search(r"(^|/)_[^/]*$", option))

    def _is_value(self, override: Override) -> bool:
        if override.is_sweep_override() or self.chooses(override):
            return False
        return override.key_or_group in FOLDERS or not override.is_hydra_override()

    def _compose_config_from_defaults_list(
        self, defaults: list[ResultDefault], repo: IConfigRepository
    ) -> DictConfig:
        self._chosen: dict[str, list[str]] = {}  # files of each group; an option may include others
        for entry in defaults:
            path = str(entry.config_path)
            self._chosen.setdefault(path.partition("/")[0], []).append(path)
        config = super()._compose_config_from_defaults_list(defaults, repo)
        _open_free_sections(config)
        return config

    def _load_single_config(self, default: ResultDefault, repo: IConfigRepository) -> ConfigResult:
        """As Hydra's own, but what presets and experiments set and chosen options lack is left out.

        A preset may set epsilon.decay_steps, for the schedule that it chooses; where another one
        was chosen, such as epsilon=fixed, that is left out. A key that no option has stays, and
        will be refused; so does one that the file's own choice lacks.
        """
        loaded = super()._load_single_config(default, repo)
        kind, _, _ = str(default.config_path).partition("/")
        if kind not in {"env", "experiment"} or default.package:
            return loaded
        assert isinstance(loaded.config, DictConfig)
        own = _choices(loaded)
        if kind == "experiment":  # of groups that it does not name it has the default options
            own = _choices(repo.load_config("config")) | own
        for group, section in loaded.config.items_ex(resolve=False):
            name, chosen = str(group), self._chosen.get(str(group), [])
            is_own = name == kind or f"{name}/{own.get(name)}" in chosen
            if is_own or not chosen or not isinstance(section, DictConfig):
                continue
            known = set[str]().union(*(_keys(repo.load_config(path), name) for path in chosen))
            options = [f"{name}/{option}" for option in self.get_group_options(name)]
            for key in [key for key in map(str, section) if key not in known]:
                if any(key in _keys(repo.load_config(option), name) for option in options):
                    del section[key]
        return loaded


def _choices(loaded: ConfigResult | None) -> dict[str, Any]:
    """The options that a file of settings chooses in its defaults, by their groups."""
    entries = loaded.defaults_list if loaded else None
    groups = [entry for entry in entries or () if isinstance(entry, GroupDefault)]
    return {str(entry.group).lstrip("/"): entry.value for entry in groups}


def _keys(option: ConfigResult | None, group: str) -> set[str]:
    """The keys that a file has as an option of `group`; it may set other groups too."""
    if option is None or not isinstance(option.config, DictConfig):
        return set()
    is_global = option.header.get("package") == "_global_"
    section = option.config.get(group, {}) if is_global else option.config
    return set(map(str, section))


def _open_free_sections(config: DictConfig) -> None:
    """Let new keys be set in the sections that take any key, and in no other."""
    sections = [OmegaConf.select(config, key) for key in FREE]
    for _, section in config.items_ex(resolve=False):
        if isinstance(section, DictConfig) and ":" in str(section.get("name")):
            sections.append(section)
    for section in sections:
        if isinstance(section, DictConfig):
            OmegaConf.set_struct(section, False)


def _record_overrides(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Write the overrides into `config`, at the places where Hydra writes them."""
    task = [override for override in overrides if not override.is_hydra_override()]
    config.hydra.overrides.task = [typed(override) for override in task]
    config.hydra.overrides.hydra = [typed(o) for o in overrides if o.is_hydra_override()]
    style = config.hydra.job.config.override_dirname
    config.hydra.job.override_dirname = get_overrides_dirname(
        overrides=task,
        kv_sep=style.kv_sep,
        item_sep=style.item_sep,
        exclude_keys=style.exclude_keys,
    )
