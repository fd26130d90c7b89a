"""What a search chooses from: Hydra's sweep syntax as Optuna's distributions, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import (
    FloatRange,
    IntervalSweep,
    Override,
    RangeSweep,
)
from omegaconf import OmegaConf
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from dqn_runner.errors import ConfigError, in_a_line

Space = dict[str, BaseDistribution]


def search_space(overrides: Sequence[Override]) -> Space:
    """The distributions that `overrides` name; for a key the last one counts, and may fix it.

    `agent.lr=tag(log,interval(1e-5,1e-2))` is continuous on a logarithmic scale, `range(1,9,2)`
    has steps, `choice(a,b)` and `a,b` are categories. Raises ConfigError for an empty one.
    """
    space: Space = {}
    for override in overrides:
        space.pop(override.key_or_group, None)
        if override.is_sweep_override():
            try:
                space[override.key_or_group] = _distribution(override)
            except (ValueError, StopIteration) as error:
                line = in_a_line(error) or "holds no value"
                raise ConfigError(f"{override.input_line}: {line}") from error
    return space


def _distribution(override: Override) -> BaseDistribution:
    sweep = override.value()
    if isinstance(sweep, IntervalSweep):
        low, high, log = sweep.start, sweep.end, "log" in sweep.tags
        assert low is not None
        assert high is not None
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=log)
        return FloatDistribution(float(low), float(high), log=log)
    if isinstance(sweep, RangeSweep) and not sweep.shuffle:
        values = list(sweep.range())
        if not values:
            raise ValueError("holds no value")
        low, high, step = min(values), max(values), abs(sweep.step)
        if isinstance(sweep.range(), FloatRange):
            return FloatDistribution(round(low, 12), round(high, 12), step=float(step))
        return IntDistribution(int(low), int(high), step=int(step))
    values = list(override.sweep_string_iterator())
    if not values:
        raise ValueError("holds no value")
    return CategoricalDistribution(values)


def example_point(space: Space) -> dict[str, Any]:
    """One point of the space; continuous values are no round numbers, so they pass for floats."""
    point: dict[str, Any] = {}
    for key, distribution in space.items():
        if isinstance(distribution, CategoricalDistribution):
            point[key] = distribution.choices[0]
        elif isinstance(distribution, FloatDistribution) and distribution.step is None:
            point[key] = distribution.low + (distribution.high - distribution.low) / math.e
        elif isinstance(distribution, FloatDistribution | IntDistribution):
            point[key] = distribution.low
    return point


def choices_or_ends(distribution: BaseDistribution) -> list[Any]:
    """All values of a categorical distribution; the lowest and the highest of a numeric one."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return [distribution.low, distribution.high]


def as_overrides(params: Mapping[str, Any]) -> list[str]:
    """A point of the space, as one types it."""
    return [f"{key}={value}" for key, value in params.items()]


def write_experiment(path: Path, overrides: Sequence[Override], groups: set[str]) -> None:
    """Write `overrides` as an option of the group `experiment`; `groups` are those of conf/."""
    defaults: list[Any] = []
    settings = OmegaConf.create()
    for override in overrides:
        key = override.key_or_group
        if override.is_delete():
            continue
        if key == "experiment":
            defaults.insert(0, override.value())
        elif key in groups:
            defaults.append({f"override /{key}": override.value()})
        else:
            OmegaConf.update(settings, key, override.value(), force_add=True)
    text = "# @package _global_\n"
    if defaults:
        text += OmegaConf.to_yaml(OmegaConf.create({"defaults": [*defaults, "_self_"]}))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + (OmegaConf.to_yaml(settings) if settings else ""), encoding="utf-8")
