"""The MLP against explicit matrix products, in torch and on NumPy arrays."""

import numpy as np
import pytest
import torch
from building import mlp
from torch import nn

from dqn_runner.networks.init import initialize

ACTIVATIONS = {
    "relu": lambda x: x * (x > 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "elu": lambda x: np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": lambda x: (np.exp(2 * x) - 1) / (np.exp(2 * x) + 1),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


def net(activation="relu", obs_shape=(4,), hidden_sizes=(16, 8), seed=0, norm="none"):
    return initialize(lambda: mlp(obs_shape, 3, hidden_sizes, activation, norm=norm), seed)


def some_obs(shape, count=32, seed=0):
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden_sizes", [(5,), (16, 8), (7, 6, 5)])
def test_mlp_equals_its_matrix_products(activation, hidden_sizes):
    """In double precision from the definition; no activation after the last layer."""
    module, obs = net(activation, hidden_sizes=hidden_sizes), some_obs((4,))
    parameters = [p.detach().numpy().astype(np.float64) for p in module.parameters()]
    assert len(parameters) == 2 * (len(hidden_sizes) + 1)
    x = obs.astype(np.float64)
    for weight, bias in zip(parameters[0:-2:2], parameters[1:-2:2], strict=True):
        x = ACTIVATIONS[activation](x @ weight.T + bias)
    expected = x @ parameters[-2].T + parameters[-1]
    actual = module(torch.from_numpy(obs)).q_values.detach().numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


def test_layer_norm_stands_between_each_hidden_layer_and_its_activation():
    """In double precision from the definition, with scales and shifts that are not 1 and 0."""
    module, obs = net("elu", hidden_sizes=(16, 8), norm="layer_norm"), some_obs((4,))
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    parameters = [p.detach().numpy().astype(np.float64) for p in module.parameters()]
    assert [p.shape for p in parameters] == [
        (16, 4), (16,), (16,), (16,), (8, 16), (8,), (8,), (8,), (3, 8), (3,),
    ]  # fmt: skip
    x = obs.astype(np.float64)
    for weight, bias, scale, shift in (parameters[0:4], parameters[4:8]):
        x = x @ weight.T + bias
        mean, deviation = x.mean(axis=1, keepdims=True), x.std(axis=1, keepdims=True)
        x = ACTIVATIONS["elu"]((x - mean) / np.sqrt(deviation**2 + 1e-5) * scale + shift)
    expected = x @ parameters[-2].T + parameters[-1]
    actual = module(torch.from_numpy(obs)).q_values.detach().numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_mlp_flattens_images_and_takes_bytes_and_truth_values():
    module = net(obs_shape=(2, 3, 5))
    pixels = np.random.default_rng(0).integers(256, size=(6, 2, 3, 5), dtype=np.uint8)
    first, second, last = (layer for layer in module.modules() if isinstance(layer, nn.Linear))
    for obs, largest in ((pixels, 255), (pixels > 99, 1)):
        x = torch.from_numpy(obs.reshape(6, 30).astype(np.float32) / np.float32(largest))
        expected = last(torch.relu(second(torch.relu(first(x)))))
        assert torch.equal(module(torch.from_numpy(obs)).q_values, expected)
