"""The flat form of a network against the module, in learning and in acting."""

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from building import HEADS, cnn, mlp, q_values
from torch import nn

from dqn_runner.errors import ConfigError
from dqn_runner.networks import flat
from dqn_runner.networks.flat import FlatNetwork, check_pure
from dqn_runner.networks.init import initialize

ACTIVATIONS = ["relu", "leaky_relu", "elu", "silu", "tanh", "sigmoid"]


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
        return self.scale * self.head(hidden.flatten(1)) + self.head.weight.view(-1)[0]


def net(activation="relu", obs_shape=(4,), hidden_sizes=(16, 8), seed=0, **settings):
    return initialize(lambda: mlp(obs_shape, 3, hidden_sizes, activation, **settings), seed)


def some_obs(shape, count=32, seed=0):
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)


@pytest.fixture(params=[2**16, 40], ids=["by rows", "by columns"])
def most_by_rows(request, monkeypatch):
    """How many numbers weights may have that lie by rows: all of them here, or only small ones."""
    monkeypatch.setattr(flat, "MOST_BY_ROWS", request.param)


@pytest.mark.parametrize("obs_shape", [(4,), (2, 3, 5)])
def test_flat_network_equals_the_module(obs_shape, most_by_rows):
    module, obs = net(obs_shape=obs_shape), torch.from_numpy(some_obs(obs_shape))
    network = FlatNetwork(module)
    by_rows = torch.cat([p.flatten() for p in module.parameters()])
    assert torch.equal(network.by_rows(network.initial_params), by_rows)
    actual, expected = q_values(network, network.initial_params, obs), module(obs).q_values
    if torch.equal(network.initial_params, by_rows):
        assert torch.equal(actual, expected)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)  # sums in another order


def test_flat_network_of_other_parameters_equals_a_module_that_holds_them(most_by_rows):
    """A network of the user's own may look at its weights, which all lie by rows."""
    network = FlatNetwork(Convolutional((3, 5, 6), 4))
    other = Convolutional((3, 5, 6), 4)
    params = torch.cat([p.detach().flatten() for p in other.parameters()])
    pixels = torch.randint(256, (7, 3, 5, 6), dtype=torch.uint8)
    assert torch.equal(q_values(network, params, pixels), other(pixels))
    assert not torch.equal(q_values(network, network.initial_params, pixels), other(pixels))


def test_all_vectors_of_an_optimizer_are_put_by_rows_and_back(most_by_rows):
    network = FlatNetwork(net(hidden_sizes=(16, 8)))
    numbers = torch.arange(2.0 * len(network.initial_params)).view(2, -1)
    rows = network.by_rows(numbers)
    assert torch.equal(network.from_rows(rows), numbers)
    first = 16 * 4  # weights [out, in]
    expected = numbers[:, :first]
    if first > flat.MOST_BY_ROWS:
        expected = expected.view(2, 4, 16).transpose(1, 2).reshape(2, first)
    assert torch.equal(rows[:, :first], expected)


def test_gradient_of_the_flat_network_is_that_of_the_module(most_by_rows):
    network, obs = FlatNetwork(net("tanh")), torch.from_numpy(some_obs((4,)))
    params = network.initial_params.clone().requires_grad_()
    (grad,) = torch.autograd.grad(q_values(network, params, obs).square().sum(), params)
    module = net("tanh")
    module(obs).q_values.square().sum().backward()
    expected = torch.cat([p.grad.flatten() for p in module.parameters()])
    assert torch.allclose(network.by_rows(grad), expected, rtol=1e-5, atol=1e-6)


@pytest.fixture
def no_torch(monkeypatch):
    """Networks of ours act by NumPy alone."""
    monkeypatch.setattr(flat._Holding, "__call__", lambda *_: pytest.fail("acts by torch"))


