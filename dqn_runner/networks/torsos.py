"""Torsos: from observations [B, *obs_shape] to features [B, F], which go into a head."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from dqn_runner.networks.init import InitSpec, TorchInit
from dqn_runner.networks.numpy_mlp import ArrayFunction, Arrays, in_turn
from dqn_runner.spec import PositiveFloat, PositiveInt, Spec
from dqn_runner.types import Array, ObsSpec

Activation = Literal["relu", "leaky_relu", "elu", "silu", "tanh", "sigmoid"]
Norm = Literal["none", "layer_norm"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


_BYTE = np.float32(255)  # the largest one


class Torso(nn.Module):
    """Layers from observations [B, *obs_shape] to features [B, num_features]."""

    num_features: int

    def on_numpy(self, arrays: Arrays) -> ArrayFunction | None:
        """The layers on NumPy arrays; None for those that only torch has."""
        return None


def scaled(obs: Tensor) -> Tensor:
    """`obs` as floating-point numbers: bytes divided by 255, truth values as 0 or 1."""
    if obs.is_floating_point():
        return obs
    return obs.float() / 255 if obs.dtype == torch.uint8 else obs.float()


class AsObserved(Torso):
    """Observations in the environment's type: stored frames of bool come as float32."""

    def __init__(self, obs: ObsSpec) -> None:
        super().__init__()
        self.num_features = math.prod(obs.shape)
        self._dtype: torch.dtype = getattr(torch, obs.dtype.name)

    def forward(self, obs: Tensor) -> Tensor:
        """`obs` [B, *obs_shape]."""
        return obs.to(self._dtype)


class TorsoSpec(Spec, ABC):
    """The settings of a network of ours: a torso, then one stream of layers, or two if it duels."""

    # With defaults: the config.yaml of older runs has none of these.
    init: InitSpec = TorchInit()
    """How weights are drawn, with null for what name does not use; biases are as in torch."""
    dueling: bool = False
    """Two streams after the shared layers: the value of a state, and the advantages of actions."""
    noisy: PositiveFloat | None = None
    """Initial noise σ₀ in the last hidden layer and in the outputs; null for no noise."""

    @property
    @abstractmethod
    def sizes(self) -> dict[str, Any]:
        """The settings that say how many units its layers have."""

    @abstractmethod
    def torso(self, obs: ObsSpec) -> Torso:
        """The layers that all outputs share; raises ConfigError if they cannot take `obs`."""

    @abstractmethod
    def hidden(self, num_features: int) -> list[nn.Module]:
        """The last hidden layer, which each stream has for itself; a `nn.Linear` comes first."""


class MLPSpec(TorsoSpec):
    """Fully connected layers with an activation between them."""

    name: Literal["mlp"] = "mlp"
    """The kind of network."""
    hidden_sizes: Annotated[list[PositiveInt], Field(min_length=1)]
    """Units of each hidden layer."""
    activation: Activation
    """Function after each hidden layer."""
    norm: Norm = "none"  # older runs lack it
    """Normalization before each activation."""

    @property
    def sizes(self) -> dict[str, Any]:
        """The units of the hidden layers."""
        return {"hidden_sizes": self.hidden_sizes}

    def torso(self, obs: ObsSpec) -> MLP:
        """All hidden layers but the last."""
        return MLP(obs, self)

    def hidden(self, num_features: int) -> list[nn.Module]:
        """The last hidden layer."""
        return self.block(num_features, self.hidden_sizes[-1])

    def block(self, width_in: int, width_out: int) -> list[nn.Module]:
        """A hidden layer, with its norm (Ba et al. 2016, section 3) and its activation."""
        norm = [nn.LayerNorm(width_out)] if self.norm == "layer_norm" else []
        return [nn.Linear(width_in, width_out), *norm, _ACTIVATIONS[self.activation]()]


class MLP(Torso):
    """Fully connected layers; observations are flattened first."""

    def __init__(self, obs: ObsSpec, spec: MLPSpec) -> None:
        super().__init__()
        widths = [math.prod(obs.shape), *spec.hidden_sizes[:-1]]
        blocks = [spec.block(*pair) for pair in pairwise(widths)]
        self.layers = nn.Sequential(*(layer for block in blocks for layer in block))
        self.num_features = widths[-1]

    def forward(self, obs: Tensor) -> Tensor:
        """Features [B, F] of `obs` [B, *obs_shape]."""
        features: Tensor = self.layers(scaled(obs).flatten(1))
        return features

    def on_numpy(self, arrays: Arrays) -> ArrayFunction:
        """The layers on NumPy arrays."""
        layers = in_turn(self.layers, arrays)

        def features(obs: Array) -> Array:
            x = obs.reshape(len(obs), -1).astype(np.float32, copy=False)
            return layers(x / _BYTE if obs.dtype == np.uint8 else x)  # as `scaled`

        return features
