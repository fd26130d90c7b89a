"""Writes docs/settings.md: `python docs/settings.py > docs/settings.md`.

A meaning is the docstring under the field of a Spec, the allowed values follow from the field's
type, and the default comes from conf/. `dqn-train --help` reads the page, because reading the Specs
themselves would import torch.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union

import yaml
from omegaconf import OmegaConf
from pydantic.fields import FieldInfo

from dqn_runner.composing.help_text import GROUPS, as_value
from dqn_runner.composing.hydra_internals import set_up_hydra
from dqn_runner.config.root import Config
from dqn_runner.custom import Custom
from dqn_runner.spec import Spec
from dqn_runner.sweeps.launchers.batched import BatchedSpec
from dqn_runner.sweeps.launchers.ray import RaySpec
from dqn_runner.sweeps.launchers.slurm import SlurmSpec
from dqn_runner.sweeps.search import SearchSpec

CONF = Path(__file__).resolve().parents[1] / "conf"
WORDS = {bool: "true | false", int: "integer", float: "number", str: "text", type(None): "null"}
SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
HEADER = """\
# Settings

Every setting of `dqn-train` with its default; `dqn-train --help` shows the same with the values
that would be used. This page is written by `python docs/settings.py > docs/settings.md`."""
TABLE = "| setting | meaning | allowed | only with |\n|---|---|---|---|"


class Row(NamedTuple):
    """One setting."""

    key: str
    meaning: str
    allowed: str
    kinds: tuple[str, ...]  # the names of the sections that have it; empty if all have it


def page() -> str:
    """The whole page."""
    parts = [HEADER]
    for key, about, found in (
        *sections("", "The run as a whole.", [Config]),
        *sections("hydra.launcher", GROUPS["hydra/launcher"], [BatchedSpec, SlurmSpec, RaySpec]),
        *sections("hydra.sweeper", GROUPS["hydra/sweeper"], [SearchSpec]),
    ):
        parts.append(f"\n## {key or 'root'}\n\n{about}\n\n{TABLE}")
        for row in found:
            cells = (row.key + default(row), row.meaning, row.allowed, ", ".join(row.kinds))
            setting, *others = (cell.replace("|", r"\|") for cell in cells)
            parts.append(f"| {' | '.join([f'`{setting}`', *others])} |")
    return "\n".join(parts)


def sections(key: str, about: str, kinds: list[type[Spec]]) -> Iterator[tuple[str, str, list[Row]]]:
    """Key, meaning and settings of the section `key`, which is one of `kinds`, and those in it."""
    yield key, about, rows(key, kinds)
    fields = {name: field for spec in kinds for name, field in spec.model_fields.items()}
    for name, field in fields.items():  # of several kinds each may have the same section
        if inner := specs(field.annotation):
            yield from sections(f"{key}.{name}".removeprefix("."), meaning(field), inner)


def rows(key: str, kinds: list[type[Spec]]) -> list[Row]:
    """The settings of a section; what several kinds of it share is one row."""
    found: dict[tuple[str, str, str], Row] = {}
    # Of launchers there are more than have settings here.
    every = () if key.startswith("hydra.") else tuple(n for kind in kinds for n in names(kind))
    for spec in kinds:
        for name, field in spec.model_fields.items():
            if specs(field.annotation) or spec is Custom:
                continue
            row = Row(f"{key}.{name}".removeprefix("."), meaning(field), values(field), ())
            if len(kinds) > 1 and name == "name":
                row = row._replace(allowed=" | ".join(every))
            elif len(kinds) > 1:
                former = found.get(row[:3])
                row = row._replace(kinds=(*(former.kinds if former else ()), *names(spec)))
            found[row[:3]] = row
    all_rows = [row._replace(kinds=()) if row.kinds == every else row for row in found.values()]
    order = [row.key for row in all_rows]
    return sorted(all_rows, key=lambda row: (row.key != f"{key}.name", order.index(row.key)))


def specs(kind: Any) -> list[type[Spec]]:
    """The sections that a field of this type can hold."""
    if isinstance(kind, type) and issubclass(kind, Spec):
        return [kind]
    return [spec for inner in typing.get_args(kind) for spec in specs(inner)]


def names(spec: type[Spec]) -> list[str]:
    """The names that choose this kind of a section."""
    if spec is Custom:
        return ["package.module:Class"]
    if "name" in spec.model_fields:
        return list(typing.get_args(spec.model_fields["name"].annotation))
    return [spec.__name__.removesuffix("Spec").lower()]  # a launcher


def meaning(field: FieldInfo) -> str:
    """The docstring under a field."""
    return " ".join((field.description or "").split())


def values(field: FieldInfo) -> str:
    """The values that a field takes, in words."""
    return (
        ""
        if field.annotation is type(None)
        else field.title or allowed(field.annotation, field.metadata)
    )


def allowed(kind: Any, limits: Iterable[Any] = ()) -> str:
    """The values of a type, in words."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        titles = (getattr(limit, "title", None) for limit in inner[1:])
        return next(filter(None, titles), None) or allowed(inner[0], inner[1:])
    if origin is Literal:
        return " | ".join(map(str, inner))
    if origin in (Union, types.UnionType):
        return " | ".join(map(allowed, inner))
    if origin is list:
        items = allowed(inner[0])
        return f"list of ({items})" if " | " in items else f"list of {items}"
    if origin is tuple:
        return f"[{', '.join(map(allowed, inner))}]"
    return f"{WORDS.get(kind, 'mapping')} {' and '.join(conditions(limits))}".rstrip()


def conditions(limits: Iterable[Any]) -> Iterator[str]:
    """The bounds among what annotates a type."""
    for limit in limits:
        if isinstance(limit, FieldInfo):
            yield from conditions(limit.metadata)
        for name, sign in SIGNS.items():
            if (bound := getattr(limit, name, None)) is not None:
                yield f"{sign} {bound:,}".removesuffix(".0")


def default(row: Row) -> str:
    """What conf/ sets a setting to, as `=value`; empty if conf/ does not name it."""
    value = read(CONF / "config.yaml")
    chosen = {group: name for entry in value["defaults"][1:] for group, name in entry.items()}
    parts = row.key.split(".")
    size = 2 if parts[0] == "hydra" else 1  # of the group's name
    group = "/".join(parts[:size])
    if (CONF / group).is_dir() and len(parts) > size:  # experiment is a group and a setting
        files = [
            CONF / group / f"{name}.yaml" for name in (*row.kinds, chosen.get(group), "optuna")
        ]
        value, parts = read(next(path for path in files if path.exists())), parts[size:]
        value = value.get(group, value)  # the preset of an environment may set other groups too
        if group == "env":  # which has values that depend on its id
            set_up_hydra()
            value = OmegaConf.to_container(OmegaConf.create(value), resolve=True)
    for part in parts:
        if part not in value:
            return ""
        value = value[part]
    return f"={as_value(value)}"


def read(path: Path) -> Any:
    """A file of conf/."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    print(page())