def shaken(module, seed=0):
    """The module with all its parameters moved, those too that start at 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return module


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("obs_shape", [(4,), (2, 3, 5)])
@pytest.mark.parametrize("norm", ["none", "layer_norm"])
@pytest.mark.parametrize("count", [1, 32])
def test_acting_on_arrays_equals_torch(no_torch, activation, obs_shape, norm, count):
    module = shaken(net(activation, obs_shape, norm=norm))
    network, obs = FlatNetwork(module), some_obs(obs_shape, count)
    expected = module(torch.from_numpy(obs)).q_values.numpy()
    actual = network.on_arrays(network.initial_params, network.buffers)(obs)
    assert actual.dtype == expected.dtype
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("noisy", [None, 0.5])
@pytest.mark.parametrize("hidden_sizes", [(8,), (16, 8)])
@pytest.mark.parametrize("count", [1, 5])
def test_acting_on_arrays_equals_torch_for_each_head(
    no_torch, head, dueling, noisy, hidden_sizes, count, monkeypatch
):
    """Without noise, and with the noise of three steps; some weights lie by columns."""
    monkeypatch.setattr(flat, "MOST_BY_ROWS", 40)
    settings = {"head": head, "dueling": dueling, "noisy": noisy, "norm": "layer_norm"}
    module = shaken(net(hidden_sizes=hidden_sizes, **settings))
    network, obs = FlatNetwork(module), some_obs((4,), count)
    params, buffers = network.initial_params, network.buffers
    expected = module(torch.from_numpy(obs)).q_values.numpy()
    actual = network.on_arrays(params, buffers)(obs)
    assert actual.dtype == expected.dtype
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    acting = network.on_arrays(params, buffers, np.random.default_rng(7))
    rng = np.random.default_rng(7)
    for _ in range(3):
        noise = torch.from_numpy(rng.standard_normal(module.noise_sizes(0)[0].normals, np.float32))
        noisy_expected = module(torch.from_numpy(obs), noise).q_values.numpy()
        np.testing.assert_allclose(acting(obs), noisy_expected, rtol=1e-4, atol=1e-5)
        assert (np.abs(noisy_expected - expected).max() > 1e-2) == (noisy is not None)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("head", HEADS)
def test_acting_on_arrays_stays_finite_where_torch_does(no_torch, activation, head):
    """Large inputs on both sides of zero overflow a careless exponential."""
    module, obs = net(activation, head=head), 1e4 * some_obs((4,))
    network = FlatNetwork(module)
    expected = module(torch.from_numpy(obs)).q_values.numpy()
    with np.errstate(all="raise", under="ignore"):
        actual = network.on_arrays(network.initial_params, network.buffers)(obs)
    # A logit of 1e4 is known to 1e-3, whatever adds its terms up.
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.uint8, bool])
def test_acting_on_arrays_takes_bytes_and_leaves_the_observation_alone(dtype):
    network = FlatNetwork(net(obs_shape=(2, 3)))
    pixels = np.random.default_rng(0).integers(256, size=(5, 2, 3)).astype(dtype)
    kept = pixels.copy()
    actual = network.on_arrays(network.initial_params, network.buffers)(pixels)
    expected = q_values(network, network.initial_params, torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    assert np.array_equal(pixels, kept)
    obs = some_obs((2, 3))
    kept = obs.copy()
    network.on_arrays(network.initial_params, network.buffers)(obs)
    assert np.array_equal(obs, kept)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: mlp((3, 5, 6), 4, [8]),
    "layer norm": lambda: mlp((3, 5, 6), 4, [8, 7], norm="layer_norm"),
    "noisy and dueling": lambda: mlp((3, 5, 6), 4, [8, 7], dueling=True, noisy=0.5),
    **{head: functools.partial(mlp, (3, 5, 6), 4, [8, 7], head=head) for head in HEADS},
    "cnn": lambda: cnn("minatar_cnn", (3, 5, 6), 4, norm="layer_norm"),
    "custom": lambda: Convolutional((3, 5, 6), 4),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_acting_follows_parameters_that_change_in_place(name, most_by_rows):
    network, obs = FlatNetwork(initialize(NETWORKS[name], 1)), some_obs((3, 5, 6))
    params = network.initial_params.clone()
    q_function = network.on_arrays(params, network.buffers)
    for step in range(3):
        expected = q_values(network, params, torch.from_numpy(obs)).numpy()
        np.testing.assert_allclose(q_function(obs), expected, rtol=1e-4, atol=1e-5)
        before = expected
        params.copy_(params * 1.5 + 0.01 * step)
        assert np.abs(q_function(obs) - before).max() > 1e-3


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("noisy", [None, 0.5])
def test_acting_by_torch_is_that_of_the_module_which_stays_as_it_was(head, noisy):
    """With other parameters than its own, and with noise."""
    module = initialize(lambda: cnn("minatar_cnn", (4, 4), 3, head=head, noisy=noisy), 0)
    own = [parameter.clone() for parameter in module.parameters()]
    network, obs = FlatNetwork(module), some_obs((4, 4), 2)
    other = 1.5 * network.initial_params
    acting = network.on_arrays(other, network.buffers, np.random.default_rng(7))
    actual = acting(obs)
    assert all(map(torch.equal, module.parameters(), own))
    normals = np.random.default_rng(7).standard_normal(module.noise_sizes(0)[0].normals, np.float32)
    for parameter in module.parameters():
        parameter.mul_(1.5)
    expected = module(torch.from_numpy(obs), torch.from_numpy(normals)).q_values
    assert np.array_equal(actual, expected.numpy())


@pytest.mark.parametrize("head", ["categorical", "implicit quantile"])
def test_acting_follows_buffers_that_change_in_place(no_torch, head):
    module, obs = net(head=head), some_obs((4,))
    network = FlatNetwork(module)
    buffers = [buffer.clone() for buffer in network.buffers]
    q_function = network.on_arrays(network.initial_params, buffers)
    before = q_function(obs)
    for buffer, own in zip(buffers, module.buffers(), strict=True):
        buffer.copy_(buffer * 0.5 + 0.3)
        own.copy_(buffer)
    expected = module(torch.from_numpy(obs)).q_values.numpy()
    np.testing.assert_allclose(q_function(obs), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(expected - before).max() > 1e-3


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


class Scaled(nn.Module):
    """A network with a constant buffer, another buffer of whole numbers, and two modes."""

    def __init__(self, obs_shape, num_actions):
        super().__init__()
        self.q = nn.Linear(obs_shape[0], num_actions)
        self.register_buffer("scale", torch.randn(num_actions))
        self.register_buffer("order", torch.randperm(num_actions))
        self.register_buffer("noise", torch.randn(num_actions))

    def forward(self, obs):
        q_values = (self.q(obs) * self.scale)[:, self.order]
        return q_values + self.noise if self.training else q_values


def test_buffers_are_given_like_parameters():
    """One module's buffers and parameters in the function of another one."""
    network, other = (FlatNetwork(initialize(lambda: Scaled((4,), 3), seed)) for seed in (0, 1))
    module, obs = initialize(lambda: Scaled((4,), 3), 1), torch.from_numpy(some_obs((4,)))
    assert [buffer.dtype for buffer in network.buffers] == [
        torch.float32, torch.int64, torch.float32
    ]  # fmt: skip
    outputs = network(other.initial_params, other.buffers, obs)
    assert torch.equal(outputs.q_values, module(obs))
    mixed = network(other.initial_params, network.buffers, obs)
    assert not torch.equal(mixed.q_values, module(obs))


