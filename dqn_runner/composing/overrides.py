"""Hydra's reading of a command line, and one line for whatever it cannot read or compose."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dqn_runner.composing.config_loader import ConfigLoader
from dqn_runner.config.hints import did_you_mean, dotted_keys, unknown_key, unknown_option
from dqn_runner.errors import ConfigError, in_a_line

# What Hydra and OmegaConf raise where an override does not fit; most of it is not meant for users.
REFUSALS = (
    HydraException,
    OmegaConfBaseException,
    AssertionError,
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
)


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Hydra's options, and `overrides`; raises ConfigError for options that there are not."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise ConfigError(message)

    parser.error = refuse  # type: ignore[method-assign]
    parsed = parser.parse_intermixed_args(arguments)
    for name in ("config_dir", "config_path", "config_name"):
        if getattr(parsed, name) == "":
            raise ConfigError(f"--{name.replace('_', '-')}=: must not be empty")
    parsed.overrides = [quoted(_checked(line)) for line in parsed.overrides]
    return parsed


def _checked(line: str) -> str:
    key, equals, _ = line.partition("=")
    if not key or not (equals or key.startswith("~")):
        raise ConfigError(
            f"{line}: must be KEY=VALUE, such as agent.lr=1e-4; a value with spaces is quoted, "
            "as in 'KEY=\"two words\"'"
        )
    if not key.isascii():
        raise ConfigError(f"{line}: no such key")
    return line


def quoted(line: str) -> str:
    """`line` with quotes around text that is not ASCII, which Hydra reads in quotes only.

    The commas of a sweep, lists and mappings keep their meaning; where the user has put quotes
    nothing is changed.
    """
    key, equals, value = line.partition("=")
    if value.isascii() or "'" in value or '"' in value:
        return line
    structured = re.match(r"[\[{]|[A-Za-z_]\w*\(", value, re.ASCII)
    between = r",:\[\]{}()" if structured else ","
    text = rf"(?=[^{between}]*[^\x00-\x7f])[^\s{between}][^{between}]*"
    return key + equals + re.sub(text, lambda found: f"'{found.group()}'", value)


def unquoted(text: str) -> str:
    """`text` without the quotes that `quoted` puts in."""
    return re.sub(r"'([^']*[^\x00-\x7f][^']*)'", r"\1", text)


def parse_overrides(overrides: Sequence[str], hydra: Hydra) -> list[Override]:
    """Hydra's reading of `overrides`; raises ConfigError where it has none."""
    parser = OverridesParser.create(config_loader=hydra.config_loader)
    try:
        return parser.parse_overrides(list(overrides))
    except OverrideParseException as error:
        raise ConfigError(_unreadable(error)) from error


def _unreadable(error: OverrideParseException) -> str:
    """Hydra's lexer and parser speak of tokens; what they stumble over is text without quotes."""
    line = unquoted(error.override)
    value = line.partition("=")[2]
    function = re.search(r"while evaluating '.*?': (.*?)(?: See https.*)?$", in_a_line(error))
    reason = function.group(1) if function else "cannot be read"
    for opening, closing in ("[]", "{}", "()"):
        if value.count(opening) != value.count(closing):
            reason = f"{opening} and {closing} do not match"
    if value.count("'") % 2 or value.count('"') % 2:
        reason = "a quote is not closed"
    return f"{line}: {reason}; {as_text(line)}"


def as_text(line: str) -> str:
    """How the value of `line` is typed if it is meant as text, as it stands."""
    key, _, value = line.partition("=")
    escaped = value.replace('"', '\\"')
    example = shlex.quote(f'{key}="{escaped}"')
    return f"text with special characters is quoted: {example}"


def compose(
    hydra: Hydra, name: str, overrides: list[str], given: Sequence[Override] = ()
) -> DictConfig:
    """One configuration; raises ConfigError where it cannot be composed.

    The error shows an override as it was `given`, with all the values of a sweep.
    """
    try:
        return hydra.compose_config(name, overrides, RunMode.RUN)
    except MissingConfigException as error:
        raise ConfigError(_unknown_option(error, hydra, name, overrides)) from error
    except REFUSALS as error:
        as_given = {override.key_or_group: _line(override) for override in given}
        raise ConfigError(_explain(error, hydra, name, overrides, as_given)) from error


def _unknown_option(
    error: MissingConfigException, hydra: Hydra, name: str, overrides: Sequence[str]
) -> str:
    missing = error.missing_cfg_file or ""
    if missing == name:
        return f"--config-name={name}: there is no {name}.yaml in conf/ or --config-dir"
    keys = {line.partition("=")[0].lstrip("+") for line in overrides}
    for group in sorted(keys, key=len, reverse=True):  # a group inside of another goes first
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
    """Find the override that cannot be used, and say why; `error` is what all of them gave."""
    loader = hydra.config_loader
    assert isinstance(loader, ConfigLoader)
    parsed = parse_overrides(overrides, hydra)
    for override in parsed:
        if override.is_sweep_override():
            return f"{unquoted(_line(override))}: several values; -m runs each of them"
    used = [_line(override) for override in parsed if loader.chooses(override)]
    try:
        config = hydra.compose_config(name, used, RunMode.RUN)
    except REFUSALS:  # of a file of the user's own, or of an option that is none
        return in_a_line(error) or f"{' '.join(used)}: cannot be composed"
    for override in parsed:
        if not loader.chooses(override):
            used.append(_line(override))
            try:
                hydra.compose_config(name, used, RunMode.RUN)
            except REFUSALS as reason:
                line = as_given.get(override.key_or_group, _line(override))
                return _explain_one(line, override, reason, config, loader)
    return in_a_line(error) or "the configuration cannot be composed"


def _explain_one(
    line: str, override: Override, reason: Exception, config: DictConfig, loader: ConfigLoader
) -> str:
    """`line` is what was typed; `config` is what the override could not be set in."""
    key, text, known = override.key_or_group, in_a_line(reason), _plain(config)
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
    return f"{line}: {first_line(reason.__cause__ or reason) or 'cannot be set'}"


def first_line(error: BaseException) -> str:
    """The text of an error of OmegaConf's without the state of its objects."""
    return str(error).strip().partition("\n")[0]


def _options_with(key: str, loader: ConfigLoader) -> list[str]:
    """The options of a group that have the setting `key`, such as target_update.tau."""
    group, _, setting = key.partition(".")
    return [
        f"{group}={option}"
        for option in (loader.get_group_options(group) if setting else ())
        if (file := loader.repository.load_config(f"{group}/{option}"))
        and setting in dotted_keys(_plain(file.config))
    ]


def _plain(config: Any) -> dict[str, Any]:
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=False)  # type: ignore[assignment]
    return plain


def _line(override: Override) -> str:
    return override.input_line or ""
