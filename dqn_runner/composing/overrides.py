"""Overrides, the KEY=VALUE of a command line: reading them, and putting quotes around text."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import OverrideParseException

from dqn_runner.errors import ConfigError, in_a_line

_parsed: dict[str, Override] = {}
_MOST_PARSED = 10_000


def typed(override: Override) -> str:
    """The override as it was typed."""
    return override.input_line or ""


def parse(overrides: Sequence[str]) -> list[Override]:
    """Hydra's reading of `overrides`, each read only once; raises OverrideParseException."""
    if len(_parsed) > _MOST_PARSED:
        _parsed.clear()
    parser = None
    for line in overrides:
        if line not in _parsed:
            parser = parser or OverridesParser.create()
            (_parsed[line],) = parser.parse_overrides([line])
    return [_parsed[line] for line in overrides]


def parse_for(loader: ConfigLoader, overrides: Sequence[str]) -> list[Override]:
    """Hydra's reading of `overrides` whose values may be globs over the options of `loader`.

    Raises ConfigError if an override cannot be read.
    """
    try:
        return OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
    except OverrideParseException as error:
        raise ConfigError(_unreadable(error)) from error


def quoted(line: str) -> str:
    """`line` with quotes around text that is not ASCII, which Hydra reads in quotes only.

    The commas of a sweep, lists and mappings keep their meaning. A line that has quotes already is
    left as it is.
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


def assignment(key: str, path: Path) -> str:
    """The override that sets `key` to `path`, whatever characters that has."""
    escaped = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}='{escaped}'"


def as_text(line: str) -> str:
    """How to type the value of `line` if it is meant as plain text."""
    key, _, value = line.partition("=")
    escaped = value.replace('"', '\\"')
    example = shlex.quote(f'{key}="{escaped}"')
    return f"text with special characters is quoted: {example}"


def digest(lines: Sequence[str]) -> str:
    """Eight characters that tell `lines` from others."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:8]


def _unreadable(error: OverrideParseException) -> str:
    """Why Hydra cannot read an override, without its talk of tokens."""
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
