"""Classes of the user's own, named in YAML as `package.module:Class`."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from dqn_runner.errors import ConfigError
from dqn_runner.types import Spec


class Custom(Spec):
    """A class named as `package.module:Class`; every other key is a keyword argument of it.

    Nothing is imported before `load`: a configuration can be read without trusting it.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    name: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]

    def load(self, key: str, *given: str) -> Callable[..., Any]:
        """Import the class and bind its keyword arguments.

        `key` is the configuration key it stands under, `given` names the arguments that the caller
        will add. Modules in the working directory are found too. Raises ConfigError where the
        module or the class is missing or does not take these arguments.
        """
        find_modules_in_working_directory()
        module_name, _, class_name = self.name.partition(":")
        try:
            cls: Callable[..., Any] = getattr(importlib.import_module(module_name), class_name)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"{key}={self.name}: cannot be imported: {error}") from error
        kwargs = dict(self.model_extra or {})
        try:
            inspect.signature(cls).bind(**dict.fromkeys(given), **kwargs)
        except TypeError as error:
            takes = ", ".join(inspect.signature(cls).parameters)
            raise ConfigError(f"{key}={self.name}: {error}; it takes {takes}") from error

        def build(**arguments: Any) -> Any:
            try:
                return cls(**arguments, **kwargs)
            except (TypeError, ValueError) as error:
                raise ConfigError(f"{key}={self.name}: {error}") from error

        return build


def find_modules_in_working_directory() -> None:
    """Let imports find modules where the user is, as `python -m` does; a script's do not."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
