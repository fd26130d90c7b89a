"""Heads: what the outputs of the streams mean; and torso, streams and head together."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dqn_runner.networks.init import fill_weights
from dqn_runner.networks.noisy import noise_factors
from dqn_runner.networks.numpy_mlp import ArrayFunction, Arrays, linear, relu
from dqn_runner.networks.streams import CustomStreams, Streams
from dqn_runner.networks.torsos import Torso, TorsoSpec
from dqn_runner.types import Array, ObsSpec, Outputs, QFunction


class Head(nn.Module, ABC):
    """What the outputs of the streams mean."""

    num_uniforms: tuple[int, int] = (0, 0)
    """The numbers that it draws for each row, of the online and of the target network."""
    num_passes: int = 1
    """The rows of the streams' input, at most, that an update makes of each observation."""

    def __init__(self, streams: Streams | CustomStreams) -> None:
        super().__init__()
        self.streams = streams

    @abstractmethod
    def forward(self, features: Tensor, normals: Tensor | None, uniforms: Tensor) -> Outputs:
        """What is learned of `features` [B, F], with noise on weights made of `normals`.

        `uniforms` [B·T] in [0, 1) are for a head that draws; it is empty when acting.
        """

    @abstractmethod
    def on_numpy(self, streams: ArrayFunction, arrays: Arrays) -> ArrayFunction:
        """Values [N, A] of features [N, F] on NumPy arrays, given the streams there."""


class ScalarHead(Head):
    """One value for each action."""

    def forward(self, features: Tensor, normals: Tensor | None, uniforms: Tensor) -> Outputs:
        """Values [B, A] of `features` [B, F]."""
        return Outputs(self.streams(features, normals).squeeze(-1))

    def on_numpy(self, streams: ArrayFunction, arrays: Arrays) -> ArrayFunction:
        """The streams themselves."""
        return streams


class CategoricalHead(Head):
    """Logits of K atoms, the returns `support` [K], for each action (Bellemare et al. 2017, eq. 6).

    The support is a buffer, which stays with the parameters.
    """

    support: Tensor

    def __init__(self, streams: Streams | CustomStreams, support: Tensor) -> None:
        super().__init__(streams)
        self.register_buffer("support", support)

    def forward(self, features: Tensor, normals: Tensor | None, uniforms: Tensor) -> Outputs:
        """Logits [B, A, K] of `features` [B, F], and the means of their distributions."""
        logits = self.streams(features, normals)
        return Outputs((logits.softmax(-1) * self.support).sum(-1), logits, self.support)

    def on_numpy(self, streams: ArrayFunction, arrays: Arrays) -> ArrayFunction:
        """The means of the distributions."""
        support = arrays[self.support]

        def means(features: Array) -> Array:
            logits = streams(features).reshape(-1, len(support))  # [N·A, K]
            logits -= np.maximum.reduce(logits, axis=1, keepdims=True)
            weights = np.exp(logits, out=logits)
            result: Array = weights.dot(support)
            result /= np.add.reduce(weights, axis=1)
            return result.reshape(len(features), -1)

        return means


class QuantileHead(Head):
    """Quantiles of the return at the midpoints of K equal shares (Dabney et al. 2018a, lemma 2)."""

    taus: Tensor

    def __init__(self, streams: Streams | CustomStreams, num_quantiles: int) -> None:
        super().__init__(streams)
        self.register_buffer("taus", midpoints(num_quantiles))

    def forward(self, features: Tensor, normals: Tensor | None, uniforms: Tensor) -> Outputs:
        """Quantiles [B, A, K] of `features` [B, F], and their means."""
        quantiles = self.streams(features, normals)
        return Outputs(quantiles.mean(-1), quantiles, self.taus)

    def on_numpy(self, streams: ArrayFunction, arrays: Arrays) -> ArrayFunction:
        """The means of the quantiles."""
        count = len(self.taus)

        def means(features: Array) -> Array:
            quantiles = streams(features).reshape(-1, count)  # [N·A, K]
            result: Array = np.add.reduce(quantiles, axis=1) / count
            return result.reshape(len(features), -1)

        return means


