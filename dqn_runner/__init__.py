"""Config-driven experiment runner for the DQN family."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dqn_runner.build import load_policy

__all__ = ["__version__", "load_policy"]
__version__ = importlib.metadata.version("dqn_runner")


def __getattr__(name: str) -> Any:
    # Imported when asked for, so that `dqn-train --help` does not wait for torch.
    if name == "load_policy":
        from dqn_runner.build import load_policy

        return load_policy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
