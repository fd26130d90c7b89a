"""The fully connected network on NumPy arrays, for acting on a CPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dqn_runner.types import Array

QFunction = Callable[[Array], Array]  # obs [N, *obs_shape] -> action values [N, A]


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
