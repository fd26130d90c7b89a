"""A network as a pure function of one flat vector of parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dqn_runner.errors import RunFailedError, failing_as
from dqn_runner.networks.numpy_mlp import QFunction
from dqn_runner.networks.torsos import MLP
from dqn_runner.types import Array


class FlatNetwork:
    """A network as a pure function of one flat parameter vector [P].

    One vector makes the optimiser, the clipping, the target update and the checkpoint work on a
    single tensor.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module.requires_grad_(False)
        self._what = f"the network {type(module).__name__} failed"
        named = list(module.named_parameters())
        self._names = [name for name, _ in named]
        self._shapes = [parameter.shape for _, parameter in named]
        self._sizes = [parameter.numel() for _, parameter in named]
        self.initial_params = torch.cat([parameter.flatten() for _, parameter in named])

    def __call__(self, params: Tensor, obs: Tensor) -> Tensor:
        """Action values [B, A] of `obs` [B, *obs_shape] under `params` [P].

        Raises RunFailedError for whatever the module raises, which may be the user's own.
        """
        views = dict(zip(self._names, self._split(params), strict=True))
        with failing_as(RunFailedError, self._what):
            q_values: Tensor = functional_call(self._module, views, (obs,))
        return q_values

    def _split(self, params: Tensor) -> list[Tensor]:
        pieces = torch.split(params, self._sizes)
        return [piece.view(shape) for piece, shape in zip(pieces, self._shapes, strict=True)]

    def on_arrays(self, params: Tensor) -> QFunction:
        """The network on NumPy observations, following `params` as they change in place."""
        if params.device.type == "cpu" and type(self._module) is MLP:
            return self._module.numpy_forward([piece.numpy() for piece in self._split(params)])

        @torch.no_grad()
        def q_values(obs: Array) -> Array:
            result: Array = self(params, torch.from_numpy(obs).to(params.device)).cpu().numpy()
            return result

        return q_values
