"""The network that a configuration describes: one of ours, or one of the user's own."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from dqn_runner.config.root import Config
from dqn_runner.custom import Custom
from dqn_runner.envs.encoding import Env, num_actions
from dqn_runner.envs.make import obs_spec_of
from dqn_runner.errors import ConfigError
from dqn_runner.networks.cnn import image_of
from dqn_runner.networks.flat import FlatNetwork, check_pure
from dqn_runner.networks.heads import HeadMaker, QNetwork, make_network
from dqn_runner.networks.init import initialize
from dqn_runner.networks.streams import CustomStreams
from dqn_runner.networks.torsos import AsObserved, MLPSpec, TorsoSpec
from dqn_runner.types import ObsSpec

# The networks to use for images that are at least so high and wide; nature_cnn takes no smaller.
TORSOS_BY_SIZE = ((36, "nature_cnn"), (3, "minatar_cnn"))


def build_network(config: Config, env: Env, seed: int, device: torch.device) -> FlatNetwork:
    """The Q-network for the spaces of `env`, initialized from `seed`.

    Raises ConfigError for observations that the network cannot take, and for a network of the
    user's own that an update cannot use.
    """
    spec, obs_spec = config.network, obs_spec_of(config.env, env)
    make_head, actions = config.agent.head, num_actions(env)
    if not isinstance(spec, Custom):
        module = initialize(lambda: make_network(spec, obs_spec, actions, make_head), seed)
        return FlatNetwork(module.to(device))
    module = initialize(lambda: custom_network(spec, obs_spec, actions, make_head), seed)
    obs = torch.from_numpy(np.zeros((2, *obs_spec.shape), obs_spec.dtype))
    check_custom(module, obs, f"network.name={spec.name}")
    return FlatNetwork(module.to(device))


def unsuited(spec: TorsoSpec | Custom, obs: ObsSpec) -> Iterator[str]:
    """A line if the network is made for other observations than `obs`."""
    image = image_of(obs)
    of_pixels = obs.dtype != np.float32 or len(obs.frame_shape) == 3
    if not isinstance(spec, MLPSpec) or image is None or not of_pixels:
        return
    size = min(image.height, image.width)
    better = next((name for least, name in TORSOS_BY_SIZE if size >= least), None)
    if better is not None:
        yield (
            f"network=mlp: flattens images of {image.height}x{image.width}; network={better} looks "
            "at neighboring pixels together, and learns more from them"
        )


def check_custom(network: QNetwork, obs: Tensor, where: str) -> None:
    """Raise ConfigError, which begins with `where`, for a network that an update cannot use."""
    outputs = check_pure(network.users_own, obs, where)
    num_actions = math.prod(network.head.streams.shape)
    shape = list(outputs.shape) if isinstance(outputs, Tensor) else None
    if shape != [len(obs), num_actions]:
        what = type(outputs).__name__ if shape is None else f"outputs of shape {shape}"
        raise ConfigError(
            f"{where}: gives {what} for {len(obs)} observations; with num_actions={num_actions} "
            f"they have {[len(obs), num_actions]}"
        )


def custom_network(spec: Custom, obs: ObsSpec, num_actions: int, make_head: HeadMaker) -> QNetwork:
    """A network of the user's own under the agent's head.

    Its module is built for K times the actions, the K outputs of each of them side by side.
    Raises ConfigError if it cannot be built.
    """

    def make_streams(num_outputs: int) -> CustomStreams:
        module = custom_module(spec, obs.shape, num_actions * num_outputs)
        return CustomStreams(module, num_actions, num_outputs)

    torso = AsObserved(obs)
    return QNetwork(torso, make_head(make_streams, torso.num_features))


def custom_module(spec: Custom, obs_shape: tuple[int, ...], num_actions: int) -> nn.Module:
    """The network of the user's own; raises ConfigError if it is no torch.nn.Module."""
    build_module = spec.load("network.name", "obs_shape", "num_actions")
    module = build_module(obs_shape=obs_shape, num_actions=num_actions)
    if not isinstance(module, nn.Module):
        kind = type(module).__name__
        raise ConfigError(f"network.name={spec.name}: gives {kind}, no torch.nn.Module")
    return module
