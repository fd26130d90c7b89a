"""A user's own classes, named in YAML as `package.module:Class`."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from dqn_runner.errors import ConfigError, failing_as
from dqn_runner.spec import Spec


class Custom(Spec):
    """A class named as `package.module:Class`; every other key is one of its keyword arguments.

    Only `load` imports anything, so a configuration can be read without trusting it.
    """

    model_config = ConfigDict(extra="allow")
    name: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
    """A class of your own, as package.module:Class; other keys are its arguments."""

    def load(self, key: str, *given: str) -> Callable[..., Any]:
        """Import the class and bind its keyword arguments.

        `key` is the section's key, for error lines; `given` names the arguments that the caller
        will add. Raises ConfigError if the module or the class is missing, or if the class does not
        take these arguments. What is returned raises ConfigError if the class itself fails.
        """
        where = f"{key}={self.name}"
        module_name, _, class_name = self.name.partition(":")
        with failing_as(ConfigError, f"{where}: cannot be imported"):
            cls: Callable[..., Any] = getattr(importlib.import_module(module_name), class_name)
        kwargs = dict(self.model_extra or {})
        with failing_as(ConfigError, where):
            signature = inspect.signature(cls)
        try:
            signature.bind(**dict.fromkeys(given), **kwargs)
        except TypeError as error:
            takes = ", ".join(signature.parameters)
            raise ConfigError(f"{where}: {error}; it takes {takes}") from error

        def build(**arguments: Any) -> Any:
            with failing_as(ConfigError, where):
                return cls(**arguments, **kwargs)

        return build


def search_working_directory(run: Path | None = None) -> None:
    """Let imports find modules in the working directory, as `python -m` does.

    If the working directory lies in `run`, which somebody may have sent, imports find nothing in
    it, even if Python was told to look there.
    """
    here = Path.cwd().resolve()
    if run and here.is_relative_to(run.resolve()):
        sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != here]
    elif str(here) not in sys.path:
        sys.path.append(str(here))
