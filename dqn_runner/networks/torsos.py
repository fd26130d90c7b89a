"""Torsos: from observations [B, *obs_shape] to features [B, F], which go into a head."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from dqn_runner.networks.init import InitSpec, TorchInit
from dqn_runner.networks.numpy_mlp import numpy_mlp
from dqn_runner.spec import PositiveInt, Spec
from dqn_runner.types import Array, QFunction

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


class Torso(nn.Module):
    """Layers from observations [B, *obs_shape] to features [B, num_features]."""

    num_features: int


class TorsoSpec(Spec, ABC):
    """The settings of a network of ours; `init` is for the head's weights too."""

    # With a default: the config.yaml of older runs lacks it.
    init: InitSpec = TorchInit()

    @abstractmethod
    def torso(self, obs_shape: tuple[int, ...]) -> Torso:
        """The layers below the head."""

    @property
    def on_numpy(self) -> Callable[[list[Array]], QFunction] | None:
        """The whole network on NumPy arrays, given the parameters of each layer; None: by torch."""
        return None


class MLPSpec(TorsoSpec):
    """Fully connected layers with an activation between them."""

    name: Literal["mlp"] = "mlp"
    hidden_sizes: Annotated[list[PositiveInt], Field(min_length=1)]
    activation: Activation
    norm: Norm = "none"  # older runs lack it

    def torso(self, obs_shape: tuple[int, ...]) -> MLP:
        """The layers below the head."""
        return MLP(obs_shape, self)

    @property
    def on_numpy(self) -> Callable[[list[Array]], QFunction]:
        """The whole network on NumPy arrays."""
        layer_norm = self.norm == "layer_norm"
        return functools.partial(numpy_mlp, activation=self.activation, layer_norm=layer_norm)


class MLP(Torso):
    """Fully connected layers; observations are flattened first.

    With `norm="layer_norm"` each layer is normalized before its activation (Ba et al. 2016,
    section 3).
    """

    def __init__(self, obs_shape: tuple[int, ...], spec: MLPSpec) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise([math.prod(obs_shape), *spec.hidden_sizes]):
            layers.append(nn.Linear(width_in, width_out))
            if spec.norm == "layer_norm":
                layers.append(nn.LayerNorm(width_out))
            layers.append(_ACTIVATIONS[spec.activation]())
        self.layers = nn.Sequential(*layers)
        self.num_features = spec.hidden_sizes[-1]

    def forward(self, obs: Tensor) -> Tensor:
        """Features [B, F] of `obs` [B, *obs_shape]."""
        first = self.layers[0]
        features: Tensor = self.layers(obs.flatten(1).to(first.weight.dtype))  # type: ignore[arg-type]
        return features
