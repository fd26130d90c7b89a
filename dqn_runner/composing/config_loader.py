"""Hydra's loader, made fit for sweeps of a thousand jobs.

Hydra composes every job anew from its files, two or three times, at 0.1 s each. Jobs of a sweep
mostly differ in values, so the groups are composed once and the values set in a copy.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_repository import IConfigRepository
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

JOB_FOLDER = "hydra.sweep.subdir"  # the one setting of Hydra's own that each job has for itself

# Mappings that take any key; so do those of a class of the user's own.
FREE = ("env.kwargs", "hydra.launcher.options", "hydra.sweeper.params")

# Of this process, so that a worker, to which a loader is sent with each job, has them too.
_composed: dict[tuple[object, ...], DictConfig] = {}
_parsed: dict[str, Override] = {}
_MOST_PARSED = 10_000


class ConfigLoader(ConfigLoaderImpl):
    """Composes what Hydra composes; of the same groups only once."""

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """As Hydra's own; raises the same exceptions."""
        parsed = _parse(overrides)
        values = [override for override in parsed if self._is_value(override)]
        groups = [_line(override) for override in parsed if not self._is_value(override)]
        if not values or any("searchpath" in line for line in groups):
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
        _note_overrides(config, parsed)
        return config

    def chooses(self, override: Override) -> bool:
        """Whether `override` chooses an option of a group, and does not set a value."""
        return override.package is not None or self.repository.group_exists(override.key_or_group)

    def _is_value(self, override: Override) -> bool:
        if override.is_sweep_override() or self.chooses(override):
            return False
        return override.key_or_group == JOB_FOLDER or not override.is_hydra_override()

    def _compose_config_from_defaults_list(
        self, defaults: list[ResultDefault], repo: IConfigRepository
    ) -> DictConfig:
        config = super()._compose_config_from_defaults_list(defaults, repo)
        _open_free_sections(config)
        return config


def forget() -> None:
    """Compose from the files again, which may have changed."""
    _composed.clear()


def _open_free_sections(config: DictConfig) -> None:
    """Let keys be set there that are not there yet, as nowhere else."""
    sections = [OmegaConf.select(config, key) for key in FREE]
    for _, section in config.items_ex(resolve=False):
        if isinstance(section, DictConfig) and ":" in str(section.get("name")):
            sections.append(section)
    for section in sections:
        if isinstance(section, DictConfig):
            OmegaConf.set_struct(section, False)


def _note_overrides(config: DictConfig, overrides: Sequence[Override]) -> None:
    task = [override for override in overrides if not override.is_hydra_override()]
    config.hydra.overrides.task = [_line(override) for override in task]
    config.hydra.overrides.hydra = [_line(o) for o in overrides if o.is_hydra_override()]
    style = config.hydra.job.config.override_dirname
    config.hydra.job.override_dirname = get_overrides_dirname(
        overrides=task,
        kv_sep=style.kv_sep,
        item_sep=style.item_sep,
        exclude_keys=style.exclude_keys,
    )


def _parse(overrides: Sequence[str]) -> list[Override]:
    """Hydra's reading of `overrides`; raises OverrideParseException."""
    if len(_parsed) > _MOST_PARSED:
        _parsed.clear()
    parser = None
    for line in overrides:
        if line not in _parsed:
            parser = parser or OverridesParser.create()
            (_parsed[line],) = parser.parse_overrides([line])
    return [_parsed[line] for line in overrides]


def _line(override: Override) -> str:
    return override.input_line or ""