def test_learning_is_in_training_mode_and_acting_in_evaluation_mode():
    network = FlatNetwork(initialize(lambda: Scaled((4,), 3), 0))
    module, obs = initialize(lambda: Scaled((4,), 3), 0), some_obs((4,))
    act = network.on_arrays(network.initial_params, network.buffers)
    for _ in range(2):
        learning = network(network.initial_params, network.buffers, torch.from_numpy(obs))
        assert torch.equal(learning.q_values, module.train()(torch.from_numpy(obs)))
        expected = module.eval()(torch.from_numpy(obs)).detach().numpy()
        assert np.array_equal(act(obs), expected)
        assert np.array_equal(act(obs[:1]), expected[:1])


def test_runs_with_buffers_of_their_own_equal_each_alone_under_vmap():
    network = FlatNetwork(initialize(lambda: Scaled((4,), 3), 0))
    others = [FlatNetwork(initialize(lambda: Scaled((4,), 3), seed)) for seed in range(3)]
    params = torch.stack([other.initial_params for other in others])
    buffers = tuple(torch.stack(group) for group in zip(*(o.buffers for o in others), strict=True))
    obs = torch.from_numpy(some_obs((4,), count=3 * 5).reshape(3, 5, 4))
    together = torch.func.vmap(lambda p, b, o: network(p, b, o).q_values)(params, buffers, obs)
    for r, other in enumerate(others):
        alone = network(other.initial_params, other.buffers, obs[r]).q_values
        torch.testing.assert_close(together[r], alone)


class Counting(nn.Module):
    """Keeps a statistic of what it has seen."""

    def __init__(self):
        super().__init__()
        self.q = nn.Linear(4, 3)
        self.norm = nn.Identity()
        self.norm.register_buffer("seen", torch.zeros(()))

    def forward(self, obs):
        self.norm.get_buffer("seen").add_(1)
        return self.q(obs)


class Random(nn.Module):
    """Draws random numbers in its forward pass."""

    def __init__(self):
        super().__init__()
        self.q = nn.Linear(4, 3)

    def forward(self, obs):
        return self.q(obs) + torch.randn(3)


def with_layer(layer):
    return nn.Sequential(nn.Linear(4, 8), layer, nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (with_layer(nn.BatchNorm1d(8)), ["layer 1 (BatchNorm1d)", "torch.nn.LayerNorm"]),
        (
            with_layer(nn.BatchNorm1d(8, track_running_stats=False)),
            ["layer 1 (BatchNorm1d)", "torch.nn.GroupNorm"],
        ),
        (with_layer(nn.Dropout(0.1)), ["layer 1 draws random numbers", "leave it out"]),
        (Counting(), ["layer norm (Identity) changes its buffer seen", "keep the buffer constant"]),
        (Random(), ["its forward pass draws random numbers", "keep the numbers in a buffer"]),
    ],
    ids=["batch norm", "batch norm without statistics", "dropout", "own statistic", "own noise"],
)
def test_what_a_pure_update_cannot_do_is_refused_with_its_layer(module, words):
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    generator = torch.get_rng_state()
    with pytest.raises(ConfigError) as caught:
        check_pure(module, torch.zeros(2, 4), "network.name=mine:Net")
    assert str(caught.value).startswith("network.name=mine:Net: ")
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    assert all(torch.equal(state[name], tensor) for name, tensor in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize(
    "module",
    [
        with_layer(nn.LayerNorm(8)),
        with_layer(nn.Dropout(0.0)),
        with_layer(nn.InstanceNorm1d(8)),
        initialize(lambda: Scaled((4,), 3), 0),
    ],
    ids=["layer norm", "no dropout", "instance norm", "constant buffers"],
)
def test_what_only_computes_is_accepted(module):
    check_pure(module, torch.zeros(2, 4), "network.name=mine:Net")
