"""Heads: from a torso's features [B, F] to what an agent learns from; and the two together."""

from __future__ import annotations

from torch import Tensor, nn

from dqn_runner.networks.init import Init, fill_weights
from dqn_runner.networks.torsos import Torso, TorsoSpec
from dqn_runner.types import Outputs


class QHead(nn.Module):
    """One value for each action."""

    def __init__(self, num_features: int, num_actions: int) -> None:
        super().__init__()
        self.values = nn.Linear(num_features, num_actions)

    def forward(self, features: Tensor) -> Outputs:
        """Action values [B, A] of `features` [B, F]."""
        return Outputs(self.values(features))


class QNetwork(nn.Module):
    """A torso and a head; `init` draws the weights of all their layers."""

    def __init__(self, torso: Torso, head: QHead, init: Init) -> None:
        super().__init__()
        self.torso, self.head = torso, head
        fill_weights(self, init)

    def forward(self, obs: Tensor) -> Outputs:
        """What the head says of `obs` [B, *obs_shape]."""
        outputs: Outputs = self.head(self.torso(obs))
        return outputs


def make_network(spec: TorsoSpec, obs_shape: tuple[int, ...], num_actions: int) -> QNetwork:
    """The Q-network that `spec` describes."""
    torso = spec.torso(obs_shape)
    return QNetwork(torso, QHead(torso.num_features, num_actions), spec.init)
