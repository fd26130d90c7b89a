"""A network as a pure function of one flat parameter vector."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from dqn_runner.errors import ConfigError, RunFailedError, failing_as
from dqn_runner.networks.heads import NoiseSize, QNetwork
from dqn_runner.types import Array, Outputs, QFunction

# Weights [out, in] of more numbers than this are kept by columns: on a CPU a small batch takes half
# the time forward through 128 x 1024 of them, and as long as through rows on the way back.
MOST_BY_ROWS = 2**16


class FlatNetwork:
    """A network as a pure function of its parameters [P] and its buffers.

    One vector makes the optimizer, the clipping, the target update and the checkpoint work on a
    single tensor. Large weights of our own networks lie in it by columns; what is saved has all of
    them by rows. Buffers keep their shapes and types; an update reads them and never writes them.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module.requires_grad_(False)
        self._num_normals = self._noise_sizes(0)[0].normals
        self._takes_noise = any(map(any, self._noise_sizes(1)))
        named = module.users_own if isinstance(module, QNetwork) else module
        self._failure = f"the network {type(named).__name__} failed"
        # Whether it was made here, and computes the same in training and in evaluation mode.
        self.is_ours = isinstance(module, QNetwork) and named is module
        parameters = dict(module.named_parameters())
        self._names = [*parameters, *(name for name, _ in module.named_buffers())]
        self._shapes = [parameter.shape for parameter in parameters.values()]
        self._sizes = [parameter.numel() for parameter in parameters.values()]
        self._are_by_columns = [self.is_ours and _is_large(shape) for shape in self._shapes]
        self.initial_params = self.from_rows(torch.cat([p.flatten() for p in parameters.values()]))
        self._no_noise = self.initial_params.new_empty(0)
        self.buffers: tuple[Tensor, ...] = tuple(module.buffers())

    def __call__(
        self, params: Tensor, buffers: Sequence[Tensor], obs: Tensor, noise: Tensor | None = None
    ) -> Outputs:
        """What the network says of `obs` [B, *obs_shape] in training mode.

        A network that takes noise gets `noise` [Z] as its second argument. Raises RunFailedError
        for whatever the module raises, which may be the user's own.
        """
        if not self._module.training:
            self._module.train()
        tensors = dict(zip(self._names, [*self._split(params), *buffers], strict=True))
        arguments = (obs,) if noise is None or noise.numel() == 0 else (obs, noise)
        with failing_as(RunFailedError, self._failure):
            outputs = functional_call(self._module, tensors, arguments)
        return outputs if isinstance(outputs, Outputs) else Outputs(outputs)

    @property
    def has_weight_noise(self) -> bool:
        """Whether it acts with noise on its weights."""
        return self._num_normals > 0

    @property
    def last_layers(self) -> slice:
        """Where in the parameters [P] those of the head's streams are, side by side.

        They are the last hidden layer and the outputs; all layers of a network of the user's own.
        """
        inside = [name.startswith("head.streams.") for name in self._names[: len(self._sizes)]]
        ends = list(itertools.accumulate(self._sizes, initial=0))
        first = inside.index(True)
        return slice(ends[first], ends[first + sum(inside)])

    def buffer(self, name: str, buffers: Sequence[Tensor]) -> Tensor | None:
        """The one of `buffers` that the module has under `name`; None if it has none."""
        names = self._names[-len(buffers) :] if buffers else []
        return buffers[names.index(name)] if name in names else None

    def draw_noise(self, rng: np.random.Generator, batch_size: int) -> Tensor:
        """The noise [Z] of an update: that of each call in turn, normal and then uniform numbers.

        Z is 0 for a network that takes none.
        """
        if not self._takes_noise:
            return self._no_noise
        sizes = self._noise_sizes(batch_size)
        noise = np.empty(sum(map(sum, sizes)), np.float32)
        rest = noise
        for size in sizes:
            rng.standard_normal(out=rest[: size.normals], dtype=np.float32)
            rng.random(out=rest[size.normals : sum(size)], dtype=np.float32)
            rest = rest[sum(size) :]
        return torch.from_numpy(noise).to(self.initial_params.device)

    def draw_weight_noise(self, rng: np.random.Generator) -> Tensor:
        """The noise of acting once: normal numbers [Z], none for a network without noisy layers."""
        normals = rng.standard_normal(self._num_normals, np.float32)
        return torch.from_numpy(normals).to(self.initial_params.device)

    def split_noise(self, noise: Tensor, batch_size: int) -> Sequence[Tensor]:
        """The noise of the online, of the target and of the selecting network."""
        return torch.split(noise, [sum(size) for size in self._noise_sizes(batch_size)])

    def _noise_sizes(self, batch_size: int) -> list[NoiseSize]:
        if isinstance(self._module, QNetwork):
            return self._module.noise_sizes(batch_size)
        return [NoiseSize(0, 0)] * 3

    def _split(self, params: Tensor) -> list[Tensor]:
        return [
            piece.view(shape[::-1]).t() if by_columns else piece.view(shape)
            for piece, shape, by_columns in self._pieces(params, self._shapes)
        ]

    def by_rows(self, params: Tensor) -> Tensor:
        """A copy of `params`, or of other numbers [..., P] in their order, with weights by rows."""
        return self._transposed(params, [shape[::-1] for shape in self._shapes])

    def from_rows(self, numbers: Tensor) -> Tensor:
        """A copy of what `by_rows` returned, `numbers` [..., P], in the order of parameters."""
        return self._transposed(numbers, self._shapes)

    def _transposed(self, numbers: Tensor, shapes: Sequence[torch.Size]) -> Tensor:
        """`numbers` [..., P] with the large matrices, which have these `shapes`, transposed."""
        pieces = [
            piece.reshape(*piece.shape[:-1], *shape).transpose(-1, -2).flatten(-2)
            if by_columns
            else piece
            for piece, shape, by_columns in self._pieces(numbers, shapes)
        ]
        return torch.cat(pieces, dim=-1)

    def _pieces(
        self, numbers: Tensor, shapes: Sequence[torch.Size]
    ) -> Iterator[tuple[Tensor, torch.Size, bool]]:
        """The numbers [..., n] of each parameter, its shape, and whether it lies by columns."""
        pieces = torch.split(numbers, self._sizes, dim=-1)
        return zip(pieces, shapes, self._are_by_columns, strict=True)

    def on_arrays(
        self,
        params: Tensor,
        buffers: Sequence[Tensor],
        noise_rng: np.random.Generator | None = None,
    ) -> QFunction:
        """The network in evaluation mode on NumPy observations.

        It follows `params` and `buffers` as they change in place. With `noise_rng` a noisy network
        has noise on its weights, new at each call.
        """
        on_numpy = self.on_numpy(params, buffers, noise_rng)
        if on_numpy is not None:
            return on_numpy
        module = _Holding(self._module, self._tensors_of(params, buffers))

        @torch.no_grad()
        def q_values(obs: Array) -> Array:
            arguments = [torch.from_numpy(obs).to(params.device)]
            if noise_rng is not None and self._num_normals:
                arguments.append(self.draw_weight_noise(noise_rng))
            with failing_as(RunFailedError, self._failure):
                outputs = module(*arguments)
            values: Tensor = outputs.q_values if isinstance(outputs, Outputs) else outputs
            result: Array = values.cpu().numpy()
            return result

        return q_values

    def on_numpy(
        self,
        params: Tensor,
        buffers: Sequence[Tensor],
        noise_rng: np.random.Generator | None = None,
    ) -> QFunction | None:
        """The same without torch, which is faster for small networks; None if only torch can."""
        if params.device.type != "cpu" or not isinstance(self._module, QNetwork):
            return None
        tensors = self._tensors_of(params, buffers)
        arrays = {of_module: tensor.numpy() for of_module, tensor in tensors.items()}
        return self._module.on_numpy(arrays, noise_rng)

    def _tensors_of(self, params: Tensor, buffers: Sequence[Tensor]) -> dict[Tensor, Tensor]:
        """The pieces of `params` and `buffers` that stand for the module's own tensors."""
        own = [*self._module.parameters(), *self._module.buffers()]
        return dict(zip(own, [*self._split(params), *buffers], strict=True))


