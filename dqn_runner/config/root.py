"""The typed, checked configuration: what conf/ composes to, with one line for whatever is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from dqn_runner import epsilon, target_update
from dqn_runner.agents.dqn import DQNSpec
from dqn_runner.buffers.uniform import UniformSpec
from dqn_runner.config.messages import kind, line
from dqn_runner.custom import Custom, search_working_directory
from dqn_runner.envs.make import EnvSpec
from dqn_runner.errors import ConfigError
from dqn_runner.networks.torsos import MLPSpec
from dqn_runner.runs.directory import read_yaml
from dqn_runner.tracking.tracker import SwanLabSpec
from dqn_runner.training.spec import TrainingSpec

MOST_THREADS = 1024  # torch crashes where the system gives it fewer than it was promised


_Custom = Annotated[Custom, Tag("package.module:Class")]
EpsilonSpec = Annotated[
    Annotated[epsilon.Fixed, Tag("fixed")]
    | Annotated[epsilon.Linear, Tag("linear")]
    | Annotated[epsilon.Exponential, Tag("exponential")]
    | Annotated[epsilon.Multiplicative, Tag("multiplicative")]
    | _Custom,
    Discriminator(kind),
]
NetworkSpec = Annotated[Annotated[MLPSpec, Tag("mlp")] | _Custom, Discriminator(kind)]
TargetUpdateSpec = Annotated[target_update.Hard | target_update.Soft, Field(discriminator="name")]


class Config(TrainingSpec):
    """Everything that decides what a run computes and where it is logged."""

    resume: None = None  # the command line's word for going on with a run
    seed: Annotated[int, Field(ge=0)]
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$")]
    torch_threads: Annotated[int, Field(gt=0, le=MOST_THREADS)] | Literal["auto"]
    compile: Literal["auto", "always", "never"]
    env: EnvSpec
    agent: DQNSpec
    network: NetworkSpec
    buffer: UniformSpec
    epsilon: EpsilonSpec
    target_update: TargetUpdateSpec
    tracker: SwanLabSpec

    @model_validator(mode="after")
    def _buffer_holds_a_batch(self) -> Config:
        if self.buffer.capacity < self.batch_size:
            raise ValueError(
                f"buffer.capacity={self.buffer.capacity}: must be at least "
                f"batch_size={self.batch_size}"
            )
        return self

    def plain(self) -> dict[str, Any]:
        """The configuration as plain values, as config.yaml holds it."""
        return self.model_dump(mode="json")


def parse(data: Any) -> Config:
    """Check plain values; raises ConfigError naming each wrong key, its value and what may be."""
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        problems: dict[str, list[str]] = {}  # of one value, each member of a union has its own
        for found in error.errors():
            setting, _, allowed = line(dict(found), data).partition(": ")
            problems.setdefault(setting, []).append(allowed)
        lines = (f"{setting}: {' or '.join(allowed)}" for setting, allowed in problems.items())
        raise ConfigError("; ".join(lines)) from error


def read(path: Path, *, trust: bool = False) -> Config:
    """Read and check a run's config.yaml.

    Raises ConfigError where there is none that can be used, or where it names code outside of this
    package, which using it would import, or a server, and `trust` is false.
    """
    config = parse(read_yaml(path))
    outside = [] if trust else outside_code(config)
    if outside:
        raise ConfigError(
            f"{path}: names what lies outside of this package ({', '.join(outside)}); --trust "
            "allows to import classes from there, and to send SwanLab's key to a host"
        )
    find_modules(config, path.parent)
    return config


def outside_code(config: Config) -> list[str]:
    """The names in `config` by which outside code would be imported or an outside host told."""
    host = config.tracker.host if config.tracker.mode == "online" else None
    return [*named_classes(config), *([host] if host else [])]


def named_classes(config: Config) -> list[str]:
    """What `config` names as `package.module:Class`, or as the environment `package:Id`."""
    named = [part.name for part in (config.network, config.epsilon) if isinstance(part, Custom)]
    wrappers = [w if isinstance(w, str) else str(w.get("name")) for w in config.env.wrappers]
    environment = [config.env.id] if ":" in config.env.id else []
    return [*environment, *wrappers, *named]


def find_modules(config: Config, run: Path | None = None) -> None:
    """Have modules that `config` names found in the working directory too, but not inside `run`,
    the run directory that it was read from.
    """
    if named_classes(config):
        search_working_directory(run)
