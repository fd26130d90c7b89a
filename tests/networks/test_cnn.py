"""Convolutional torsos against the same layers in NumPy; what they make of an observation."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from building import CNNS, cnn
from numpy.lib.stride_tricks import sliding_window_view
from torch import nn

from dqn_runner.errors import ConfigError
from dqn_runner.networks.cnn import CNN, MinAtarCNNSpec, PatchConv2d, image_of
from dqn_runner.networks.heads import make_network
from dqn_runner.networks.init import initialize
from dqn_runner.types import ObsSpec

PLANES, HEIGHT, WIDTH = 6, 7, 8
FLOAT = np.dtype(np.float32)


@pytest.mark.parametrize(
    ("axes", "stack"),
    [
        ("hwc", 1),
        ("chw", 1),
        ("khw", 6),  # frames [H, W]
        ("khwc", 3),  # of two planes each
        ("khwc", 6),  # of one
        ("kchw", 3),
    ],
)
def test_planes_are_found_in_each_layout(axes, stack):
    """Each number says where in the image it belongs."""
    image = np.arange(PLANES * HEIGHT * WIDTH, dtype=np.float32).reshape(PLANES, HEIGHT, WIDTH)
    frames = image.reshape(stack, PLANES // stack, HEIGHT, WIDTH)  # [k, C, H, W]
    named = {"k": stack, "c": PLANES // stack, "h": HEIGHT, "w": WIDTH}
    obs = np.einsum(f"kchw->{axes}", frames) if "c" in axes else frames[:, 0]
    if stack == 1:
        obs = np.einsum(f"kchw->{axes}", frames)
    assert obs.shape == tuple(named[axis] for axis in axes)
    spec = ObsSpec(obs.shape, FLOAT, stack)
    torso = CNN(spec, MinAtarCNNSpec())
    seen: list[torch.Tensor] = []
    torso.layers[0].register_forward_hook(lambda layer, inputs, output: seen.extend(inputs))
    torso(torch.from_numpy(np.stack([obs, -obs])))
    assert torch.equal(seen[0], torch.from_numpy(np.stack([image, -image])))


@pytest.mark.parametrize(
    ("shape", "stack", "expected"),
    [
        ((84, 84), 1, (1, 84, 84)),
        ((10, 10, 4), 1, (4, 10, 10)),
        ((10, 10, 10), 1, (10, 10, 10)),  # [H, W, C]: Seaquest's
        ((4, 84, 84), 1, (4, 84, 84)),
        ((210, 160, 3), 1, (3, 210, 160)),
        ((4, 84, 84), 4, (4, 84, 84)),
        ((4, 64, 64, 3), 4, (12, 64, 64)),
        ((4,), 1, None),
        ((4, 9), 4, None),  # four frames of nine numbers
        ((2, 3, 4, 5), 1, None),
    ],
)
def test_planes_height_and_width(shape, stack, expected):
    image = image_of(ObsSpec(shape, FLOAT, stack))
    assert (image and image[:3]) == expected


def test_all_planes_of_the_oldest_frame_come_first():
    assert image_of(ObsSpec((2, 5, 6, 3), FLOAT, 2)) == (6, 5, 6, (1, 2, 0, 3))


def convolved(x, layer):
    """In double precision; x [B, C, H, W]."""
    weight, bias = (p.detach().numpy().astype(np.float64) for p in layer.parameters())
    margin, stride = layer.padding[0], layer.stride[0]
    x = np.pad(x, [(0, 0), (0, 0), (margin, margin), (margin, margin)])
    windows = sliding_window_view(x, weight.shape[2:], (2, 3))[:, :, ::stride, ::stride]
    return np.einsum("bchwij,ocij->bohw", windows, weight) + bias[:, None, None]


def normalized(x, layer):
    """Over all units of each row, with a scale and a shift for each plane."""
    scale, shift = (p.detach().numpy().astype(np.float64) for p in layer.parameters())
    axes = tuple(range(1, x.ndim))
    mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    x = (x - mean) / np.sqrt(variance + 1e-5)
    return x * scale[:, None, None] + shift[:, None, None]


def pooled(x):
    """The largest of each 3x3, every second one, with a margin of one."""
    x = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=-np.inf)
    return sliding_window_view(x, (3, 3), (2, 3))[:, :, ::2, ::2].max((4, 5))


def features_of(name, torso, x):
    """What the paper's layers make of x [B, C, H, W], with the torso's weights in their order."""
    convolutions = iter([m for m in torso.modules() if isinstance(m, nn.Conv2d)])
    norms = iter([m for m in torso.modules() if isinstance(m, nn.GroupNorm)])

    def active(x):
        norm = next(norms, None)
        return np.maximum(x if norm is None else normalized(x, norm), 0)

    if name == "impala_cnn":
        for _ in range(3):
            x = pooled(convolved(x, next(convolutions)))
            for _ in range(2):
                before = x
                for _ in range(2):
                    x = convolved(active(x), next(convolutions))
                x = x + before
        x = active(x)
    else:
        for convolution in convolutions:
            x = active(convolved(x, convolution))
    assert [*convolutions, *norms] == []
    return x.reshape(len(x), -1)


LAYERS = {
    "minatar_cnn": [(16, 3, 1)],
    "nature_cnn": [(32, 8, 4), (64, 4, 2), (64, 3, 1)],
    "impala_cnn": [(n, 3, 1) for n in (*[32] * 5, *[64] * 10)],
    "data_efficient_cnn": [(32, 5, 5), (64, 5, 5)],
}


@pytest.mark.parametrize("name", CNNS)
@pytest.mark.parametrize("norm", ["none", "layer_norm"])
def test_torsos_equal_their_papers_layers_in_numpy(name, norm):
    size: dict[str, Any] = {"width": 2} if name == "impala_cnn" else {}
    module = initialize(lambda: cnn(name, (41, 37, 2), 3, norm=norm, **size), 0)
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    torso = module.torso
    shapes = [
        (m.out_channels, m.kernel_size[0], m.stride[0])
        for m in torso.modules()
        if isinstance(m, nn.Conv2d)
    ]
    assert shapes == LAYERS[name]
    obs = np.random.default_rng(0).normal(size=(3, 41, 37, 2)).astype(np.float32)
    expected = features_of(name, torso, obs.transpose(0, 3, 1, 2).astype(np.float64))
    actual = torso(torch.from_numpy(obs)).detach().numpy()
    assert actual.shape == (3, torso.num_features)
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("name", "shape", "params"),
    [
        ("minatar_cnn", (10, 10, 4), 592 + 1024 * 128 + 128),
        ("nature_cnn", (4, 84, 84), 8_224 + 32_832 + 36_928 + 3136 * 512 + 512),
        ("data_efficient_cnn", (4, 84, 84), 3_232 + 51_264 + 576 * 256 + 256),
        ("impala_cnn", (4, 84, 84), 592 + 4 * 2_320 + 4_640 + 9 * 9_248 + 3872 * 256 + 256),
    ],
)
def test_default_sizes_are_those_of_the_papers(name, shape, params):
    spec = CNNS[name].model_validate({"name": name})
    network = make_network(spec, ObsSpec(shape, FLOAT), 6)
    outputs = 6 * spec.sizes["hidden_size"] + 6
    assert sum(p.numel() for p in network.parameters()) == params + outputs


@pytest.mark.parametrize("name", CNNS)
@pytest.mark.parametrize(("dtype", "largest"), [(np.uint8, 255), (bool, 1), (np.float32, 1)])
def test_bytes_are_scaled_and_truth_values_are_0_or_1(name, dtype, largest):
    module = cnn(name, (36, 36, 2), 3)
    obs = np.random.default_rng(0).integers(2, size=(5, 36, 36, 2)) * largest
    scaled = torch.from_numpy((obs / largest).astype(np.float32))
    actual = module(torch.from_numpy(obs.astype(dtype))).q_values
    assert torch.equal(actual, module(scaled).q_values)


@pytest.mark.parametrize(
    ("name", "shape", "stack", "line"),
    [
        ("nature_cnn", (4,), 1, "needs images, [H, W] or [H, W, C], and gets observations of shap"),
        ("minatar_cnn", (4, 9), 4, "needs images, [H, W] or [H, W, C], and gets frames of shape ["),
        ("minatar_cnn", (2, 9), 1, "its layer 1 needs 3x3 or more, and gets 2x9 of an image of 2x"),
        ("nature_cnn", (10, 10, 4), 1, "its layer 2 needs 4x4 or more, and gets 1x1 of an image o"),
        ("nature_cnn", (35, 84), 1, "its layer 3 needs 3x3 or more, and gets 2x9 of an image of "),
        ("data_efficient_cnn", (24, 30), 1, "its layer 2 needs 5x5 or more, and gets 4x6 of an im"),
    ],
)
def test_what_a_torso_cannot_take_is_refused(name, shape, stack, line):
    with pytest.raises(ConfigError) as caught:
        cnn(name, shape, 3, stack=stack)
    assert str(caught.value).startswith(f"network.name={name}: {line}")


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (3, 3, 1)])
def test_impala_takes_images_of_any_size(shape):
    module = cnn("impala_cnn", shape, 3)
    assert module(torch.zeros(2, *shape)).q_values.shape == (2, 3)


@pytest.mark.parametrize("name", CNNS)
def test_bfloat16_rounds_the_convolutions_alone(name):
    """Eight bits of precision, of numbers that are added up in float32 or rounded once a layer."""
    make = functools.partial(cnn, name, (36, 36, 2), 3, norm="layer_norm")
    full = initialize(make, 0)
    rounded = initialize(functools.partial(make, precision="bfloat16"), 0)
    obs = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 36, 36, 2)).astype(np.float32))
    expected, actual = full.torso(obs), rounded.torso(obs)
    assert actual.dtype == torch.float32
    assert 1e-4 < (actual - expected).abs().max() / expected.abs().max() < 0.05
    assert torch.equal(rounded.head.streams(expected), full.head.streams(expected))


@pytest.mark.parametrize("stride", [1, 2])
def test_a_product_of_patches_is_a_convolution(stride):
    """As torch computes it, and so is its gradient."""
    generator = torch.Generator().manual_seed(stride)
    images = torch.randn(5, 4, 10, 9, generator=generator)
    ours = PatchConv2d(4, 16, 3, stride)
    theirs = torch.nn.Conv2d(4, 16, 3, stride)
    theirs.load_state_dict(ours.state_dict())
    factors = torch.randn(theirs(images).shape, generator=generator)
    gradients = []
    for layer in (ours, theirs):
        (layer(images) * factors).sum().backward()
        gradients.append([parameter.grad for parameter in layer.parameters()])
    torch.testing.assert_close(ours(images), theirs(images))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)
