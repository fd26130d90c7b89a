"""Config-driven experiment runner for the DQN family."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dqn_runner.policy import load_policy

__all__ = ["load_policy"]


def __getattr__(name: str) -> Any:
    # Imported when asked for, so that `dqn-train --help` does not wait for torch.
    if name == "load_policy":
        from dqn_runner.policy import load_policy

        return load_policy
    if name == "__version__":
        from importlib.metadata import version

        return version("dqn_runner")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