class ImplicitQuantileHead(Head):
    """Quantiles of the return at any fractions τ in [0, 1] (Dabney et al. 2018b, section 3).

    Features are multiplied by an embedding of τ: relu of a linear layer on cos(π·i·τ), for i below
    `embedding_dim` (eq. 4). An update draws τ, `num_tau` of them for the online and `num_tau_next`
    for the target network. Values are means over `num_tau_act` fixed τ, the midpoints of equal
    shares, so that acting draws nothing; the paper draws these too.
    """

    cosines: Tensor  # [K, embedding_dim], of the fixed τ
    multiples: Tensor  # [embedding_dim]

    def __init__(
        self,
        streams: Streams | CustomStreams,
        num_features: int,
        embedding_dim: int,
        num_uniforms: tuple[int, int],
        num_tau_act: int,
    ) -> None:
        super().__init__(streams)
        self.num_uniforms = num_uniforms
        self.num_passes = num_tau_act + max(num_uniforms)
        self.embedding = nn.Linear(embedding_dim, num_features)
        self.register_buffer("multiples", math.pi * torch.arange(embedding_dim))
        self.register_buffer("cosines", self._cosines(midpoints(num_tau_act)))

    def forward(self, features: Tensor, normals: Tensor | None, uniforms: Tensor) -> Outputs:
        """Quantiles [B, A, T] of `features` [B, F] at the τ `uniforms` [B·T], and values."""
        q_values = self._quantiles(features, self.cosines, normals).mean(-1)
        if uniforms.numel() == 0:
            return Outputs(q_values)
        taus = uniforms.reshape(len(features), -1)
        return Outputs(q_values, self._quantiles(features, self._cosines(taus), normals), taus)

    def on_numpy(self, streams: ArrayFunction, arrays: Arrays) -> ArrayFunction:
        """The means of the quantiles at the fixed τ."""
        cosines, embedding = arrays[self.cosines], linear(self.embedding, arrays)
        count = len(cosines)

        def means(features: Array) -> Array:
            products = features[:, None] * relu(embedding(cosines))  # [N, K, F]
            quantiles = streams(products.reshape(-1, products.shape[-1])).reshape(
                len(features), count, -1
            )
            result: Array = np.add.reduce(quantiles, axis=1) / count
            return result

        return means

    def _cosines(self, taus: Tensor) -> Tensor:
        """The cosines [..., T, embedding_dim] that represent `taus` [..., T]."""
        return (taus.unsqueeze(-1) * self.multiples).cos()

    def _quantiles(self, features: Tensor, cosines: Tensor, normals: Tensor | None) -> Tensor:
        """The quantiles [B, A, T] of `features` [B, F] at the τ of `cosines`."""
        embedded = functional.relu(self.embedding(cosines))  # [T, F] or [B, T, F]
        outputs: Tensor = self.streams(features.unsqueeze(1) * embedded, normals)  # [B, T, A, 1]
        return outputs.squeeze(-1).transpose(1, 2)


def midpoints(count: int) -> Tensor:
    """The midpoints [count] of `count` equal shares of [0, 1]."""
    return (torch.arange(count) + 0.5) / count


class QNetwork(nn.Module):
    """A torso and a head."""

    def __init__(self, torso: Torso, head: Head) -> None:
        super().__init__()
        self.torso, self.head = torso, head
        self._num_normals = sum(head.streams.num_normals)

    @property
    def users_own(self) -> nn.Module:
        """The module of the user's own that it stands on; without one it itself."""
        streams = self.head.streams
        return streams.module if isinstance(streams, CustomStreams) else self

    def forward(self, obs: Tensor, noise: Tensor | None = None) -> Outputs:
        """What the head says of `obs` [B, *obs_shape], with normal and then uniform numbers.

        `noise_sizes` says how many of them; without any it says what it has learned.
        """
        noise = obs.new_empty(0) if noise is None else noise
        normals, uniforms = noise[: self._num_normals], noise[self._num_normals :]
        outputs: Outputs = self.head(self.torso(obs), normals if len(normals) else None, uniforms)
        return outputs

    def on_numpy(
        self, arrays: Arrays, noise_rng: np.random.Generator | None = None
    ) -> QFunction | None:
        """Action values [N, A] of observations [N, *obs_shape], as torch computes them.

        With `noise_rng` noisy layers have new noise at each call. None if only torch can do it.
        """
        is_noisy = noise_rng is not None and self._num_normals > 0
        noise = np.empty(self._num_normals, np.float32) if is_noisy else None
        features = self.torso.on_numpy(arrays)
        streams = self.head.streams.on_numpy(arrays, noise)
        if features is None or streams is None:
            return None
        values = self.head.on_numpy(streams, arrays)
        if noise_rng is None or noise is None:
            return lambda obs: values(features(obs))

        def noisy_values(obs: Array) -> Array:
            noise_rng.standard_normal(out=noise, dtype=np.float32)
            noise_factors(noise)
            return values(features(obs))

        return noisy_values

    def noise_sizes(self, batch_size: int) -> list[NoiseSize]:
        """The noise that an update takes for the online, the target and the selecting network.

        The last is the online network that selects actions in double Q-learning.
        """
        of_online, of_target = self.head.num_uniforms
        return [
            NoiseSize(self._num_normals, batch_size * num_uniforms)
            for num_uniforms in (of_online, of_target, 0)
        ]


class NoiseSize(NamedTuple):
    """How many random numbers of either kind a call of a network takes."""

    normals: int
    uniforms: int


StreamsMaker = Callable[[int], Streams | CustomStreams]  # the number of outputs K for each action
HeadMaker = Callable[[StreamsMaker, int], Head]  # how to make streams, the number of features


def make_scalar_head(make_streams: StreamsMaker, num_features: int) -> Head:
    """One value for each action."""
    return ScalarHead(make_streams(1))


def make_network(
    spec: TorsoSpec,
    obs: ObsSpec,
    num_actions: int,
    make_head: HeadMaker = make_scalar_head,
) -> QNetwork:
    """The Q-network that `spec` describes; its `init` draws the weights of all layers.

    Raises ConfigError for observations that its torso cannot take.
    """
    torso = spec.torso(obs)

    def make_streams(num_outputs: int) -> Streams:
        return Streams(spec, torso.num_features, num_actions, num_outputs)

    network = QNetwork(torso, make_head(make_streams, torso.num_features))
    fill_weights(network, spec.init)
    return network
