"""IQN: a return represented by its quantiles at any fractions (Dabney et al. 2018b)."""

from __future__ import annotations

from typing import Literal

from dqn_runner.agents.qr_dqn import QuantileReturn
from dqn_runner.agents.spec import AgentSpec
from dqn_runner.networks.heads import Head, ImplicitQuantileHead, StreamsMaker
from dqn_runner.spec import NonNegativeFloat, PositiveInt


class IQNSpec(AgentSpec):
    """IQN's own settings."""

    name: Literal["iqn"]
    """The kind of agent."""
    num_tau: PositiveInt
    """Fractions τ that an update draws for a prediction, N."""
    num_tau_next: PositiveInt
    """Fractions τ that an update draws for a target, N'."""
    num_tau_act: PositiveInt
    """Fixed fractions τ whose quantiles are averaged for the value of an action, K."""
    embedding_dim: PositiveInt
    """Cosines that represent a fraction τ."""
    kappa: NonNegativeFloat
    """Size of a TD error up to which its square counts, not its size; 0: its size always."""

    def head(self, make_streams: StreamsMaker, num_features: int) -> Head:
        """Quantiles as a function of τ."""
        num_uniforms = (self.num_tau, self.num_tau_next)
        return ImplicitQuantileHead(
            make_streams(1), num_features, self.embedding_dim, num_uniforms, self.num_tau_act
        )

    @property
    def representation(self) -> QuantileReturn:
        """Quantiles at drawn fractions."""
        return QuantileReturn(self.kappa)
