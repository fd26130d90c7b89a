"""Torsos of convolutions: from images [B, *obs_shape] to features [B, F]."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from dqn_runner.errors import ConfigError
from dqn_runner.networks.torsos import Norm, Torso, TorsoSpec, scaled
from dqn_runner.spec import PositiveInt
from dqn_runner.types import ObsSpec


class Image(NamedTuple):
    """An observation as planes."""

    planes: int
    height: int
    width: int
    axes: tuple[int, ...]  # of the observation: H, W, then those of planes, if there are any


def image_of(obs: ObsSpec) -> Image | None:
    """How `obs` is read as an image; None if it is none.

    A frame is [H, W], [H, W, C], or [C, H, W] if its first axis is shorter than its last one.
    Stacked frames [k, ...] become the planes of one image, the oldest first.
    """
    stacks = len(obs.shape) - len(obs.frame_shape)
    axes = list(range(stacks, len(obs.shape)))
    if len(axes) not in {2, 3}:
        return None
    if len(axes) == 3 and obs.frame_shape[0] < obs.frame_shape[2]:
        axes = [*axes[1:], axes[0]]
    height, width, *planes = axes
    axes = [height, width, *range(stacks), *planes]
    shape = [obs.shape[axis] for axis in axes]
    return Image(math.prod(shape[2:]), shape[0], shape[1], tuple(axes))


class CNNSpec(TorsoSpec, ABC):
    """Convolutions that all outputs share, then one fully connected hidden layer, with ReLU."""

    name: str
    """The kind of network."""
    hidden_size: PositiveInt
    """Units of the hidden layer after the convolutions."""
    norm: Norm = "none"
    """Normalization before each activation."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Numbers of the convolutions; bfloat16 is faster for large images on some processors."""

    @property
    def sizes(self) -> dict[str, Any]:
        """The units of the hidden layer."""
        return {"hidden_size": self.hidden_size}

    @abstractmethod
    def convolutions(self, planes: int) -> list[nn.Module]:
        """The layers up to the features, for images of so many planes."""

    def torso(self, obs: ObsSpec) -> CNN:
        """The convolutions; raises ConfigError if `obs` is no image, or too small a one."""
        return CNN(obs, self)

    def hidden(self, num_features: int) -> list[nn.Module]:
        """The hidden layer."""
        norm = [nn.LayerNorm(self.hidden_size)] if self.norm == "layer_norm" else []
        return [nn.Linear(num_features, self.hidden_size), *norm, nn.ReLU()]

    def activation(self, planes: int) -> list[nn.Module]:
        """ReLU, and a norm before it if there is one.

        That is over all units of each row (Ba et al. 2016, section 3), with a scale and a shift for
        each plane.
        """
        return [*([nn.GroupNorm(1, planes)] if self.norm == "layer_norm" else []), nn.ReLU()]

    def stack_of(self, planes: int, *layers: tuple[int, int, int]) -> list[nn.Module]:
        """Convolutions of (planes, kernel's width, stride), each with its activation."""
        modules: list[nn.Module] = []
        for planes_out, kernel, stride in layers:
            modules += [nn.Conv2d(planes, planes_out, kernel, stride), *self.activation(planes_out)]
            planes = planes_out
        return modules


class MinAtarCNNSpec(CNNSpec):
    """For MinAtar's images of 10x10 (Young and Tian 2019)."""

    name: Literal["minatar_cnn"] = "minatar_cnn"
    """The kind of network."""
    hidden_size: PositiveInt = 128
    """Units of the hidden layer after the convolutions."""

    def convolutions(self, planes: int) -> list[nn.Module]:
        """One layer of 16 planes."""
        return [PatchConv2d(planes, 16, 3), *self.activation(16)]


class PatchConv2d(nn.Conv2d):
    """A convolution as one product: of the patches of all images, and the weights.

    For MinAtar's small images this is faster, and so is a product for each of several runs.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The planes [B, C_out, H_out, W_out] of images `x` [B, C, H, W]."""
        assert self.bias is not None
        (kernel, _), (stride, _), planes = self.kernel_size, self.stride, self.in_channels
        last = x.shape[2] - kernel  # the last row in which a patch begins
        rows = x.movedim(1, -1).flatten(2)  # [B, H, W * C], planes last, as they are in memory
        rows = rows.unfold(2, kernel * planes, stride * planes)  # [B, H, W_out, k * C]
        patches = torch.cat([rows[:, i : i + last + 1 : stride] for i in range(kernel)], 3)
        weight = self.weight.movedim(1, -1).flatten(1)
        outputs = patches @ weight.t() + self.bias  # [B, H_out, W_out, C_out]
        return outputs.movedim(3, 1).contiguous()


