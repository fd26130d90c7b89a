"""Networks, rules and learners as several test files need them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dqn_runner.agents.c51 import C51Spec
from dqn_runner.agents.dqn import DQNSpec, Loss, ScalarReturn
from dqn_runner.agents.hl_gauss import HLGaussSpec
from dqn_runner.agents.iqn import IQNSpec
from dqn_runner.agents.qr_dqn import QRDQNSpec
from dqn_runner.agents.spec import AgentSpec
from dqn_runner.agents.targets import best_action, selected_action, taken_action
from dqn_runner.buffers.rows import gather
from dqn_runner.config.build import building, update_numbers, update_rule
from dqn_runner.config.root import Config
from dqn_runner.envs.episode import EpisodePlayer
from dqn_runner.learning.learner import Learner, UpdateRule
from dqn_runner.learning.optimizers import SGD, Adam, AdamW, RMSprop
from dqn_runner.networks.cnn import (
    CNNSpec,
    DataEfficientCNNSpec,
    ImpalaCNNSpec,
    MinAtarCNNSpec,
    NatureCNNSpec,
)
from dqn_runner.networks.flat import FlatNetwork
from dqn_runner.networks.heads import (
    CategoricalHead,
    HeadMaker,
    ImplicitQuantileHead,
    QNetwork,
    QuantileHead,
    make_network,
    make_scalar_head,
)
from dqn_runner.networks.init import Init, TorchInit
from dqn_runner.networks.torsos import Activation, MLPSpec, Norm
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.target_update import Hard, Soft
from dqn_runner.training.requests import serve
from dqn_runner.training.state import Parts
from dqn_runner.types import Batch, ObsSpec

HEADS: dict[str, HeadMaker] = {
    "scalar": make_scalar_head,
    "categorical": lambda streams, _: CategoricalHead(streams(11), torch.linspace(-3.0, 7.0, 11)),
    "quantile": lambda streams, _: QuantileHead(streams(9), 9),
    "implicit quantile": lambda streams, num_features: ImplicitQuantileHead(
        streams(1), num_features, embedding_dim=6, num_uniforms=(4, 5), num_tau_act=7
    ),
}


def build(config: Config, run_dir: RunDirectory) -> tuple[Config, Parts]:
    """All that a run by itself trains with, compiled if it asks for that."""
    return serve(building(config, run_dir))


def mlp(
    obs_shape: tuple[int, ...],
    num_actions: int,
    hidden_sizes: Sequence[int],
    activation: Activation = "relu",
    init: Init | None = None,
    *,
    norm: Norm = "none",
    dueling: bool = False,
    noisy: float | None = None,
    head: str = "scalar",
    agent: AgentSpec | None = None,
) -> QNetwork:
    """The fully connected Q-network that such a configuration makes."""
    spec = MLPSpec(
        hidden_sizes=list(hidden_sizes),
        activation=activation,
        norm=norm,
        init=init or TorchInit(),
        dueling=dueling,
        noisy=noisy,
    )
    obs = ObsSpec(obs_shape, np.dtype(np.float32))
    return make_network(spec, obs, num_actions, agent.head if agent else HEADS[head])


CNNS: dict[str, type[CNNSpec]] = {
    "minatar_cnn": MinAtarCNNSpec,
    "nature_cnn": NatureCNNSpec,
    "impala_cnn": ImpalaCNNSpec,
    "data_efficient_cnn": DataEfficientCNNSpec,
}


def cnn(
    name: str,
    obs_shape: tuple[int, ...],
    num_actions: int,
    *,
    stack: int = 1,
    head: str = "scalar",
    agent: AgentSpec | None = None,
    **settings: Any,
) -> QNetwork:
    """The convolutional Q-network that such a configuration makes, with 8 hidden units."""
    spec = CNNS[name].model_validate({"name": name, "hidden_size": 8, **settings})
    obs = ObsSpec(obs_shape, np.dtype(np.float32), stack)
    return make_network(spec, obs, num_actions, agent.head if agent else HEADS[head])


AGENTS: dict[str, tuple[type[AgentSpec], dict[str, Any]]] = {
    "dqn": (DQNSpec, {"loss": "huber"}),
    "c51": (C51Spec, {"v_min": -3.0, "v_max": 7.0, "num_atoms": 11}),
    "qr_dqn": (QRDQNSpec, {"num_quantiles": 9, "kappa": 1.0}),
    "iqn": (IQNSpec, {"num_tau": 4, "num_tau_next": 5, "num_tau_act": 7, "embedding_dim": 6,
                      "kappa": 1.0}),
    "hl_gauss": (HLGaussSpec, {"v_min": -3.0, "v_max": 7.0, "num_bins": 12, "sigma": 0.75}),
}  # fmt: skip


def agent_of(name: str, **settings: Any) -> AgentSpec:
    """The settings of a small agent of that name, with what can be off turned off."""
    kind, own = AGENTS[name]
    shared = {"lr": 1e-3, "gamma": 0.9, "n_step": 1, "double": False, "max_grad_norm": None,
              "max_grad_value": None, "optimizer": {"name": "adam"}}  # fmt: skip
    return kind.model_validate({"name": name, **shared, **own, **settings})


def rule_for(agent: AgentSpec, network: FlatNetwork, *, soft_target: bool = False) -> UpdateRule:
    """The update of `agent`, as a run builds it."""
    return update_rule(agent, target_by(0.5 if soft_target else None), network, gather)


def numbers_of(agent: AgentSpec, num_actions: int, tau: float | None = None) -> dict[str, float]:
    """The numbers of such an update, as a run builds them."""
    return update_numbers(agent, target_by(tau), num_actions)


def target_by(tau: float | None) -> Hard | Soft:
    """A soft target update of `tau`; without it a hard one."""
    return Hard(interval=1, unit="update") if tau is None else Soft(tau=tau)


def columns(batch: Batch) -> tuple[Tensor, ...]:
    """The tensors of a storage that holds `batch`."""
    return tuple(column for column in batch if column is not None)


def q_values(network: FlatNetwork, params: Tensor, obs: Tensor) -> Tensor:
    """Action values [B, A] under `params` [P]."""
    return network(params, network.buffers, obs).q_values


def rule_of(
    network: FlatNetwork,
    *,
    optimizer: Adam | AdamW | RMSprop | SGD,
    loss: Loss = "mse",
    double: bool = False,
    sarsa: bool = False,
    clip_norm: bool = False,
    clip_value: bool = False,
    soft_target: bool = False,
    clip_target: bool = False,
) -> UpdateRule:
    """An update with everything off that is not asked for."""
    return UpdateRule(
        network=network,
        gather=gather,
        representation=ScalarReturn(loss, clip_target),
        next_state=taken_action if sarsa else selected_action if double else best_action,
        optimizer=optimizer,
        clip_norm=clip_norm,
        clip_value=clip_value,
        soft_target=soft_target,
    )


def learn(learner: Learner, batch: Batch, indices: Tensor) -> Tensor:
    """One update on the rows `indices` [B], which all count the same; returns priorities [B]."""
    return learner.update(columns(batch), indices, torch.ones(len(indices)))


def players(make, **limits):
    """A factory of players, each in an environment from `make`."""
    return lambda name: EpisodePlayer(make(), name, **limits)
