"""The layers of fully connected networks on NumPy arrays, for acting on a CPU.

For one observation they take a small part of the time of calls into torch. Modules put them
together, as their `forward` does in torch. Arrays are read again at each call: views of the
learner's memory follow its updates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from torch import Tensor, nn

from dqn_runner.types import Array

Arrays = Mapping[Tensor, Array]  # a module's own parameters and buffers -> what stands for them
ArrayFunction = Callable[[Array], Array]  # [N, ...] -> [N, ...]

_ZERO = np.zeros((), np.float32)  # a ufunc need not convert it, as it must a Python number


def _sigmoid(x: Array) -> Array:
    # By tanh, which cannot overflow as exp can.
    result: Array = np.float32(0.5) * (1 + np.tanh(x * np.float32(0.5)))
    return result


# Some work in place: `x` is always an array that nobody else holds.
_ACTIVATIONS: dict[type[nn.Module], ArrayFunction] = {
    nn.ReLU: lambda x: np.maximum(x, _ZERO, out=x),
    nn.LeakyReLU: lambda x: np.where(x > 0, x, x * np.float32(0.01)),
    nn.ELU: lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    nn.SiLU: lambda x: x * _sigmoid(x),
    nn.Tanh: lambda x: np.tanh(x, out=x),
    nn.Sigmoid: _sigmoid,
}


def relu(x: Array) -> Array:
    """The larger of 0 and `x`, in place of `x`."""
    return _ACTIVATIONS[nn.ReLU](x)


def linear(layer: nn.Module, arrays: Arrays) -> ArrayFunction:
    """The outputs [N, num_out] of a linear layer, noisy or not, for its inputs [N, num_in]."""
    assert isinstance(layer.weight, Tensor)
    assert isinstance(layer.bias, Tensor)
    weight, bias = arrays[layer.weight].T, arrays[layer.bias]

    def outputs(x: Array) -> Array:
        x = x.dot(weight)  # in half the time of `@`
        x += bias
        return x

    return outputs


def _layer_norm(layer: nn.LayerNorm, arrays: Arrays) -> ArrayFunction:
    scale, shift = arrays[layer.weight], arrays[layer.bias]
    eps = np.float32(layer.eps)

    def normalized(x: Array) -> Array:
        x = x - np.add.reduce(x, axis=1, keepdims=True) / x.shape[1]
        variance = np.einsum("ij,ij->i", x, x)[:, None] / x.shape[1]
        x *= scale / np.sqrt(variance + eps)
        x += shift
        return x

    return normalized


def in_turn(layers: Iterable[nn.Module], arrays: Arrays) -> ArrayFunction:
    """Linear layers, layer norms and activations, one after the other."""
    functions = [_function(layer, arrays) for layer in layers]

    def outputs(x: Array) -> Array:
        for function in functions:
            x = function(x)
        return x

    return outputs


def _function(layer: nn.Module, arrays: Arrays) -> ArrayFunction:
    if isinstance(layer, nn.Linear):
        return linear(layer, arrays)
    if isinstance(layer, nn.LayerNorm):
        return _layer_norm(layer, arrays)
    return _ACTIVATIONS[type(layer)]