def _is_large(shape: torch.Size) -> bool:
    return len(shape) == 2 and shape.numel() > MOST_BY_ROWS


class _Holding:
    """A module in evaluation mode that is called with other tensors in place of its own.

    This is `functional_call` with its preparations made once: for one observation they take about
    as long as a small network.
    """

    def __init__(self, module: nn.Module, tensors: Mapping[Tensor, Tensor]) -> None:
        self._module = module
        self._places: list[tuple[dict[str, Any], str, Tensor, Tensor]] = [
            (held, name, own, tensors[own])
            for part in module.modules()
            for held in (part._parameters, part._buffers)
            for name, own in held.items()
            if own is not None
        ]

    def __call__(self, *arguments: Tensor) -> Any:
        if self._module.training:
            self._module.eval()
        for held, name, _, tensor in self._places:
            held[name] = tensor
        try:
            return self._module(*arguments)
        finally:
            for held, name, own, _ in self._places:
                held[name] = own


def check_pure(module: nn.Module, obs: Tensor, where: str) -> Any:
    """Refuse a network whose forward pass on `obs` [B, *obs_shape] does more than compute.

    Returns what it computes. An update is a pure function: it can neither keep running statistics
    nor draw random numbers. Raises ConfigError, which begins with `where` and names the layer.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            raise ConfigError(
                f"{where}: layer {name} ({type(layer).__name__}) normalizes over the batch and "
                "keeps running statistics, which an update cannot do; use torch.nn.LayerNorm or "
                "torch.nn.GroupNorm"
            )
    copies = {name: buffer.clone() for name, buffer in module.named_buffers()}
    generator = torch.get_rng_state()
    module.train()
    with failing_as(RunFailedError, f"the network {type(module).__name__} failed"), torch.no_grad():
        outputs = functional_call(module, copies, (obs,))
    for name, buffer in module.named_buffers():
        if not torch.equal(buffer, copies[name]):
            path, _, kept = name.rpartition(".")
            layer = module.get_submodule(path)
            raise ConfigError(
                f"{where}: layer {path or 'itself'} ({type(layer).__name__}) changes its buffer "
                f"{kept} in its forward pass, which an update cannot do; keep the buffer constant, "
                "or make it a parameter"
            )
    if not torch.equal(generator, torch.get_rng_state()):
        torch.set_rng_state(generator)
        drops = [n for n, layer in module.named_modules() if isinstance(layer, _DROPOUTS)]
        raise ConfigError(
            f"{where}: {f'layer {drops[0]}' if drops else 'its forward pass'} draws random "
            "numbers, which an update cannot do; leave it out, or keep the numbers in a buffer"
        )
    return outputs


_DROPOUTS = (nn.modules.dropout._DropoutNd,)
