"""The base class of every section of the configuration, and types of values.

The docstring under a field is the meaning that --help and docs/settings.md show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

LONGEST_WAIT = 10_000_000.0  # seconds, about four months; clocks cannot wait for many years

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, le=LONGEST_WAIT)]
Probability = Annotated[float, Field(ge=0, le=1)]


class Spec(BaseModel):
    """A section of the configuration: immutable, with checked values and no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, section: object) -> object:
        for key, value in section.items() if isinstance(section, dict) else ():
            field = cls.model_fields.get(key)
            if not isinstance(value, bool) or field is None:
                continue
            if bool not in (field.annotation, *get_args(field.annotation)):
                raise ValueError(f"{key}={value}: must not be true or false")
        return section


def drop_nulls(kinds: Mapping[str, type[Spec]]) -> Callable[[object], object]:
    """A validator that runs before that of a section whose `name` is one of `kinds`.

    conf/ lists the settings of every kind there, and those that are not given are null. The
    validator drops them, and raises ValueError for a setting that the named kind does not take.
    """

    def dropped(settings: object) -> object:
        if not isinstance(settings, dict) or settings.get("name") not in kinds:
            return settings
        chosen = {key: value for key, value in settings.items() if value is not None}
        takes = kinds[chosen["name"]].model_fields
        for key, value in chosen.items():
            if key not in takes:
                raise ValueError(f"{key}={value}: {chosen['name']} takes only {', '.join(takes)}")
        return chosen

    return dropped
