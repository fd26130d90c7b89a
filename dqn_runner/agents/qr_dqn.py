"""QR-DQN: a return represented by quantiles at fixed fractions (Dabney et al. 2018a)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dqn_runner.agents.spec import AgentSpec
from dqn_runner.learning.learner import Losses, NextState
from dqn_runner.learning.optimizers import Hyper
from dqn_runner.networks.heads import Head, QuantileHead, StreamsMaker
from dqn_runner.spec import NonNegativeFloat, PositiveInt
from dqn_runner.types import Outputs


class QRDQNSpec(AgentSpec):
    """QR-DQN's own settings."""

    name: Literal["qr_dqn"]
    """The kind of agent."""
    num_quantiles: PositiveInt
    """Quantiles, at the midpoints of as many equal shares of probability."""
    kappa: NonNegativeFloat
    """Size of a TD error up to which its square counts, not its size; 0: its size always."""

    def head(self, make_streams: StreamsMaker, num_features: int) -> Head:
        """The quantiles."""
        return QuantileHead(make_streams(self.num_quantiles), self.num_quantiles)

    @property
    def representation(self) -> QuantileReturn:
        """Quantiles at fixed fractions."""
        return QuantileReturn(self.kappa)


class QuantileReturn(NamedTuple):
    """The distribution of returns by its quantiles, at fractions that the outputs' grid tells."""

    kappa: float

    def target(self, next_state: NextState, hyper: Hyper) -> Tensor:
        """The quantiles [B, K] of the return after a step."""
        quantiles = next_state.outputs.distribution
        assert quantiles is not None
        following = next_state.average(quantiles)
        return next_state.reward.unsqueeze(1) + next_state.discount.unsqueeze(1) * following

    def loss(self, outputs: Outputs, action: Tensor, target: Tensor) -> Losses:
        """The quantile Huber loss, which is the priority too."""
        quantiles, taus = outputs.distribution_of(action)
        loss = quantile_huber(quantiles, taus, target, self.kappa)
        return Losses(loss, loss.detach(), quantiles.detach().mean(dim=-1))


def quantile_huber(quantiles: Tensor, taus: Tensor, target: Tensor, kappa: float) -> Tensor:
    """The loss [B] of `quantiles` [B, K] at `taus` [K] or [B, K], against `target` [B, L].

    |τ - 1{δ<0}|·L_κ(δ)/κ for each δ = target - quantile, averaged over targets, summed over
    quantiles (Dabney et al. 2018a, eq. 10, with the κ of Dabney et al. 2018b, eq. 3).
    """
    fixed = _kept(quantiles.detach())
    error = _kept(target).unsqueeze(1) - fixed.unsqueeze(2)  # [B, K, L]
    tau = taus.unsqueeze(-1)
    # L_κ(δ)/κ is slope·(δ - reach/2), and the slope is its derivative.
    reach = error.clamp(-kappa, kappa)
    slope = torch.where(error < 0, 1 - tau, tau) * (reach if kappa > 0.0 else error.sign())
    scale = 1 / kappa if kappa > 0.0 else 1.0
    loss = (slope * (error - 0.5 * reach)).mean(dim=2) * scale
    # The gradient is written out: compiled, this is faster than what autograd derives.
    return (loss + slope.mean(dim=2) * scale * (fixed - quantiles)).sum(dim=1)


def _kept(values: Tensor) -> Tensor:
    """`values`, of which the compiler computes each once and not anew for each pair.

    It has to put a tensor into memory before it can look at it by strides.
    """
    return values.as_strided(values.shape, values.stride())
