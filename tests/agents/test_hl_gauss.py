"""HL-Gauss's histogram against the normal distribution of scipy."""

import numpy as np
import pytest
import torch
from scipy import stats

from dqn_runner.agents.hl_gauss import HistogramReturn, HLGaussSpec, histogram
from dqn_runner.agents.targets import by_action
from dqn_runner.types import Batch, Outputs

LOW, HIGH, K = -10.0, 110.0, 60
WIDTH = (HIGH - LOW) / K
EDGES = np.linspace(LOW, HIGH, K + 1)
CENTERS = torch.linspace(LOW + WIDTH / 2, HIGH - WIDTH / 2, K, dtype=torch.float64)


def by_scipy(mean, sigma):
    """The shares of the bins of a normal distribution that is cut off at the outer edges."""
    mean = min(max(mean, LOW), HIGH)
    shares = np.diff(stats.norm.cdf(EDGES, loc=mean, scale=sigma * WIDTH))
    return shares / shares.sum()


@pytest.mark.parametrize("sigma", [0.25, 0.75, 2.0, 10.0])
def test_a_histogram_is_that_of_a_normal_distribution_cut_off_at_the_edges(sigma):
    """Also for means at, near and far beyond the edges, on edges of bins and in their middle."""
    means = np.array([*np.linspace(LOW, HIGH, 37), 50.0, 51.0, 51.3, -9.9, 109.9, -500.0, 1e6])
    shares = histogram(torch.from_numpy(means), CENTERS, sigma)
    expected = np.array([by_scipy(mean, sigma) for mean in means])
    assert shares.shape == (len(means), K)
    # The tails far from a mean, which are differences of numbers near 1, cancel.
    assert shares.numpy() == pytest.approx(expected, abs=1e-12)
    assert shares.sum(dim=1).numpy() == pytest.approx(1.0, abs=1e-12)
    in_single = histogram(torch.from_numpy(means).float(), CENTERS.float(), sigma)
    assert in_single.numpy() == pytest.approx(expected, abs=2e-5)
    assert in_single.sum(dim=1).numpy() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("sigma", [0.5, 0.75, 2.0])
def test_the_mean_of_a_histogram_is_the_target_within_a_fraction_of_a_bin(sigma):
    """Away from the edges, at which what is cut off pulls it inside."""
    reach = 5 * sigma * WIDTH
    means = torch.linspace(LOW + reach, HIGH - reach, 301, dtype=torch.float64)
    found = histogram(means, CENTERS, sigma) @ CENTERS
    assert (found - means).abs().max() < 0.01 * WIDTH
    at_edges = histogram(torch.tensor([LOW, HIGH], dtype=torch.float64), CENTERS, sigma) @ CENTERS
    half_normal = sigma * WIDTH * np.sqrt(2 / np.pi)
    expected = [LOW + half_normal, HIGH - half_normal]
    assert at_edges.numpy() == pytest.approx(expected, abs=0.15 * WIDTH)


def test_a_mean_beyond_the_range_counts_as_its_end():
    means = torch.tensor([LOW - 1e-9, LOW - 50, LOW, HIGH, HIGH + 50], dtype=torch.float64)
    shares = histogram(means, CENTERS, 0.75)
    for i, j in ((0, 2), (1, 2), (4, 3)):
        assert shares[i].numpy() == pytest.approx(shares[j].numpy(), abs=1e-9)
    assert shares[2].argmax() == 0
    assert shares[3].argmax() == K - 1
    assert shares[2].numpy() == pytest.approx(shares[3].flip(0).numpy(), abs=1e-12)


def test_sigma_is_in_widths_of_a_bin():
    """A histogram over a range of another width has the same shares."""
    means = torch.linspace(LOW, HIGH, 20, dtype=torch.float64)
    shares = histogram(means, CENTERS, 0.75)
    scaled = histogram(1000 * means + 7, 1000 * CENTERS + 7, 0.75)
    assert scaled.numpy() == pytest.approx(shares.numpy(), abs=1e-10)
    middle = histogram(CENTERS[30:31], CENTERS, 0.75)[0]
    within = stats.norm.cdf(0.5 / 0.75) - stats.norm.cdf(-0.5 / 0.75)
    assert middle[30].item() == pytest.approx(within)


def test_the_target_is_the_histogram_of_the_expected_return():
    generator = torch.Generator().manual_seed(0)
    q_values = 50 + 30 * torch.randn(32, 3, generator=generator, dtype=torch.float64)
    logits = torch.randn(32, 3, K, generator=generator, dtype=torch.float64)
    reward = torch.randn(32, generator=generator, dtype=torch.float64)
    discount = 0.9 * (torch.rand(32, generator=generator) < 0.7).double()
    action = torch.randint(3, (32,), generator=generator)
    empty = torch.empty(0)
    batch = Batch(empty, action, reward, discount, empty)
    next_state = by_action(batch, Outputs(q_values, logits, CENTERS), action)
    target = HistogramReturn(0.75).target(next_state, {})
    for b in range(32):
        value = q_values[b, int(action[b])].item()
        mean = reward[b].item() + discount[b].item() * value
        assert target[b].numpy() == pytest.approx(by_scipy(mean, 0.75), abs=1e-12)


def test_v_min_and_v_max_are_the_outer_edges_of_the_bins():
    spec = HLGaussSpec.model_validate(
        {"name": "hl_gauss", "num_bins": K, "sigma": 0.75, "v_min": LOW, "v_max": HIGH,
         "lr": 1e-3, "gamma": 0.99, "n_step": 1, "double": False, "max_grad_norm": None,
         "max_grad_value": None, "optimizer": {"name": "adam"}}
    )  # fmt: skip
    assert spec.atoms.numpy() == pytest.approx(CENTERS.numpy(), abs=1e-4)
