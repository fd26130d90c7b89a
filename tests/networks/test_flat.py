"""Q-networks against explicit matrix products, and the flat form against the module."""

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from scipy import stats
from torch import nn

from dqn_runner.config.root import parse
from dqn_runner.errors import ConfigError
from dqn_runner.networks.flat import FlatNetwork
from dqn_runner.networks.init import InitSpec, TorchInit, initialize
from dqn_runner.networks.torsos import MLP

ACTIVATIONS = {
    "relu": lambda x: x * (x > 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "elu": lambda x: np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": lambda x: (np.exp(2 * x) - 1) / (np.exp(2 * x) + 1),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


class Convolutional(nn.Module):
    """A network of the user's own; divides pixels itself and has a skip connection."""

    def __init__(self, obs_shape, num_actions):
        super().__init__()
        channels, height, width = obs_shape
        self.conv = nn.Conv2d(channels, 4, 3)
        self.head = nn.Linear(4 * (height - 2) * (width - 2), num_actions)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, obs):
        hidden = torch.relu(self.conv(obs.float() / 255))
        return self.scale * self.head(hidden.flatten(1))


def mlp(activation="relu", obs_shape=(4,), hidden_sizes=(16, 8), seed=0, norm="none"):
    return initialize(lambda: MLP(obs_shape, 3, list(hidden_sizes), activation, norm=norm), seed)


def some_obs(shape, count=32, seed=0):
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden_sizes", [(5,), (16, 8), (7, 6, 5)])
def test_mlp_equals_its_matrix_products(activation, hidden_sizes):
    """In double precision from the definition; no activation after the last layer."""
    module, obs = mlp(activation, hidden_sizes=hidden_sizes), some_obs((4,))
    parameters = [p.detach().numpy().astype(np.float64) for p in module.parameters()]
    assert len(parameters) == 2 * (len(hidden_sizes) + 1)
    x = obs.astype(np.float64)
    for weight, bias in zip(parameters[0:-2:2], parameters[1:-2:2], strict=True):
        x = ACTIVATIONS[activation](x @ weight.T + bias)
    expected = x @ parameters[-2].T + parameters[-1]
    actual = module(torch.from_numpy(obs)).detach().numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


def test_layer_norm_stands_between_each_hidden_layer_and_its_activation():
    """In double precision from the definition, with scales and shifts that are not 1 and 0."""
    module, obs = mlp("elu", hidden_sizes=(16, 8), norm="layer_norm"), some_obs((4,))
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
    actual = module(torch.from_numpy(obs)).detach().numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_mlp_flattens_images_and_takes_bytes():
    module = mlp(obs_shape=(2, 3, 5))
    pixels = np.random.default_rng(0).integers(256, size=(6, 2, 3, 5), dtype=np.uint8)
    flat = torch.from_numpy(pixels.reshape(6, 30).astype(np.float32))
    assert torch.equal(module(torch.from_numpy(pixels)), module.layers(flat))


@pytest.mark.parametrize("obs_shape", [(4,), (2, 3, 5)])
def test_flat_network_equals_the_module(obs_shape):
    module, obs = mlp(obs_shape=obs_shape), torch.from_numpy(some_obs(obs_shape))
    network = FlatNetwork(module)
    assert network.initial_params.shape == (sum(p.numel() for p in module.parameters()),)
    assert torch.equal(network(network.initial_params, obs), module(obs))


def test_flat_network_of_other_parameters_equals_a_module_that_holds_them():
    network = FlatNetwork(Convolutional((3, 5, 6), 4))
    other = Convolutional((3, 5, 6), 4)
    flat = torch.cat([p.detach().flatten() for p in other.parameters()])
    pixels = torch.randint(256, (7, 3, 5, 6), dtype=torch.uint8)
    assert torch.equal(network(flat, pixels), other(pixels))
    assert not torch.equal(network(network.initial_params, pixels), other(pixels))


def test_gradient_of_the_flat_network_is_that_of_the_module():
    network, obs = FlatNetwork(mlp("tanh")), torch.from_numpy(some_obs((4,)))
    params = network.initial_params.clone().requires_grad_()
    (grad,) = torch.autograd.grad(network(params, obs).square().sum(), params)
    module = mlp("tanh")
    module(obs).square().sum().backward()
    expected = torch.cat([p.grad.flatten() for p in module.parameters()])
    assert torch.allclose(grad, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("obs_shape", [(4,), (2, 3, 5)])
@pytest.mark.parametrize("norm", ["none", "layer_norm"])
@pytest.mark.parametrize("count", [1, 32])
def test_acting_on_arrays_equals_torch(activation, obs_shape, norm, count):
    module, obs = mlp(activation, obs_shape, norm=norm), some_obs(obs_shape, count)
    network = FlatNetwork(module)
    with torch.no_grad():
        expected = module(torch.from_numpy(obs)).numpy()
    actual = network.on_arrays(network.initial_params)(obs)
    assert actual.dtype == expected.dtype
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_acting_on_arrays_stays_finite_where_torch_does(activation):
    """Large inputs on both sides of zero overflow a careless exponential."""
    network, obs = FlatNetwork(mlp(activation)), 1e4 * some_obs((4,))
    expected = network(network.initial_params, torch.from_numpy(obs)).numpy()
    with np.errstate(all="raise", under="ignore"):
        actual = network.on_arrays(network.initial_params)(obs)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_acting_on_arrays_takes_bytes_and_leaves_the_observation_alone():
    network = FlatNetwork(mlp(obs_shape=(2, 3)))
    pixels = np.random.default_rng(0).integers(256, size=(5, 2, 3), dtype=np.uint8)
    kept = pixels.copy()
    actual = network.on_arrays(network.initial_params)(pixels)
    expected = network(network.initial_params, torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-4)
    assert np.array_equal(pixels, kept)
    obs = some_obs((2, 3))
    kept = obs.copy()
    network.on_arrays(network.initial_params)(obs)
    assert np.array_equal(obs, kept)


NETWORKS = {
    "mlp": lambda: MLP((3, 5, 6), 4, [8], "relu"),
    "layer norm": lambda: MLP((3, 5, 6), 4, [8, 7], "relu", norm="layer_norm"),
    "custom": lambda: Convolutional((3, 5, 6), 4),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_acting_follows_parameters_that_change_in_place(name):
    network = FlatNetwork(initialize(NETWORKS[name], 1))
    params, obs = network.initial_params.clone(), some_obs((3, 5, 6))
    q_function = network.on_arrays(params)
    for step in range(3):
        expected = network(params, torch.from_numpy(obs)).numpy()
        np.testing.assert_allclose(q_function(obs), expected, rtol=1e-5, atol=1e-5)
        before = expected
        params.copy_(params * 1.5 + 0.01 * step)
        assert np.abs(q_function(obs) - before).max() > 1e-3


def test_a_network_derived_from_mlp_acts_as_its_own_forward_says():
    """The NumPy path knows MLP's forward pass, not that of classes derived from it."""

    class Scaled(MLP):
        def forward(self, obs):
            return 3.0 * super().forward(obs)

    network = FlatNetwork(initialize(lambda: Scaled((4,), 3, [8], "relu"), 0))
    obs = some_obs((4,))
    expected = network(network.initial_params, torch.from_numpy(obs)).numpy()
    actual = network.on_arrays(network.initial_params)(obs)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_initialisation_depends_on_the_seed_alone(name):
    def params(seed):
        return FlatNetwork(initialize(NETWORKS[name], seed)).initial_params

    torch.manual_seed(1)
    first = params(5)
    torch.manual_seed(2)
    assert torch.equal(params(5), first)
    assert not torch.equal(params(6), first)
    assert not torch.equal(params(0), first)
    assert torch.equal(params(0), params(0))


def test_initialisation_is_the_one_torch_gives_its_layers():
    torch.manual_seed(9)
    layers = nn.Sequential(
        nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)
    )
    for mine, theirs in zip(mlp(seed=9).parameters(), layers.parameters(), strict=True):
        assert torch.equal(mine, theirs)


INITS = {
    # settings, and what torch is asked to do with each weight
    "uniform": ({"low": -0.1, "high": 0.3}, lambda w: nn.init.uniform_(w, -0.1, 0.3)),
    "normal": ({"std": 0.2}, lambda w: nn.init.normal_(w, 0.0, 0.2)),
    "orthogonal": ({"gain": 1.5}, lambda w: nn.init.orthogonal_(w, 1.5)),
    "xavier_uniform": ({"gain": 0.5}, lambda w: nn.init.xavier_uniform_(w, 0.5)),
    "xavier_normal": ({}, lambda w: nn.init.xavier_normal_(w, 1.0)),
    "kaiming_uniform": ({}, lambda w: nn.init.kaiming_uniform_(w, nonlinearity="relu")),
    "kaiming_normal": ({}, lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu")),
}


def init_of(name):
    return TypeAdapter(InitSpec).validate_python({"name": name, **INITS[name][0]})


@pytest.mark.parametrize("name", INITS)
def test_weights_are_what_torchs_own_initialisation_draws_and_biases_stay(name):
    """Layers made first, then the weights in order, from one seed."""
    torch.manual_seed(4)
    layers = [nn.Linear(4, 16), nn.Linear(16, 8), nn.Linear(8, 3)]
    for layer in layers:
        INITS[name][1](layer.weight)
    module = initialize(lambda: MLP((4,), 3, [16, 8], "relu", init_of(name)), 4)
    expected = [parameter for layer in layers for parameter in (layer.weight, layer.bias)]
    for mine, theirs in zip(module.parameters(), expected, strict=True):
        assert torch.equal(mine, theirs)


def large_weight(name):
    module = initialize(lambda: MLP((200,), 100, [300], "relu", init_of(name)), 0)
    return module.layers[0].weight.detach().double().numpy()  # [300, 200]


@pytest.mark.parametrize(
    ("name", "distribution"),
    [
        ("uniform", stats.uniform(-0.1, 0.4)),
        ("normal", stats.norm(0, 0.2)),
        ("xavier_uniform", stats.uniform(-0.5 * (6 / 500) ** 0.5, (6 / 500) ** 0.5)),
        ("xavier_normal", stats.norm(0, (2 / 500) ** 0.5)),
        ("kaiming_uniform", stats.uniform(-((6 / 200) ** 0.5), 2 * (6 / 200) ** 0.5)),
        ("kaiming_normal", stats.norm(0, (2 / 200) ** 0.5)),
        ("torch", stats.uniform(-((1 / 200) ** 0.5), 2 * (1 / 200) ** 0.5)),
    ],
)
def test_weights_have_the_distribution_of_the_literature(name, distribution):
    """The formulas, with 200 inputs and 300 outputs."""
    if name == "torch":
        module = initialize(lambda: MLP((200,), 100, [300], "relu", TorchInit()), 0)
        weight = module.layers[0].weight.detach().numpy()
    else:
        weight = large_weight(name)
    assert stats.kstest(weight.flatten(), distribution.cdf).pvalue > 1e-3


def test_orthogonal_weights_are_orthogonal():
    weight = large_weight("orthogonal")
    np.testing.assert_allclose(weight.T @ weight, 1.5**2 * np.eye(200), atol=1e-5)


def test_an_older_configuration_without_norm_has_none(compose):
    data = compose().plain()
    del data["network"]["norm"]
    assert parse(data).network.norm == "none"


def test_null_stands_for_torchs_own_initialisation(compose):
    data = compose().plain()
    data["network"]["init"] = None
    assert parse(data).network.init == TorchInit()


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"name": "uniform", "low": 0.1, "high": 0.1},
            r"network\.init.*low=0.1: must be less than",
        ),
        ({"name": "uniform", "low": 0.1}, r"network\.init\.high: must be given"),
        ({"name": "normal", "std": 0}, r"network\.init\.std=0: .*greater than 0"),
        ({"name": "orthogonal", "low": 0.1}, r"low=0.1: orthogonal takes only name, gain"),
        ({"name": "zeros"}, r"network\.init\.name=zeros: must be one of torch, uniform, normal"),
    ],
)
def test_wrong_initialisations_are_refused(compose, settings, line):
    data = compose().plain()
    data["network"]["init"] = settings
    with pytest.raises(ConfigError, match=line):
        parse(data)


def test_initialisation_leaves_torchs_global_generator_as_it_was():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    mlp(seed=77)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_initialisation_restores_the_generator_when_building_fails():
    def fail():
        torch.rand(1)
        raise RuntimeError("no such network")

    before = torch.random.get_rng_state()
    with pytest.raises(RuntimeError):
        initialize(fail, 1)
    assert torch.equal(torch.random.get_rng_state(), before)
