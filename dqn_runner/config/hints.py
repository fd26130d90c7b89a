"""Hints for a key or an option that does not exist; imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

MOST_HINTS = 3


def unknown_key(
    line: str,
    key: str,
    config: Mapping[str, Any],
    *,
    more: Sequence[str] = (),
    found_in: Sequence[str] = (),
) -> str:
    """The error for a `line` whose `key` is not in `config`.

    It lists the keys beside it. Then it names the options that have the key, `found_in`, or else
    similar keys of `config` and `more`.
    """
    *parents, name = key.split(".")
    section: Any = config
    for parent in parents:
        section = section.get(parent) if isinstance(section, Mapping) else None
    names = map(str, section if isinstance(section, Mapping) else ())
    known = ", ".join(n for n in names if n != name and not n.startswith("_"))
    where = ".".join(parents) or "the configuration"
    neighbors = f"; {where} has {known}" if known else ""
    if found_in:
        end = f"; it goes with {' or '.join(found_in)}"
    else:
        end = did_you_mean(nearest(key, [k for k in (*dotted_keys(config), *more) if k != key]))
    return f"{line}: no such key{neighbors}{end}"


def unknown_option(group: str, option: str, options: Sequence[str]) -> str:
    """The error for an `option` that is not one of the `options` of `group`."""
    alike = get_close_matches(option.lower(), options, n=1, cutoff=0.7)
    hints = [f"{group}={name}" for name in alike]
    # Gymnasium's ids have capitals or a version: CartPole-v1, ALE/Pong-v5, package:Id.
    if group == "env" and re.search(r"[A-Z:]|-v\d", option):
        hints.append(f"env.id={option}")
    return f"{group}={option}: must be one of {', '.join(options)}{did_you_mean(hints)}"


def nearest(key: str, keys: Sequence[str]) -> list[str]:
    """The `keys` that are like `key` in their last part; only those of its section, if any."""
    section, name = _split(key)
    ends = {_split(known)[1] for known in keys}
    closest = get_close_matches(name, ends, n=1, cutoff=0.8)
    found = [known for known in dict.fromkeys(keys) if _split(known)[1] in closest]
    same = [known for known in found if _split(known)[0] == section]
    return same or found[:MOST_HINTS]


def did_you_mean(hints: Sequence[str]) -> str:
    """The end of a line that offers `hints`; empty if there are none."""
    return f"; did you mean {' or '.join(hints)}?" if hints else ""


def _split(key: str) -> tuple[str, str]:
    section, _, name = key.replace("/", ".").rpartition(".")
    return section, name


def dotted_keys(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted keys of `config` and of its sections."""
    for key, value in config.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from dotted_keys(value, f"{prefix}{key}.")
