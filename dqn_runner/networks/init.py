"""How the weights of a network are drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, TypeVar

import torch
from pydantic import BeforeValidator, Field, FiniteFloat, model_validator
from torch import Tensor, nn

from dqn_runner.networks.noisy import NoisyLinear
from dqn_runner.spec import PositiveFloat, Spec, drop_nulls

Module = TypeVar("Module", bound=nn.Module)


class TorchInit(Spec):
    """Weights as torch's own layers draw them."""

    name: Literal["torch"] = "torch"
    """The distribution; torch is that of its own layers."""

    def fill(self, weight: Tensor) -> None:
        """Leave `weight` as it is."""


class UniformInit(Spec):
    """Weights uniform in [low, high)."""

    name: Literal["uniform"]
    """The distribution; torch is that of its own layers."""
    low: FiniteFloat
    """Lowest weight."""
    high: FiniteFloat
    """Upper limit of the weights."""

    @model_validator(mode="after")
    def _is_an_interval(self) -> UniformInit:
        if self.low >= self.high:
            raise ValueError(f"low={self.low}: must be less than high={self.high}")
        return self

    def fill(self, weight: Tensor) -> None:
        """Draw `weight` in place."""
        nn.init.uniform_(weight, self.low, self.high)


class NormalInit(Spec):
    """Weights normal with mean 0 and standard deviation `std`."""

    name: Literal["normal"]
    """The distribution; torch is that of its own layers."""
    std: PositiveFloat
    """Standard deviation of the weights."""

    def fill(self, weight: Tensor) -> None:
        """Draw `weight` in place."""
        nn.init.normal_(weight, std=self.std)


class ScaledInit(Spec):
    """Orthogonal weights (Saxe et al. 2014), or those of Glorot and Bengio 2010, times `gain`."""

    name: Literal["orthogonal", "xavier_uniform", "xavier_normal"]
    """The distribution; torch is that of its own layers."""
    gain: PositiveFloat = 1.0
    """Factor on the weights; null for 1."""

    def fill(self, weight: Tensor) -> None:
        """Draw `weight` in place."""
        getattr(nn.init, f"{self.name}_")(weight, gain=self.gain)


class KaimingInit(Spec):
    """Weights for layers that ReLU follows (He et al. 2015, eq. 10)."""

    name: Literal["kaiming_uniform", "kaiming_normal"]
    """The distribution; torch is that of its own layers."""

    def fill(self, weight: Tensor) -> None:
        """Draw `weight` in place."""
        getattr(nn.init, f"{self.name}_")(weight, nonlinearity="relu")


_INITS: dict[str, type[Spec]] = {
    "torch": TorchInit,
    "uniform": UniformInit,
    "normal": NormalInit,
    "orthogonal": ScaledInit,
    "xavier_uniform": ScaledInit,
    "xavier_normal": ScaledInit,
    "kaiming_uniform": KaimingInit,
    "kaiming_normal": KaimingInit,
}


Init = TorchInit | UniformInit | NormalInit | ScaledInit | KaimingInit


InitSpec = Annotated[
    Init,
    Field(discriminator="name"),
    BeforeValidator(drop_nulls(_INITS)),
    BeforeValidator(lambda settings: {"name": "torch"} if settings is None else settings),
]


def fill_weights(network: nn.Module, init: Init) -> None:
    """Draw the weights of the linear layers and convolutions of `network`, in order."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear | NoisyLinear | nn.Conv2d):
            init.fill(layer.weight)


def initialize(build: Callable[[], Module], seed: int) -> Module:
    """Build a network whose random initialization depends on `seed` alone.

    Torch initializes layers from its global generator; this leaves that as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
