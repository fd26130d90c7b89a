"""The memory that a run needs, before anything is made."""

from __future__ import annotations

import math

import psutil
import torch
from rich.filesize import decimal
from torch import nn

from dqn_runner.buffers.rows import row_bytes
from dqn_runner.config.root import Config
from dqn_runner.envs.encoding import Env, num_actions
from dqn_runner.envs.make import obs_spec_of
from dqn_runner.errors import ConfigError
from dqn_runner.networks.heads import HeadMaker, QNetwork, make_network, make_scalar_head
from dqn_runner.networks.init import TorchInit
from dqn_runner.networks.noisy import NoisyLinear
from dqn_runner.networks.torsos import MLPSpec

# What an update of an MLP holds at its peak, measured and rounded down, in numbers of 4 bytes:
# vectors as long as the parameters, and for each row of a batch, numbers for each unit.
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
    obs, sarsa = obs_spec_of(config.env, env), config.agent.td_target == "sarsa"
    takes = {}
    if isinstance(config.network, MLPSpec):
        sizes = f"network.hidden_sizes={config.network.hidden_sizes}"
        agent, batch = f"agent={config.agent.name}", f"batch_size={config.batch_size}"
        spaces = obs.shape, num_actions(env)
        scalar = _without_memory(config.network, *spaces, make_scalar_head, sizes)
        network = _without_memory(config.network, *spaces, config.agent.head, agent)
        takes[sizes] = 4 * VECTORS * _num_params(scalar)
        if config.agent.name != "dqn":
            takes[agent] = 4 * VECTORS * (_num_params(network) - _num_params(scalar))
        units = math.prod(obs.shape) + _num_units(network)
        takes[batch] = 4 * COPIES * units * config.batch_size
    takes[f"buffer.capacity={config.buffer.capacity}"] = (
        row_bytes(obs, sarsa) * config.buffer.capacity + config.buffer.sampler_bytes
    )
    return takes


def _without_memory(
    spec: MLPSpec, obs_shape: tuple[int, ...], num_actions: int, make_head: HeadMaker, setting: str
) -> QNetwork:
    """The network with shapes alone; raises ConfigError if no machine could hold it."""
    # Other initial weights would import what takes a second.
    spec = spec.model_copy(update={"init": TorchInit()})
    try:
        with torch.device("meta"):
            return make_network(spec, obs_shape, num_actions, make_head)
    except (RuntimeError, TypeError, ValueError) as error:  # a size is over 2^63 bytes
        raise ConfigError(f"{setting}: takes more memory than any machine has") from error


def _num_params(network: QNetwork) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _num_units(network: QNetwork) -> int:
    """The outputs of all linear layers for one observation."""
    torso, head = (
        sum(layer.weight.shape[0] for layer in part.modules() if isinstance(layer, LINEAR))
        for part in (network.torso, network.head)
    )
    return torso + network.head.num_passes * head
