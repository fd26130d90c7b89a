"""Q-networks: observation [B, *obs_shape] to action values [B, A]."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import BeforeValidator, Field, FiniteFloat, model_validator
from torch import Tensor, nn
from torch.func import functional_call

from dqn_runner.errors import RunFailedError, failing_as
from dqn_runner.types import Array, PositiveFloat, PositiveInt, Spec, only_what_is_set

QFunction = Callable[[Array], Array]  # obs [N, *obs_shape] -> action values [N, A]
Activation = Literal["relu", "leaky_relu", "elu", "silu", "tanh", "sigmoid"]
Norm = Literal["none", "layer_norm"]


def _sigmoid(x: Array) -> Array:
    # By tanh, which unlike exp cannot overflow.
    result: Array = np.float32(0.5) * (1 + np.tanh(x * np.float32(0.5)))
    return result


def _layer_norm(x: Array, scale: Array, shift: Array) -> Array:
    # As torch.nn.LayerNorm, with its default eps.
    x = x - np.add.reduce(x, axis=1, keepdims=True) / x.shape[1]
    variance = np.einsum("ij,ij->i", x, x)[:, None] / x.shape[1]
    x *= scale / np.sqrt(variance + np.float32(1e-5))
    x += shift
    return x


_ZERO = np.zeros((), np.float32)  # which a ufunc need not convert, as it must a Python number

# Each activation as a module, and as what it is on a NumPy array.
_ACTIVATIONS: dict[str, tuple[type[nn.Module], Callable[[Array], Array]]] = {
    "relu": (nn.ReLU, lambda x: np.maximum(x, _ZERO, out=x)),
    "leaky_relu": (nn.LeakyReLU, lambda x: np.where(x > 0, x, x * np.float32(0.01))),
    "elu": (nn.ELU, lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0)))),
    "silu": (nn.SiLU, lambda x: x * _sigmoid(x)),
    "tanh": (nn.Tanh, lambda x: np.tanh(x, out=x)),
    "sigmoid": (nn.Sigmoid, _sigmoid),
}


class TorchInit(Spec):
    """Weights as torch.nn.Linear draws them."""

    name: Literal["torch"] = "torch"

    def fill(self, weight: Tensor) -> None:
        """Leave `weight` as it is."""


class UniformInit(Spec):
    """Weights uniform in [low, high)."""

    name: Literal["uniform"]
    low: FiniteFloat
    high: FiniteFloat

    @model_validator(mode="after")
    def _is_an_interval(self) -> UniformInit:
        if self.low >= self.high:
            raise ValueError(f"low={self.low}: must be less than high={self.high}")
        return self

    def fill(self, weight: Tensor) -> None:
        nn.init.uniform_(weight, self.low, self.high)


class NormalInit(Spec):
    """Weights normal with mean 0 and standard deviation `std`."""

    name: Literal["normal"]
    std: PositiveFloat

    def fill(self, weight: Tensor) -> None:
        nn.init.normal_(weight, std=self.std)


class ScaledInit(Spec):
    """Orthogonal weights (Saxe et al. 2014), or those of Glorot and Bengio 2010, times `gain`."""

    name: Literal["orthogonal", "xavier_uniform", "xavier_normal"]
    gain: PositiveFloat = 1.0

    def fill(self, weight: Tensor) -> None:
        getattr(nn.init, f"{self.name}_")(weight, gain=self.gain)


class KaimingInit(Spec):
    """Weights for layers that ReLU follows (He et al. 2015, eq. 10)."""

    name: Literal["kaiming_uniform", "kaiming_normal"]

    def fill(self, weight: Tensor) -> None:
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
    BeforeValidator(only_what_is_set(_INITS)),
    BeforeValidator(lambda settings: {"name": "torch"} if settings is None else settings),
]


class MLPSpec(Spec):
    """Fully connected layers with an activation between them."""

    name: Literal["mlp"] = "mlp"
    hidden_sizes: Annotated[list[PositiveInt], Field(min_length=1)]
    activation: Activation
    # With defaults, for the config.yaml of older runs has neither.
    norm: Norm = "none"
    init: InitSpec = TorchInit()


class MLP(nn.Module):
    """Fully connected Q-network; observations are flattened.

    With `norm="layer_norm"` each hidden layer is normalized before its activation (Ba et al. 2016,
    section 3).

    A network of the user's own takes `obs_shape` and `num_actions` in the same way and returns
    [B, A] from `forward`.
    """

    def __init__(
        self,
        obs_shape: tuple[int, ...],
        num_actions: int,
        hidden_sizes: list[int],
        activation: Activation,
        init: Init | None = None,
        *,
        norm: Norm = "none",
    ) -> None:
        super().__init__()
        module, self._numpy_activation = _ACTIVATIONS[activation]
        self._norm = norm
        widths = [int(np.prod(obs_shape)), *hidden_sizes]
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise(widths):
            layers.append(nn.Linear(width_in, width_out))
            if norm == "layer_norm":
                layers.append(nn.LayerNorm(width_out))
            layers.append(module())
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], num_actions))
        for layer in self.layers:
            if init is not None and isinstance(layer, nn.Linear):
                init.fill(layer.weight)

    def forward(self, obs: Tensor) -> Tensor:
        q_values: Tensor = self.layers(obs.flatten(1).to(self.layers[0].weight.dtype))  # type: ignore[arg-type]
        return q_values

    def numpy_forward(self, parameters: list[Array]) -> QFunction:
        """The same function on NumPy arrays, for acting on a CPU.

        `parameters` are the weights and biases in order, read anew at each call: as views of the
        learner's memory they follow its updates. For one observation this takes a quarter of the
        time of a call into torch.
        """
        *of_hidden, last_weight, last_bias = parameters
        last_weight = last_weight.T
        layers = [array.T for array in of_hidden]  # a bias is its own transpose
        hidden = list(zip(layers[0::2], layers[1::2], strict=True))
        norms: list[tuple[Array, Array] | None] = [None] * len(hidden)
        if self._norm == "layer_norm":  # each Linear is followed by its LayerNorm
            hidden, norms = hidden[0::2], list(hidden[1::2])
        blocks = [(*layer, norm) for layer, norm in zip(hidden, norms, strict=True)]
        activation = self._numpy_activation

        def q_values(obs: Array) -> Array:
            x = obs.reshape(len(obs), -1).astype(last_weight.dtype, copy=False)
            for weight, bias, norm in blocks:
                x = x.dot(weight)  # in half the time of `@`
                x += bias
                if norm is not None:
                    x = _layer_norm(x, *norm)
                x = activation(x)
            result: Array = x.dot(last_weight) + last_bias
            return result

        return q_values


def initialise(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a network whose random initialisation depends on `seed` alone.

    Torch initialises layers from its global generator; this leaves that as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


class FlatNetwork:
    """A network as a pure function of one flat parameter vector [P].

    One vector makes the optimiser, the clipping, the target update and the checkpoint work on a
    single tensor.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module.requires_grad_(False)
        self._what = f"the network {type(module).__name__} failed"
        named = list(module.named_parameters())
        self._names = [name for name, _ in named]
        self._shapes = [parameter.shape for _, parameter in named]
        self._sizes = [parameter.numel() for _, parameter in named]
        self.initial_params = torch.cat([parameter.flatten() for _, parameter in named])

    def __call__(self, params: Tensor, obs: Tensor) -> Tensor:
        """Action values [B, A] of `obs` [B, *obs_shape] under `params` [P].

        Raises RunFailedError for whatever the module raises, which may be the user's own.
        """
        views = dict(zip(self._names, self._split(params), strict=True))
        with failing_as(RunFailedError, self._what):
            q_values: Tensor = functional_call(self._module, views, (obs,))
        return q_values

    def _split(self, params: Tensor) -> list[Tensor]:
        pieces = torch.split(params, self._sizes)
        return [piece.view(shape) for piece, shape in zip(pieces, self._shapes, strict=True)]

    def on_arrays(self, params: Tensor) -> QFunction:
        """The network on NumPy observations, following `params` as they change in place."""
        if params.device.type == "cpu" and type(self._module) is MLP:
            return self._module.numpy_forward([piece.numpy() for piece in self._split(params)])

        @torch.no_grad()
        def q_values(obs: Array) -> Array:
            result: Array = self(params, torch.from_numpy(obs).to(params.device)).cpu().numpy()
            return result

        return q_values
