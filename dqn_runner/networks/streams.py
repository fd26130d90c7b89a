"""Streams: from a torso's features [B, F] to K outputs for each action [B, A, K]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from dqn_runner.networks.noisy import NoisyLinear
from dqn_runner.networks.numpy_mlp import ArrayFunction, Arrays, in_turn, linear
from dqn_runner.networks.torsos import TorsoSpec
from dqn_runner.types import Array


class Stream(nn.Module):
    """A hidden layer and the outputs; both are noisy if the network is."""

    def __init__(self, spec: TorsoSpec, num_features: int, num_outputs: int) -> None:
        super().__init__()
        first, *others = spec.hidden(num_features)
        assert isinstance(first, nn.Linear)
        last = nn.Linear(first.out_features, num_outputs)
        self.hidden = first if spec.noisy is None else NoisyLinear(first, spec.noisy)
        self.others = nn.Sequential(*others)
        self.outputs = last if spec.noisy is None else NoisyLinear(last, spec.noisy)

    @property
    def num_normals(self) -> list[int]:
        """The normal numbers that the noise of each layer takes; none without noise."""
        layers = (self.hidden, self.outputs)
        return [layer.num_normals for layer in layers if isinstance(layer, NoisyLinear)]

    def forward(self, features: Tensor, *normals: Tensor) -> Tensor:
        """Outputs [..., num_outputs] of `features` [..., F], with the noise of each layer."""
        of_hidden, of_outputs = ((tensor,) for tensor in normals) if normals else ((), ())
        x = self.others(self.hidden(features, *of_hidden))
        outputs: Tensor = self.outputs(x, *of_outputs)
        return outputs

    def on_numpy(self, arrays: Arrays, factors: Sequence[Array]) -> ArrayFunction:
        """The stream on NumPy arrays, with the noise factors of each layer."""
        of_layers = iter(factors)
        hidden, last = (
            layer.on_numpy(arrays, next(of_layers, None))
            if isinstance(layer, NoisyLinear)
            else linear(layer, arrays)
            for layer in (self.hidden, self.outputs)
        )
        others = in_turn(self.others, arrays)
        return lambda features: last(others(hidden(features)))


class Streams(nn.Module):
    """From features [..., F] to K outputs for each action, by one stream or by two.

    With `spec.dueling` there is one for the value V of a state and one for the advantages A of
    actions; an output is V + A less the mean of A over actions (Wang et al. 2016, eq. 9), for
    distributions output by output (Hessel et al. 2018, section 3).
    """

    def __init__(
        self, spec: TorsoSpec, num_features: int, num_actions: int, num_outputs: int
    ) -> None:
        super().__init__()
        self.shape = (num_actions, num_outputs)
        self.value = Stream(spec, num_features, num_outputs) if spec.dueling else None
        self.actions = Stream(spec, num_features, num_actions * num_outputs)

    @property
    def num_normals(self) -> list[int]:
        """The normal numbers that the noise of each layer takes."""
        return [*(self.value.num_normals if self.value else []), *self.actions.num_normals]

    def forward(self, features: Tensor, normals: Tensor | None = None) -> Tensor:
        """Outputs [..., A, K] of `features` [..., F]; without `normals` without noise."""
        noise = [] if normals is None else list(torch.split(normals, self.num_normals))
        outputs: Tensor = self.actions(features, *noise[-2:]).unflatten(-1, self.shape)
        if self.value is None:
            return outputs
        value = self.value(features, *noise[:-2]).unsqueeze(-2)
        dueling: Tensor = value + outputs - outputs.mean(dim=-2, keepdim=True)
        return dueling

    def on_numpy(self, arrays: Arrays, factors: Array | None) -> ArrayFunction:
        """Outputs [N, A·K] of features [N, F] on NumPy arrays, with noise made of `factors`."""
        noise = [] if factors is None else np.split(factors, np.cumsum(self.num_normals)[:-1])
        of_actions = self.actions.on_numpy(arrays, noise[-2:])
        if self.value is None:
            return of_actions
        of_state = self.value.on_numpy(arrays, noise[:-2])
        num_actions = self.shape[0]

        def dueling(features: Array) -> Array:
            flat = of_actions(features)
            outputs = flat.reshape(len(flat), *self.shape)
            value = of_state(features) - np.add.reduce(outputs, axis=1) / num_actions
            outputs += value[:, None]
            return flat

        return dueling


class CustomStreams(nn.Module):
    """A network of the user's own, with K outputs for each action as if these were actions."""

    num_normals: tuple[int, ...] = ()

    def __init__(self, module: nn.Module, num_actions: int, num_outputs: int) -> None:
        super().__init__()
        self.module, self.shape = module, (num_actions, num_outputs)

    def forward(self, obs: Tensor, normals: None = None) -> Tensor:
        """Outputs [B, A, K] of `obs` [B, *obs_shape]."""
        outputs: Tensor = self.module(obs).unflatten(-1, self.shape)
        return outputs

    def on_numpy(self, arrays: Arrays, factors: Array | None) -> None:
        """Only torch has it."""
