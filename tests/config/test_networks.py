"""Which network goes with which observations, in words and in bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pictures import images
from torch import nn

from dqn_runner.buffers.frames import FrameStorage
from dqn_runner.buffers.rows import RowStorage
from dqn_runner.config import memory
from dqn_runner.config.networks import build_network, unsuited
from dqn_runner.envs.make import make_env, obs_spec_of
from dqn_runner.errors import ConfigError
from dqn_runner.networks.torsos import MLPSpec
from dqn_runner.types import EnvStep, ObsSpec, Transition

FLOAT, BYTE, BOOL = np.dtype(np.float32), np.dtype(np.uint8), np.dtype(bool)
CPU = torch.device("cpu")
TORSOS = ("minatar_cnn", "nature_cnn", "impala_cnn", "data_efficient_cnn")


@pytest.mark.parametrize(
    ("shape", "dtype", "stack", "suggestion"),
    [
        ((10, 10, 4), BOOL, 1, "minatar_cnn"),
        ((35, 84, 3), BYTE, 1, "minatar_cnn"),
        ((36, 36), BYTE, 1, "nature_cnn"),
        ((4, 84, 84), BYTE, 4, "nature_cnn"),
        ((210, 160, 3), BYTE, 1, "nature_cnn"),
        ((64, 64, 3), FLOAT, 1, "nature_cnn"),
        ((2, 2, 3), BYTE, 1, None),  # too small for any
        ((8, 8), FLOAT, 1, None),  # a matrix of numbers
        ((128,), BYTE, 1, None),  # Atari's memory
        ((4, 128), BYTE, 4, None),
        ((4,), FLOAT, 1, None),
    ],
)
def test_an_image_beside_an_mlp_gets_a_suggestion(shape, dtype, stack, suggestion):
    spec = MLPSpec(hidden_sizes=[8], activation="relu")
    lines = list(unsuited(spec, ObsSpec(shape, dtype, stack)))
    assert [line.split("; ")[1].split()[0] for line in lines] == (
        [f"network={suggestion}"] if suggestion else []
    )


@pytest.mark.parametrize("network", ["mlp", "minatar_cnn", "data_efficient_cnn"])
def test_a_run_on_images_warns_only_of_an_mlp(train, caplog, network):
    shape = [12, 12, 2] if network in {"mlp", "minatar_cnn"} else [36, 36]
    train(
        "run", *images(shape), f"network={network}",
        "total_timesteps=60", "eval.interval=60", "network.noisy=0.5", "epsilon=fixed",
        "epsilon.value=0",
    )  # fmt: skip
    warned = [r.getMessage() for r in caplog.records if r.name == "dqn_runner.config.build"]
    assert warned == (
        ["network=mlp: flattens images of 12x12; network=minatar_cnn looks at neighboring pixels "
         "together, and learns more from them"] if network == "mlp" else []
    )  # fmt: skip


def counted(part: nn.Module) -> list[int]:
    """The outputs of each layer of `part`, once that is called."""
    counts: list[int] = []
    for layer in part.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.register_forward_hook(lambda *call: counts.append(call[-1].numel()))
    return counts


@pytest.mark.parametrize("network", TORSOS)
@pytest.mark.parametrize(
    ("agent", "precision"), [("dqn", "float32"), ("iqn", "float32"), ("dqn", "bfloat16")]
)
def test_memory_is_that_of_the_convolutions_too(compose, network, agent, precision):
    """Against the layers as they are called, and the parameters as they are built."""
    config = compose(
        *images([40, 40, 3]), f"network={network}",
        f"agent={agent}", f"network.precision={precision}", "batch_size=10",
    )  # fmt: skip
    env = make_env(config.env)
    built = build_network(config, env, 0, CPU)
    *of_network, batch, _ = memory.needed_memory(config, env).values()
    assert sum(of_network) == 4 * memory.VECTORS * len(built.initial_params)
    module: Any = built._module
    torso, head = counted(module.torso), counted(module.head)
    module(torch.zeros(1, 40, 40, 3, dtype=torch.uint8))
    if agent == "iqn":  # acting takes fewer τ than an update
        spec = config.agent
        share = 1 + max(spec.num_tau, spec.num_tau_next) / spec.num_tau_act
        head = [round(count * share) for count in head]
    assert batch == 4 * memory.COPIES * (40 * 40 * 3 + sum(torso) + sum(head)) * 10


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["network=nature_cnn"], "network.name=nature_cnn: needs images, "),
        (
            [*images([12, 12, 2]), "network=nature_cnn"],
            "network.name=nature_cnn: its layer 2 needs 4x4 or more, and gets 2x2 of an image of "
            "12x12",
        ),
        (
            [*images([12, 12, 2]), "network=minatar_cnn", f"network.hidden_size={10**30}"],
            "network.hidden_size=1000000",
        ),
        (
            [*images([12, 12, 2]), "network=impala_cnn", "network.width=10000000"],
            "network.width=10000000, network.hidden_size=256: takes ",
        ),
    ],
)
def test_a_network_that_cannot_be_is_named(compose, overrides, line):
    config = compose(*overrides)
    with pytest.raises(ConfigError) as caught:
        memory.check_memory(config, make_env(config.env), CPU)
    assert str(caught.value).startswith(line)


class AnyOf(nn.Module):
    """Whether one of the truth values holds; fails for what is none."""

    def __init__(self, obs_shape: tuple[int, ...], num_actions: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(num_actions))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        held = obs.flatten(1) & torch.ones(1, dtype=torch.bool)
        return held.any(1, keepdim=True) * self.scale


@pytest.mark.parametrize("storage", ["frames", "rows"])
def test_a_network_of_the_users_own_learns_from_the_type_that_it_acts_on(compose, storage):
    own = ("~network", f"+network.name={__name__}:AnyOf")
    config = compose("env=minatar/breakout", *own, "agent=dqn")
    env = make_env(config.env)
    network = build_network(config, env, 0, CPU)
    kind = {"frames": FrameStorage, "rows": RowStorage}[storage]
    sizes: dict[str, Any] = {"num_envs": 1, "n_step": 1} if storage == "frames" else {}
    kept = kind(3, obs_spec_of(config.env, env), CPU, **sizes)
    dark, lit = np.zeros((1, 10, 10, 4), bool), np.zeros((1, 10, 10, 4), bool)
    lit[0, 3, 3, 0] = True
    step = kept.keep(EnvStep(dark, [0], [0.0], [False], [False], lit, []))
    kept.add(Transition(step.obs[0], 0, 0.0, 0.9, step.next_obs[0]))
    batch = kept.gather(kept.tensors, torch.tensor([0]))
    values = [
        network(network.initial_params, network.buffers, obs).q_values.tolist()
        for obs in (batch.obs, batch.next_obs, torch.from_numpy(lit))
    ]
    assert values == [[[0.0] * 3], [[1.0] * 3], [[1.0] * 3]]
