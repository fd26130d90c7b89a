"""IQN's head against known distributions, and the noise that it draws."""

import math

import numpy as np
import pytest
import torch
from building import agent_of, mlp
from scipy import stats
from torch import nn

from dqn_runner.agents.qr_dqn import quantile_huber
from dqn_runner.networks.flat import FlatNetwork
from dqn_runner.networks.heads import ImplicitQuantileHead, midpoints
from dqn_runner.networks.streams import CustomStreams

# Quantile functions as sums of c_i·cos(π·i·τ), which are nowhere below 0.
ARCSINE = (stats.arcsine(loc=2.0, scale=3.0), {0: 3.5, 1: -1.5})
UNIFORM = (
    stats.uniform(loc=1.0, scale=4.0),
    {0: 3.0, **{i: -16 / (math.pi * i) ** 2 for i in range(1, 64, 2)}},
)
DISTRIBUTIONS = {"arcsine": ARCSINE, "uniform": UNIFORM}


def head_of(coefficients, num_tau_act=32):
    """A head with the returns of one action: F⁻¹(τ) = Σ c_i·cos(π·i·τ), times its one feature."""
    streams = nn.Linear(1, 1, bias=False)
    nn.init.ones_(streams.weight)
    head = ImplicitQuantileHead(CustomStreams(streams, 1, 1), 1, 64, (8, 8), num_tau_act)
    nn.init.zeros_(head.embedding.weight)
    nn.init.zeros_(head.embedding.bias)
    for i, coefficient in coefficients.items():
        nn.init.constant_(head.embedding.weight[:, i], coefficient)
    return head.requires_grad_(False)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_values_are_the_means_of_known_distributions_and_quantiles_theirs(name):
    """For features 1 and 2, which scale the distribution."""
    distribution, coefficients = DISTRIBUTIONS[name]
    features = torch.tensor([[1.0], [2.0]])
    uniforms = torch.rand(2, 50, generator=torch.Generator().manual_seed(0))
    outputs = head_of(coefficients)(features, None, uniforms.flatten())
    assert outputs.q_values.shape == (2, 1)
    scales = [[1.0], [2.0]]
    expected = distribution.mean() * np.array(scales)
    assert outputs.q_values.numpy() == pytest.approx(expected, rel=1e-3)
    assert outputs.distribution.shape == (2, 1, 50)
    quantiles = distribution.ppf(uniforms.numpy()) * np.array(scales)
    assert outputs.distribution[:, 0].numpy() == pytest.approx(quantiles, abs=0.03)
    assert torch.equal(outputs.grid, uniforms)


def test_more_fixed_fractions_bring_values_nearer_to_the_mean():
    """Of an exponential distribution, as far as 64 cosines can tell it."""
    distribution = stats.expon(scale=2.0)
    taus = midpoints(4096).double().numpy()
    basis = np.cos(np.pi * np.outer(taus, np.arange(64)))
    fit, *_ = np.linalg.lstsq(basis, distribution.ppf(taus), rcond=None)
    features = torch.ones(1, 1)
    errors = [
        abs(head_of(dict(enumerate(fit.tolist())), count)(features, None, torch.empty(0))
            .q_values.item() - 2.0)
        for count in (1, 4, 16, 128)
    ]  # fmt: skip
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02


def loss_over(head, taus, next_taus, kappa, rows):
    """The loss [rows] of quantiles at `taus` [rows, N] against returns at `next_taus`."""
    features = torch.ones(rows, 1)
    quantiles = head(features, None, taus.flatten()).distribution[:, 0]
    target = 0.5 + 0.9 * head(features, None, next_taus.flatten()).distribution[:, 0]
    return quantile_huber(quantiles.double(), taus.double(), target.double(), kappa)


@pytest.mark.parametrize("kappa", [0.0, 1.0])
def test_the_loss_of_drawn_fractions_is_that_of_all_of_them_in_the_mean(kappa):
    """With 4 for the prediction and 3 for the target, against 1000 of each, side by side."""
    head, rows = head_of(ARCSINE[1]), 20_000
    generator = torch.Generator().manual_seed(1)
    taus, next_taus = (torch.rand(rows, count, generator=generator) for count in (4, 3))
    drawn = loss_over(head, taus, next_taus, kappa, rows) / 4
    of_all = midpoints(1000).unsqueeze(0)
    expected = loss_over(head, of_all, of_all, kappa, 1).item() / 1000
    standard_error = drawn.std().item() / math.sqrt(rows)
    assert drawn.mean().item() == pytest.approx(expected, abs=4 * standard_error)
    assert standard_error < 0.01 * expected


def test_the_mean_gradient_is_0_at_the_true_quantiles():
    """P(target < F⁻¹(τ)) is τ: the slope of the loss with κ = 0, for each of 20 τ."""
    head, rows = head_of(ARCSINE[1]), 20_000
    features = torch.ones(rows, 1)
    next_taus = torch.rand(rows, 3, generator=torch.Generator().manual_seed(2))
    target = head(features, None, next_taus.flatten()).distribution[:, 0]
    taus = midpoints(20).expand(rows, 20)
    quantiles = head(features, None, taus.flatten()).distribution[:, 0].clone().requires_grad_()
    loss = quantile_huber(quantiles, taus, target, 0.0).sum()
    (grad,) = torch.autograd.grad(loss, quantiles)
    standard_error = 0.5 / math.sqrt(3 * rows)
    assert grad.mean(0).abs().max().item() < 4 * standard_error
    assert grad.abs().mean() > 0.1


def test_fractions_are_uniform_and_drawn_for_each_row_and_network_anew():
    batch_size = 500
    agent = agent_of("iqn", num_tau=4, num_tau_next=5)
    network = FlatNetwork(mlp((2,), 3, [8, 6], agent=agent))
    obs, params = torch.zeros(batch_size, 2), network.initial_params
    rng, taus = np.random.default_rng(0), []
    for _ in range(2):
        online, target, selecting = network.split_noise(
            network.draw_noise(rng, batch_size), batch_size
        )
        assert len(selecting) == 0  # to select takes the fixed fractions
        for noise, count in ((online, 4), (target, 5)):
            grid = network(params, network.buffers, obs, noise).grid
            assert grid is not None
            assert grid.shape == (batch_size, count)
            taus.append(grid.flatten().numpy())
    drawn = np.concatenate(taus)
    assert drawn.min() >= 0.0
    assert drawn.max() < 1.0
    assert stats.kstest(drawn, "uniform").pvalue > 0.001
    # float32 has so many numbers that few coincide; of fractions used twice all would.
    assert len(np.unique(drawn)) > 0.99 * len(drawn)


def test_values_of_observations_alone_draw_nothing():
    agent = agent_of("iqn")
    network = FlatNetwork(mlp((2,), 3, [8, 6], agent=agent))
    obs = torch.randn(7, 2, generator=torch.Generator().manual_seed(0))
    noise, _, _ = network.split_noise(network.draw_noise(np.random.default_rng(0), 7), 7)
    alone = network(network.initial_params, network.buffers, obs)
    learning = network(network.initial_params, network.buffers, obs, noise)
    assert alone.distribution is None
    assert torch.equal(alone.q_values, learning.q_values)
