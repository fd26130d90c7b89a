"""HL-Gauss: an expected return learned as a histogram (Farebrother et al. 2024)."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from dqn_runner.agents.c51 import CategoricalSpec, NumAtoms, cross_entropy
from dqn_runner.learning.learner import Losses, NextState
from dqn_runner.learning.optimizers import Hyper
from dqn_runner.spec import PositiveFloat
from dqn_runner.types import Outputs


class HLGaussSpec(CategoricalSpec):
    """HL-Gauss's own settings; v_min and v_max are the outer edges of its bins."""

    name: Literal["hl_gauss"]
    """The kind of agent."""
    num_bins: NumAtoms
    """Bins between v_min and v_max."""
    sigma: PositiveFloat
    """Standard deviation of the histogram of a target, in widths of a bin."""

    margin: ClassVar[float] = 0.1

    @property
    def atoms(self) -> Tensor:
        """The centers [K] of the bins."""
        low, high = self._range
        half = (high - low) / self.num_bins / 2
        return torch.linspace(low + half, high - half, self.num_bins)

    def reach(self, support: Tensor) -> tuple[float, float]:
        """The outer edges of the bins around the centers `support` [K]."""
        half = float(support[-1] - support[0]) / (len(support) - 1) / 2
        return float(support[0]) - half, float(support[-1]) + half

    @property
    def representation(self) -> HistogramReturn:
        """The histogram of the expected return."""
        return HistogramReturn(self.sigma)


class HistogramReturn(NamedTuple):
    """An expected return, learned by classification (Farebrother et al. 2024, section 3.1).

    The target is the histogram of a normal distribution around the expected return, with a
    standard deviation of `sigma` widths of a bin. The grid of the network's outputs holds the
    centers of the bins.
    """

    sigma: float

    def target(self, next_state: NextState, hyper: Hyper) -> Tensor:
        """The shares [B, K] of the bins of the distribution around the expected return."""
        centers = next_state.outputs.grid
        assert centers is not None
        return histogram(next_state.expected_return, centers, self.sigma)

    def loss(self, outputs: Outputs, action: Tensor, target: Tensor) -> Losses:
        """The cross-entropy of `target` [B, K], which is the priority too."""
        return cross_entropy(outputs, action, target)


def histogram(mean: Tensor, centers: Tensor, sigma: float) -> Tensor:
    """Shares [B, K] of the bins around `centers` [K] of normal distributions around `mean` [B].

    They are cut off at the outer edges and add up to 1; a mean beyond them counts as the edge.
    `sigma` is in widths of a bin.
    """
    num_bins = len(centers)
    width = (centers[-1] - centers[0]) / (num_bins - 1)
    edges = torch.cat([centers - width / 2, centers[-1:] + width / 2])  # [K + 1]
    inside = torch.minimum(torch.maximum(mean, edges[0]), edges[-1]).unsqueeze(1)
    below = torch.erf((edges - inside) / (math.sqrt(2) * sigma * width))  # [B, K + 1]
    return (below[:, 1:] - below[:, :-1]) / (below[:, -1:] - below[:, :1])
