"""The whole configuration, typed and checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from dqn_runner import epsilon, target_update
from dqn_runner.agents.c51 import C51Spec
from dqn_runner.agents.dqn import DQNSpec
from dqn_runner.agents.hl_gauss import HLGaussSpec
from dqn_runner.agents.iqn import IQNSpec
from dqn_runner.agents.qr_dqn import QRDQNSpec
from dqn_runner.buffers.prioritized import PrioritizedSpec
from dqn_runner.buffers.uniform import UniformSpec
from dqn_runner.config.messages import checked, kind
from dqn_runner.custom import Custom, search_working_directory
from dqn_runner.envs.atari import AtariSpec
from dqn_runner.envs.make import EnvSpec
from dqn_runner.errors import ConfigError
from dqn_runner.networks.cnn import (
    DataEfficientCNNSpec,
    ImpalaCNNSpec,
    MinAtarCNNSpec,
    NatureCNNSpec,
)
from dqn_runner.networks.torsos import MLPSpec
from dqn_runner.runs.directory import read_yaml
from dqn_runner.tracking.tracker import SwanLabSpec
from dqn_runner.training.spec import TrainingSpec

# Wrappers of this package, which are named as those of a user's own are.
OUR_WRAPPERS = {"dqn_runner.envs.images:Resize", "dqn_runner.envs.minigrid:Planes"}
MOST_THREADS = 1024  # torch crashes if the system cannot start as many threads as were asked for

_Custom = Annotated[Custom, Tag("package.module:Class")]
EpsilonSpec = Annotated[
    Annotated[epsilon.Fixed, Tag("fixed")]
    | Annotated[epsilon.Linear, Tag("linear")]
    | Annotated[epsilon.Exponential, Tag("exponential")]
    | Annotated[epsilon.Multiplicative, Tag("multiplicative")]
    | _Custom,
    Discriminator(kind),
]


def _kind_or(before: str) -> Callable[[Any], str]:
    """The `name` of a section; `before` for the config.yaml of older runs, which gives none."""

    def kind_of(section: Any) -> str:
        name = kind(section)
        return before if name == "None" else name

    return kind_of


def _env_kind(section: Any) -> str:
    """What tells the two kinds of environments apart: only Atari has a game."""
    has_game = "game" in section if isinstance(section, dict) else hasattr(section, "game")
    return "atari" if has_game else "any"


EnvSpecs = Annotated[
    Annotated[EnvSpec, Tag("any")] | Annotated[AtariSpec, Tag("atari")],
    Discriminator(_env_kind),
]
AgentSpecs = Annotated[
    Annotated[DQNSpec, Tag("dqn")]
    | Annotated[C51Spec, Tag("c51")]
    | Annotated[QRDQNSpec, Tag("qr_dqn")]
    | Annotated[IQNSpec, Tag("iqn")]
    | Annotated[HLGaussSpec, Tag("hl_gauss")],
    Discriminator(_kind_or("dqn")),
]


BufferSpec = Annotated[
    Annotated[UniformSpec, Tag("uniform")] | Annotated[PrioritizedSpec, Tag("prioritized")],
    Discriminator(_kind_or("uniform")),
]
NetworkSpec = Annotated[
    Annotated[MLPSpec, Tag("mlp")]
    | Annotated[MinAtarCNNSpec, Tag("minatar_cnn")]
    | Annotated[NatureCNNSpec, Tag("nature_cnn")]
    | Annotated[ImpalaCNNSpec, Tag("impala_cnn")]
    | Annotated[DataEfficientCNNSpec, Tag("data_efficient_cnn")]
    | _Custom,
    Discriminator(kind),
]
TargetUpdateSpec = Annotated[target_update.Hard | target_update.Soft, Field(discriminator="name")]


class Config(TrainingSpec):
    """Everything that decides what a run computes, and where it is logged."""

    resume: None = None  # read by the command line alone
    """A run directory to continue; beside it only larger budgets and tracker.notify may stand."""
    experiment: str = "none"
    """The experiment that was chosen, by which dqn-compare can group runs."""
    seed: Annotated[int, Field(ge=0)]
    """Seed of all that is random in the run."""
    device: Annotated[
        str,
        Field(pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$", title="auto | cpu | cuda | cuda:N | mps"),
    ]
    """Where the network is trained; auto is CUDA if there is one."""
    torch_threads: Annotated[int, Field(gt=0, le=MOST_THREADS)] | Literal["auto"]
    """CPU threads of torch; auto is 1 for networks under a million parameters."""
    compile: Literal["auto", "always", "never"]
    """Whether update and CNN are compiled; auto compiles if the run or its sweep repays it."""
    env: EnvSpecs
    """The environment; env.id=ID takes any discrete-action Gymnasium environment."""
    agent: AgentSpecs
    """How returns are represented and backed up; learning rate, discount, optimizer."""
    network: NetworkSpec
    """The Q-network."""
    buffer: BufferSpec
    """The replay buffer, and how transitions are drawn from it."""
    epsilon: EpsilonSpec
    """How exploration decays."""
    target_update: TargetUpdateSpec
    """How the target network follows: hard copies or soft steps."""
    tracker: SwanLabSpec
    """What SwanLab is told about the run, and how it gets there."""

    @model_validator(mode="after")
    def _buffer_holds_a_batch(self) -> Config:
        if self.buffer.capacity < self.batch_size:
            raise ValueError(
                f"buffer.capacity={self.buffer.capacity}: must be at least "
                f"batch_size={self.batch_size}"
            )
        return self

    @model_validator(mode="after")
    def _phases_draw_uniformly(self) -> Config:
        if self.phase.episodes is not None and self.buffer.name == "prioritized":
            raise ValueError(
                f"buffer.name=prioritized: phase.episodes={self.phase.episodes} needs "
                "buffer=uniform, for a phase forgets its transitions, and with them their "
                "priorities, when it has learned from them"
            )
        return self

    @model_validator(mode="after")
    def _phases_keep_rows(self) -> Config:
        if self.phase.episodes is not None and self.buffer.storage == "frames":
            raise ValueError(
                f"buffer.storage=frames: phase.episodes={self.phase.episodes} needs rows, for a "
                "phase keeps all its transitions, however many frames they have"
            )
        return self

    @model_validator(mode="after")
    def _network_has_features(self) -> Config:
        if not isinstance(self.agent, IQNSpec):
            return self
        if isinstance(self.network, Custom):
            raise ValueError(  # noqa: TRY004
                "agent=iqn: needs a network of this package, such as network=mlp, for τ joins the "
                f"features before the last layers; network.name={self.network.name} gives its "
                "outputs alone"
            )
        if isinstance(self.network, MLPSpec) and len(self.network.hidden_sizes) == 1:
            raise ValueError(
                f"network.hidden_sizes={self.network.hidden_sizes}: agent=iqn needs two layers or "
                "more, for τ joins the features before the last one"
            )
        return self

    @model_validator(mode="after")
    def _masks_are_of_the_next_state(self) -> Config:
        if self.env.action_masks and self.agent.td_target == "munchausen":
            raise ValueError(
                "agent.td_target=munchausen: not with env.action_masks=true, for its bonus needs "
                "the actions that were allowed before, too; use max or sarsa"
            )
        return self

    def plain(self) -> dict[str, Any]:
        """The configuration as plain values, as config.yaml holds it."""
        return self.model_dump(mode="json")


def parse(data: Any) -> Config:
    """Check plain values; raises ConfigError that names each wrong key and what is allowed."""
    return checked(Config, data)


def read(path: Path, *, trust: bool = False) -> Config:
    """Read and check a run's config.yaml.

    Raises ConfigError if it cannot be used. Without `trust`, it may name neither code outside this
    package, which would be imported, nor a server, which would be sent SwanLab's key.
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
    """What `config` names outside this package: code to import, and a server to send to."""
    host = config.tracker.host if config.tracker.mode == "online" else None
    return [*named_classes(config), *([host] if host else [])]


def named_classes(config: Config) -> list[str]:
    """The classes `package.module:Class` and environments `package:Id` that `config` names."""
    named = [part.name for part in (config.network, config.epsilon) if isinstance(part, Custom)]
    wrappers = [w if isinstance(w, str) else str(w.get("name")) for w in config.env.wrappers]
    wrappers = [name for name in wrappers if name not in OUR_WRAPPERS]
    environment = [config.env.id] if ":" in config.env.id else []
    return [*environment, *wrappers, *named]


def find_modules(config: Config, run: Path | None = None) -> None:
    """Let the modules that `config` names be found in the working directory too.

    Not if that lies inside `run`, the run directory that `config` was read from.
    """
    if named_classes(config):
        search_working_directory(run)
