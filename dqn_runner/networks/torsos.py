"""Q-networks: observation [B, *obs_shape] to action values [B, A]."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from torch import Tensor, nn

from dqn_runner.networks.init import Init, InitSpec, TorchInit
from dqn_runner.networks.numpy_mlp import _ZERO, QFunction, _layer_norm, _sigmoid
from dqn_runner.spec import PositiveInt, Spec
from dqn_runner.types import Array

Activation = Literal["relu", "leaky_relu", "elu", "silu", "tanh", "sigmoid"]
Norm = Literal["none", "layer_norm"]


# Each activation as a module, and as what it is on a NumPy array.
_ACTIVATIONS: dict[str, tuple[type[nn.Module], Callable[[Array], Array]]] = {
    "relu": (nn.ReLU, lambda x: np.maximum(x, _ZERO, out=x)),
    "leaky_relu": (nn.LeakyReLU, lambda x: np.where(x > 0, x, x * np.float32(0.01))),
    "elu": (nn.ELU, lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0)))),
    "silu": (nn.SiLU, lambda x: x * _sigmoid(x)),
    "tanh": (nn.Tanh, lambda x: np.tanh(x, out=x)),
    "sigmoid": (nn.Sigmoid, _sigmoid),
}


class MLPSpec(Spec):
    """Fully connected layers with an activation between them."""

    name: Literal["mlp"] = "mlp"
    """The kind of network."""
    hidden_sizes: Annotated[list[PositiveInt], Field(min_length=1)]
    """Units of each hidden layer."""
    activation: Activation
    """Function after each hidden layer."""
    # With defaults, for the config.yaml of older runs has neither.
    norm: Norm = "none"
    """Normalization before each activation."""
    init: InitSpec = TorchInit()
    """How weights are drawn, with null for what name does not use; biases are as in torch."""


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
