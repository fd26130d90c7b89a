"""An error of the configuration as one line."""

from __future__ import annotations

from typing import Any

from dqn_runner.config.hints import did_you_mean, unknown_key


def kind(section: Any) -> str:
    name = section.get("name") if isinstance(section, dict) else getattr(section, "name", None)
    return "package.module:Class" if ":" in str(name) else str(name)


def line(error: dict[str, Any], data: Any) -> str:
    """One of pydantic's errors in our words, `key=value: what is allowed`."""
    key, value, context = (
        _key(error["loc"], data, error["type"] == "missing"),
        error["input"],
        error.get("ctx", {}),
    )
    message = (
        error["msg"]
        .removeprefix("Value error, ")
        .replace("Input should", "must")
        .replace("String should", "must")
    )
    match error["type"]:
        case "value_error":
            # Raised by our own validators, which name the keys inside the section they check.
            return f"{key}.{message}" if key else str(message)
        case "missing":
            return f"{key}: must be given"
        case "extra_forbidden":
            return unknown_key(f"{key}={value}", key, data)
        case "union_tag_invalid":
            tags = context["expected_tags"].replace("'", "")
            return f"{key}.name={kind(value)}: must be one of {tags}"
        case "too_short":
            message = f"must have at least {context['min_length']} item"
        case "string_pattern_mismatch" if key == "device":
            message = "must be auto, cpu, cuda, cuda:N or mps"
        case "int_parsing_size":
            message = "is too large"
        case "dict_type" | "model_type":
            message = "must be a mapping, such as {key: value}"
        case "model_attributes_type":  # of the sections that have a name
            message = "must be a mapping with a name"
            if isinstance(value, str):
                message += did_you_mean([f"{key}.name={value}"])
    return f"{key}={'null' if value is None else value}: {message}"


def _key(location: tuple[int | str, ...], data: Any, is_missing: bool) -> str:
    """The dotted key of a location, without the names of union members that pydantic puts in."""
    parts: list[str] = []
    for i, part in enumerate(location):
        inside = isinstance(data, dict) and part in data
        if inside or (isinstance(data, list | tuple) and isinstance(part, int)):
            data = data[part]
        elif not (is_missing and i == len(location) - 1):
            continue
        parts.append(f"[{part}]" if isinstance(part, int) else f".{part}")
    return "".join(parts).removeprefix(".")
