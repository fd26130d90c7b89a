"""The base of every section of the configuration, and the types of its values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dqn_runner.errors import ConfigError

LONGEST_WAIT = 10_000_000.0  # seconds, four months; a system's clocks refuse what is beyond years

if TYPE_CHECKING:
    pass

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
            if isinstance(value, bool) and field is not None and field.annotation is not bool:
                raise ValueError(f"{key}={value}: must not be true or false")
        return section

    @classmethod
    def checked(cls, settings: Mapping[str, Any], section: str) -> Self:
        """The settings of the section named `section`; raises ConfigError for the first bad one."""
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            found = error.errors()[0]
            key = ".".join(str(part) for part in (section, *found["loc"]))
            raise ConfigError(f"{key}={found['input']}: {found['msg']}") from error


def only_what_is_set(kinds: Mapping[str, type[Spec]]) -> Callable[[object], object]:
    """A validator to go before that of a section whose `name` is one of `kinds`.

    conf/ lists the settings of every kind there, as null where they are not given. Raises
    ValueError for a setting that the named kind does not take.
    """

    def checked(settings: object) -> object:
        if not isinstance(settings, dict) or settings.get("name") not in kinds:
            return settings
        chosen = {key: value for key, value in settings.items() if value is not None}
        takes = kinds[chosen["name"]].model_fields
        for key, value in chosen.items():
            if key not in takes:
                raise ValueError(f"{key}={value}: {chosen['name']} takes only {', '.join(takes)}")
        return chosen

    return checked
