"""Launchers run the jobs of a sweep: here, in other processes, or on other machines.

Ours have the interface of Hydra's, and are imported only when they are chosen.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from omegaconf import DictConfig, OmegaConf

from dqn_runner.errors import ConfigError
from dqn_runner.runs.job import run_job

# The class, and the packages it needs beyond our own, which the extra of the same name installs.
OURS = {
    "joblib": ("dqn_runner.sweeps.launchers.joblib:JoblibLauncher",),
    "batched": ("dqn_runner.sweeps.launchers.batched:BatchedLauncher",),
    "slurm": ("dqn_runner.sweeps.launchers.slurm:SlurmLauncher", "submitit"),
    "ray": ("dqn_runner.sweeps.launchers.ray:RayLauncher", "ray", "grpc"),
}


class Launcher(Protocol):
    """What Hydra's launchers can do."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Any:
        """Run a job for each list of overrides, until all have ended."""


@runtime_checkable
class Planning(Protocol):
    """A launcher that must know all jobs before it runs some of them."""

    def plan(self, jobs: Mapping[Path, dict[str, Any]]) -> None:
        """Take the settings of all jobs of the sweep, those that are done too, by their path."""


def check(name: str) -> None:
    """Raise ConfigError if the launcher `name` needs something that is not installed."""
    if not all(importlib.util.find_spec(package) for package in OURS.get(name, ())[1:]):
        raise ConfigError(f"hydra/launcher={name}: needs pip install 'dqn_runner[{name}]'")


def instantiate(name: str, context: Any, config: DictConfig) -> Launcher:
    """The launcher `name`, set up; raises ConfigError for settings that it does not have."""
    from hydra.core.plugins import Plugins
    from hydra.core.singleton import Singleton

    from dqn_runner.sweeps.launchers.worker import Shared

    if name not in OURS:
        task = functools.partial(run_job, quiet=name != "basic")
        launcher: Launcher = Plugins.instance().instantiate_launcher(context, task, config)
        return launcher
    module, _, class_name = OURS[name][0].partition(":")
    settings = OmegaConf.to_container(config.hydra.launcher, resolve=True)
    assert isinstance(settings, dict)
    del settings["name"]
    shared = Shared(context, config, Singleton.get_state(), sys.argv)
    ours: Launcher = getattr(importlib.import_module(module), class_name)(settings, shared)
    return ours
