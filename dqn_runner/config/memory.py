"""The memory that a run needs, before anything is made."""

from __future__ import annotations

import math

import psutil
import torch
from rich.filesize import decimal
from torch import nn

from dqn_runner.buffers.frames import choose_storage, frame_storage_bytes
from dqn_runner.buffers.rows import Layout, row_bytes
from dqn_runner.config.root import Config
from dqn_runner.envs.encoding import Env, num_actions
from dqn_runner.envs.make import obs_spec_of
from dqn_runner.errors import ConfigError
from dqn_runner.networks.heads import HeadMaker, QNetwork, make_network, make_scalar_head
from dqn_runner.networks.init import TorchInit
from dqn_runner.networks.noisy import NoisyLinear
from dqn_runner.networks.torsos import TorsoSpec
from dqn_runner.types import ObsSpec

# What an update of a network of ours holds at its peak, measured and rounded down, in numbers of 4
# bytes: vectors as long as the parameters, and for each row of a batch, numbers for each unit.
VECTORS = 10
COPIES = 2

LINEAR = (nn.Linear, NoisyLinear)


def check_memory(config: Config, env: Env, device: torch.device) -> None:
    """Raise ConfigError if a run would not fit into the memory that is free."""
    takes = needed_memory(config, env)
    on_gpu = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if on_gpu else psutil.virtual_memory().available
    total = sum(takes.values())
    if total > free:
        too_large = (setting for setting, size in takes.items() if size > free)
        setting = next(too_large, max(takes, key=takes.__getitem__))
        size = takes[setting]
        rest = f" and the rest of the run {decimal(total - size)}" if size <= free else ""
        raise ConfigError(
            f"{setting}: takes {decimal(size)}{rest}, and {decimal(free)} are free on {device}"
        )


def needed_memory(config: Config, env: Env) -> dict[str, int]:
    """The bytes that each setting takes; those of a network only if it is one of ours.

    The order matters: if several are too large, the first is named.
    """
    obs = obs_spec_of(config.env, env)
    takes = {}
    if isinstance(config.network, TorsoSpec):
        of_layers = config.network.sizes.items()
        sizes = ", ".join(f"network.{key}={value}" for key, value in of_layers)
        agent, batch = f"agent={config.agent.name}", f"batch_size={config.batch_size}"
        spaces = obs, num_actions(env)
        scalar = _without_memory(config.network, *spaces, make_scalar_head, sizes)
        network = _without_memory(config.network, *spaces, config.agent.head, agent)
        takes[sizes] = 4 * VECTORS * _num_params(scalar)
        if config.agent.name != "dqn":
            takes[agent] = 4 * VECTORS * (_num_params(network) - _num_params(scalar))
        units = math.prod(obs.shape) + _num_units(network, obs)
        takes[batch] = 4 * COPIES * units * config.batch_size
    takes[f"buffer.capacity={config.buffer.capacity}"] = buffer_bytes(config, obs, num_actions(env))
    return takes


def num_params(config: Config, env: Env) -> int:
    """How many parameters a network of ours has; 0 for one of the user's own."""
    if not isinstance(config.network, TorsoSpec):
        return 0
    obs = obs_spec_of(config.env, env)
    return _num_params(
        _without_memory(config.network, obs, num_actions(env), config.agent.head, "network")
    )


def layout(config: Config, num_actions: int) -> Layout:
    """What is stored of a transition."""
    masked = num_actions if config.env.action_masks else 0
    return Layout(next_action=config.agent.td_target == "sarsa", masked_actions=masked)


def buffer_bytes(config: Config, obs: ObsSpec, num_actions: int) -> int:
    """The bytes that a full replay buffer of such observations takes.

    Raises ConfigError if they cannot be kept as `config` says.
    """
    buffer, stored = config.buffer, layout(config, num_actions)
    in_phases = config.phase.episodes is not None
    if choose_storage(buffer.storage, obs, in_phases=in_phases) == "rows":
        return row_bytes(obs, stored) * buffer.capacity + buffer.sampler_bytes
    frames = frame_storage_bytes(buffer.capacity, obs, config.num_envs, config.agent.n_step, stored)
    return frames + buffer.sampler_bytes


def _without_memory(
    spec: TorsoSpec, obs: ObsSpec, num_actions: int, make_head: HeadMaker, setting: str
) -> QNetwork:
    """The network with shapes alone; raises ConfigError if no machine could hold it."""
    # Other initial weights would import what takes a second.
    spec = spec.model_copy(update={"init": TorchInit()})
    try:
        with torch.device("meta"):
            return make_network(spec, obs, num_actions, make_head)
    except (RuntimeError, TypeError, ValueError) as error:  # a size is over 2^63 bytes
        raise ConfigError(f"{setting}: takes more memory than any machine has") from error


def _num_params(network: QNetwork) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _num_units(network: QNetwork, obs: ObsSpec) -> int:
    """The outputs of all convolutions and linear layers for one observation."""
    counts: list[int] = []
    for layer in network.torso.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(lambda *call: counts.append(call[-1].numel()))
    network.torso(torch.empty((1, *obs.shape), device="meta"))
    head = (layer for layer in network.head.modules() if isinstance(layer, LINEAR))
    return sum(counts) + network.head.num_passes * sum(layer.weight.shape[0] for layer in head)
