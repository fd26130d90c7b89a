"""The memory that a run needs, before anything is made."""

from __future__ import annotations

import math
from itertools import pairwise

import psutil
import torch
from rich.filesize import decimal

from dqn_runner.buffers.rows import row_bytes
from dqn_runner.config.root import Config
from dqn_runner.envs.encoding import Env, ObsEncoder, num_actions
from dqn_runner.errors import ConfigError
from dqn_runner.networks.torsos import MLPSpec

# What an update of an MLP holds at its peak, measured and rounded down, in numbers of 4 bytes:
# vectors as long as the parameters, and for each row of a batch, numbers for each unit.
VECTORS = 10
COPIES = 2


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
    obs, sarsa = ObsEncoder(env.observation_space).spec, config.agent.td_target == "sarsa"
    takes = {}
    if isinstance(config.network, MLPSpec):
        widths = [math.prod(obs.shape), *config.network.hidden_sizes, num_actions(env)]
        num_params = sum((width + 1) * next_width for width, next_width in pairwise(widths))
        if config.network.norm == "layer_norm":
            num_params += 2 * sum(config.network.hidden_sizes)
        sizes = f"network.hidden_sizes={config.network.hidden_sizes}"
        takes[sizes] = 4 * VECTORS * num_params
        takes[f"batch_size={config.batch_size}"] = 4 * COPIES * sum(widths) * config.batch_size
    takes[f"buffer.capacity={config.buffer.capacity}"] = (
        row_bytes(obs, sarsa) * config.buffer.capacity + config.buffer.sampler_bytes
    )
    return takes
