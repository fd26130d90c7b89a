"""Composing a configuration, and one line that says why it cannot be composed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dqn_runner.composing.hydra_internals import ConfigLoader, Hydra
from dqn_runner.composing.overrides import parse_for, typed, unquoted
from dqn_runner.config.hints import did_you_mean, dotted_keys, unknown_key, unknown_option
from dqn_runner.errors import ConfigError, in_a_line

# What Hydra and OmegaConf raise for an override that they cannot use.
REFUSALS = (
    HydraException,
    OmegaConfBaseException,
    AssertionError,
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
)


def compose(
    hydra: Hydra, name: str, overrides: list[str], given: Sequence[Override] = ()
) -> DictConfig:
    """Compose one configuration; raises ConfigError if that is not possible.

    The error shows an override as it was `given`, with all the values of a sweep.
    """
    try:
        return hydra.compose_config(name, overrides, RunMode.RUN)
    except MissingConfigException as error:
        raise ConfigError(_unknown_option(error, hydra, name, overrides)) from error
    except REFUSALS as error:
        as_given = {override.key_or_group: typed(override) for override in given}
        raise ConfigError(_explain(error, hydra, name, overrides, as_given)) from error


def first_line(error: BaseException) -> str:
    """The first line of an error or of its cause; the rest is for developers. May be empty."""
    return str(error.__cause__ or error).strip().partition("\n")[0]


def _unknown_option(
    error: MissingConfigException, hydra: Hydra, name: str, overrides: Sequence[str]
) -> str:
    missing = error.missing_cfg_file or ""
    if missing == name:
        return f"--config-name={name}: there is no {name}.yaml in conf/ or --config-dir"
    keys = {line.partition("=")[0].lstrip("+") for line in overrides}
    for group in sorted(keys, key=len, reverse=True):  # a group inside another group goes first
        options = hydra.config_loader.get_group_options(group)
        if options and missing.startswith(f"{group}/"):
            return unknown_option(group, missing.removeprefix(f"{group}/"), options)
    return in_a_line(error)


def _explain(
    error: Exception,
    hydra: Hydra,
    name: str,
    overrides: Sequence[str],
    as_given: Mapping[str, str],
) -> str:
    """Find the override that cannot be used, and say why; `error` came from all of them."""
    loader = hydra.config_loader
    assert isinstance(loader, ConfigLoader)
    parsed = parse_for(loader, overrides)
    for override in parsed:
        if override.is_sweep_override():
            return f"{unquoted(typed(override))}: several values; -m runs each of them"
    used = [typed(override) for override in parsed if loader.chooses(override)]
    try:
        config = hydra.compose_config(name, used, RunMode.RUN)
    except REFUSALS:  # from a user's own file, or for an option that does not exist
        return in_a_line(error) or f"{' '.join(used)}: cannot be composed"
    for override in parsed:
        if not loader.chooses(override):
            used.append(typed(override))
            try:
                hydra.compose_config(name, used, RunMode.RUN)
            except REFUSALS as reason:
                line = as_given.get(override.key_or_group, typed(override))
                return _explain_one(line, override, reason, config, loader)
    return in_a_line(error) or "the configuration cannot be composed"


def _explain_one(
    line: str, override: Override, reason: Exception, config: DictConfig, loader: ConfigLoader
) -> str:
    """`line` is what was typed; `config` is what the override could not be set in."""
    key, text, known = override.key_or_group, in_a_line(reason), _unresolved(config)
    section: Any = known
    for part in key.split(".")[:-1]:
        section = section.get(part) if isinstance(section, dict) else None
    unknown = text.startswith(("Could not override", "Could not delete")) and "value of" not in text
    if unknown or not isinstance(section, dict):
        if not override.is_hydra_override():
            del known["hydra"]
        groups = [*loader.list_groups(""), "hydra/launcher", "hydra/sweeper"]
        return unknown_key(line, key, known, more=groups, found_in=_options_with(key, loader))
    if text.startswith("Could not append"):
        return f"{line}: {key} is there already{did_you_mean([line.lstrip('+')])}"
    return f"{line}: {first_line(reason) or 'cannot be set'}"


def _options_with(key: str, loader: ConfigLoader) -> list[str]:
    """The options of a group that have the setting `key`, such as target_update.tau."""
    group, _, setting = key.partition(".")
    return [
        f"{group}={option}"
        for option in (loader.get_group_options(group) if setting else ())
        if (file := loader.repository.load_config(f"{group}/{option}"))
        and setting in dotted_keys(_section(group, _unresolved(file.config)))
    ]


def _section(group: str, values: dict[str, Any]) -> dict[str, Any]:
    """The settings of `group` in a file of it, which may set those of other groups too."""
    inner = values.get(group)
    return inner if isinstance(inner, dict) else values


def _unresolved(config: Any) -> dict[str, Any]:
    """`config` as plain values, with ${...} as it stands."""
    values: dict[str, Any] = OmegaConf.to_container(config, resolve=False)  # type: ignore[assignment]
    return values