class NatureCNNSpec(CNNSpec):
    """For Atari's images of 84x84 (Mnih et al. 2015, methods, "Model architecture")."""

    name: Literal["nature_cnn"] = "nature_cnn"
    """The kind of network."""
    hidden_size: PositiveInt = 512
    """Units of the hidden layer after the convolutions."""

    def convolutions(self, planes: int) -> list[nn.Module]:
        """Three layers."""
        return self.stack_of(planes, (32, 8, 4), (64, 4, 2), (64, 3, 1))


class DataEfficientCNNSpec(CNNSpec):
    """A small one for Atari's images of 84x84 (van Hasselt et al. 2019)."""

    name: Literal["data_efficient_cnn"] = "data_efficient_cnn"
    """The kind of network."""
    hidden_size: PositiveInt = 256
    """Units of the hidden layer after the convolutions."""

    def convolutions(self, planes: int) -> list[nn.Module]:
        """Two layers."""
        return self.stack_of(planes, (32, 5, 5), (64, 5, 5))


class ImpalaCNNSpec(CNNSpec):
    """The large network of IMPALA without its LSTM (Espeholt et al. 2018, figure 3, right)."""

    name: Literal["impala_cnn"] = "impala_cnn"
    """The kind of network."""
    hidden_size: PositiveInt = 256
    """Units of the hidden layer after the convolutions."""
    width: PositiveInt = 1
    """Factor on the planes of all convolutions."""

    @property
    def sizes(self) -> dict[str, Any]:
        """The factor, and the units of the hidden layer."""
        return {"width": self.width, "hidden_size": self.hidden_size}

    def convolutions(self, planes: int) -> list[nn.Module]:
        """Three sections, each a convolution, a max pooling and two residual blocks."""
        modules: list[nn.Module] = []
        for planes_out in (16 * self.width, 32 * self.width, 32 * self.width):
            blocks = [Residual(self, planes_out) for _ in range(2)]
            pool = nn.MaxPool2d((3, 3), (2, 2), (1, 1))
            modules += [nn.Conv2d(planes, planes_out, 3, padding=1), pool, *blocks]
            planes = planes_out
        return [*modules, *self.activation(planes)]


class Residual(nn.Module):
    """A residual block of IMPALA: two convolutions, each after its activation, plus the input."""

    def __init__(self, spec: ImpalaCNNSpec, planes: int) -> None:
        super().__init__()
        first, second = (
            [*spec.activation(planes), nn.Conv2d(planes, planes, 3, padding=1)] for _ in range(2)
        )
        self.layers = nn.Sequential(*first, *second)

    def forward(self, x: Tensor) -> Tensor:
        """As large an output [B, C, H, W] as the input `x`."""
        outputs: Tensor = x + self.layers(x)
        return outputs


class CNN(Torso):
    """Convolutions on the planes of an image, flattened."""

    def __init__(self, obs: ObsSpec, spec: CNNSpec) -> None:
        super().__init__()
        image = image_of(obs)
        if image is None:
            what = "frames" if obs.stack > 1 else "observations"
            raise ConfigError(
                f"network.name={spec.name}: needs images, [H, W] or [H, W, C], and gets {what} of "
                f"shape {list(obs.frame_shape)}; network=mlp takes any"
            )
        self._image, self._in_bfloat16 = image, spec.precision == "bfloat16"
        self.layers = nn.Sequential(*spec.convolutions(image.planes))
        self.num_features = _num_outputs(self.layers, image, spec.name)

    def forward(self, obs: Tensor) -> Tensor:
        """Features [B, F] of `obs` [B, *obs_shape]."""
        planes, height, width, axes = self._image
        x = scaled(obs).permute(0, *(axis + 1 for axis in axes))
        # Channels last in memory: on a CPU nature_cnn's update takes 0.93 times as long.
        x = x.reshape(len(obs), height, width, planes).contiguous().movedim(3, 1)
        if not self._in_bfloat16 or x.is_meta:  # shapes alone have no precision
            return self._features(x)
        with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):
            return self._features(x).to(x.dtype)

    def _features(self, x: Tensor) -> Tensor:
        features: Tensor = self.layers(x)
        return features.flatten(1)


def _num_outputs(layers: nn.Module, image: Image, name: str) -> int:
    """The numbers that `layers` make of an image; raises ConfigError if it is too small."""
    size, planes = [image.height, image.width], image.planes
    windows: list[Any] = [
        layer for layer in layers.modules() if isinstance(layer, nn.Conv2d | nn.MaxPool2d)
    ]
    for number, layer in enumerate(windows, 1):
        kernel, stride, padding = layer.kernel_size[0], layer.stride[0], layer.padding[0]
        if min(size) + 2 * padding < kernel:
            needed = kernel - 2 * padding
            raise ConfigError(
                f"network.name={name}: its layer {number} needs {needed}x{needed} or more, and "
                f"gets {size[0]}x{size[1]} of an image of {image.height}x{image.width}"
            )
        size = [(length + 2 * padding - kernel) // stride + 1 for length in size]
        planes = layer.out_channels if isinstance(layer, nn.Conv2d) else planes
    return planes * size[0] * size[1]
