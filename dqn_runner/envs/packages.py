"""Packages that bring environments: importing them, and mending what they lack."""

from __future__ import annotations

import importlib
import importlib.util
from typing import NamedTuple

import gymnasium as gym

from dqn_runner.envs.encoding import Env
from dqn_runner.errors import ConfigError, failing_as


class Package(NamedTuple):
    """A package that we know; its environments need not be named as `package:Id`."""

    prefix: str  # of its ids
    extra: str  # of ours, which installs it


PACKAGES = {
    "minatar": Package("MinAtar/", "minatar"),
    "ale_py": Package("ALE/", "atari"),
    "minigrid": Package("MiniGrid-", "minigrid"),
}


def import_package(env_id: str) -> str:
    """Import the package that registers `env_id`; returns the id without the package's name.

    Some packages register their environments when they are imported, others have a function
    `register_envs` for it, which may be in their module `gym`. Raises ConfigError if a package is
    missing or cannot be imported.
    """
    package, colon, name = env_id.rpartition(":")
    if not colon:
        known = [key for key, value in PACKAGES.items() if name.startswith(value.prefix)]
        if not known:
            return name
        (package,) = known
    where = f"env.id={env_id}"
    try:
        found = importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        found = False
    if not found:
        ours = PACKAGES.get(package)
        install = f"pip install 'dqn_runner[{ours.extra}]'" if ours else "is it installed?"
        raise ConfigError(f"{where}: there is no package {package}; {install}")
    with failing_as(ConfigError, f"{where}: {package} cannot be imported"):
        if package == "minatar":
            from dqn_runner.envs.minatar import import_quietly

            import_quietly()
        module = importlib.import_module(package)
        if package == "ale_py":  # each process would print who wrote it
            module.ALEInterface.setLoggerMode(module.LoggerMode.Error)
        if not any(f"{known}-v".startswith(f"{name}-v") for known in gym.registry):
            _register(package)
    return name


def _register(package: str) -> None:
    """Call the function with which `package` registers its environments, if it has one."""
    for place in (package, f"{package}.gym", f"{package}.gymnasium"):
        if importlib.util.find_spec(place) is None:
            continue
        module = importlib.import_module(place)
        for name in ("register_envs", "register_gymnasium_envs"):  # the second is shimmy's
            if callable(register := getattr(module, name, None)):
                register()
                return


def mended(env: Env) -> Env:
    """`env` with what its package does wrong put right."""
    if type(env.unwrapped).__module__ == "minatar.gym":
        from dqn_runner.envs.minatar import Mended

        return Mended(env)
    return env
