"""Noisy layers: exploration by noise on the weights (Fortunato et al. 2018)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dqn_runner.networks.numpy_mlp import ArrayFunction, Arrays, linear
from dqn_runner.types import Array


class NoisyLinear(nn.Module):
    """A linear layer with factorized Gaussian noise on its weights (section 3, case b).

    The noise of weight (i, j) is σ_ij·f(ε_i)·f(ε_j) with f(x) = sign(x)·√|x|, so that `num_in` +
    `num_out` normal numbers make the noise of all weights. The means are those of `linear`: torch
    draws them as the paper does (section 3.2).
    """

    def __init__(self, linear: nn.Linear, sigma_0: float) -> None:
        super().__init__()
        self.num_in, self.num_out = linear.in_features, linear.out_features
        self.num_normals = self.num_in + self.num_out
        self.weight, self.bias = linear.weight, linear.bias
        sigma = sigma_0 / math.sqrt(self.num_in)
        self.weight_sigma = nn.Parameter(linear.weight.new_full(linear.weight.shape, sigma))
        self.bias_sigma = nn.Parameter(linear.bias.new_full(linear.bias.shape, sigma))

    def forward(self, x: Tensor, normals: Tensor | None = None) -> Tensor:
        """The outputs [..., num_out] of `x` [..., num_in], with noise made of `normals`.

        Without `normals` [num_normals] they are those of the mean weights.
        """
        if normals is None:
            return functional.linear(x, self.weight, self.bias)
        scaled = normals.sign() * normals.abs().sqrt()
        noise_in, noise_out = torch.split(scaled, [self.num_in, self.num_out])
        weight = self.weight + self.weight_sigma * (noise_out.unsqueeze(1) * noise_in)
        return functional.linear(x, weight, self.bias + self.bias_sigma * noise_out)

    def on_numpy(self, arrays: Arrays, factors: Array | None = None) -> ArrayFunction:
        """The layer on NumPy arrays, with noise made of `factors` [num_normals] as they are then.

        These are what `noise_factors` made of normal numbers.
        """
        outputs = linear(self, arrays)
        if factors is None:
            return outputs
        noise_in, noise_out = factors[: self.num_in], factors[self.num_in :]
        weight_sigma, bias_sigma = arrays[self.weight_sigma].T, arrays[self.bias_sigma]

        def noisy_outputs(x: Array) -> Array:
            # Without the matrix of noise, which costs more than all else.
            noise: Array = (x * noise_in).dot(weight_sigma)
            noise += bias_sigma
            noise *= noise_out
            noise += outputs(x)
            return noise

        return noisy_outputs


def noise_factors(normals: Array) -> None:
    """Put f(x) = sign(x)·√|x| in place of each x of `normals`."""
    np.copysign(np.sqrt(np.abs(normals)), normals, out=normals)
