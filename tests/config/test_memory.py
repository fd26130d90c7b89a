"""What a run takes of memory is known before anything is made."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from dqn_runner.buffers.frames import FrameStorage
from dqn_runner.buffers.prioritized import PrioritizedSampler
from dqn_runner.config import memory
from dqn_runner.config.build import build_storage, check
from dqn_runner.config.networks import build_network
from dqn_runner.envs.make import make_env
from dqn_runner.errors import ConfigError
from dqn_runner.types import ObsSpec

CPU = torch.device("cpu")


@pytest.mark.parametrize("env", ["env=lunarlander", "env.id=FrozenLake-v1"])
@pytest.mark.parametrize("buffer", ["uniform", "prioritized"])
def test_it_counts_what_is_built(compose, env, buffer):
    config = compose(
        env,
        f"buffer={buffer}",
        "buffer.capacity=5000",
        "network.hidden_sizes=[7,5]",
        "batch_size=10",
    )
    env = make_env(config.env)
    params = len(build_network(config, env, 0, CPU).initial_params)
    sizes, batch, replay = memory.needed_memory(config, env).values()
    assert sizes == 4 * memory.VECTORS * params
    units = env.action_space.n + 7 + 5 + (8 if config.env.id.startswith("Lunar") else 16)
    assert batch == 4 * memory.COPIES * units * 10
    storage = build_storage(config, env, CPU)
    sampler = config.buffer.sampler(storage)
    tree = sampler._tree._levels if isinstance(sampler, PrioritizedSampler) else []
    assert replay == storage.num_bytes + sum(level.nbytes for level in tree)


@pytest.mark.parametrize("buffer", ["uniform", "prioritized"])
def test_it_counts_each_frame_once(compose, buffer):
    wrapper = "env.wrappers=['pixels:Pixels']"
    config = compose(wrapper, f"buffer={buffer}", "buffer.capacity=5000", "num_envs=3")
    env = make_env(config.env)
    storage = build_storage(config, env, CPU)
    assert isinstance(storage, FrameStorage)
    taken = sum(tensor.nbytes for tensor in storage.tensors) + config.buffer.sampler_bytes
    takes = memory.needed_memory(config, env)
    assert [takes[key] for key in takes if key.startswith("buffer")] == [taken]


@pytest.mark.parametrize("buffer", ["uniform", "prioritized"])
@pytest.mark.parametrize(
    ("obs", "most"),
    [
        (ObsSpec((4, 84, 84), np.dtype(np.uint8), 4), 7_300_000_000),
        (ObsSpec((10, 10, 4), np.dtype(np.bool_)), 500_000_000),  # MinAtar's Breakout
    ],
)
def test_a_million_images_fit_into_little_memory(compose, buffer, obs, most):
    million = "buffer.capacity=1000000"
    config = compose(f"buffer={buffer}", million, "num_envs=8")
    assert memory.buffer_bytes(config, obs, 6) <= most
    rows = compose(f"buffer={buffer}", million, "num_envs=8", "buffer.storage=rows")
    assert memory.buffer_bytes(rows, obs, 6) > 2 * 1_000_000 * math.prod(obs.shape) > most


def test_frames_of_what_is_no_image_are_refused(compose):
    with pytest.raises(ConfigError) as caught:
        check(compose("buffer.storage=frames"))
    assert str(caught.value) == (
        "buffer.storage=frames: is for images of uint8 or bool, and observations are 4 float32; "
        "use rows"
    )


@pytest.mark.parametrize(
    ("overrides", "units"),
    [
        # Torso, then the hidden layer and the outputs of each stream; two actions.
        (["agent=c51", "agent.num_atoms=11"], 7 + 5 + 2 * 11),
        (["agent=qr_dqn", "agent.num_quantiles=9", "network.noisy=0.5"], 7 + 5 + 2 * 9),
        (["agent=hl_gauss", "agent.num_bins=8", "network.dueling=true"], 7 + 5 + 2 * 8 + 5 + 8),
        # The embedding, the hidden layer and the outputs, for each τ; 7 features.
        (
            ["agent=iqn", "agent.num_tau=3", "agent.num_tau_next=4", "agent.num_tau_act=6"],
            7 + (6 + 4) * (7 + 5 + 2),
        ),
        (["network.dueling=true", "network.noisy=0.5"], 7 + 5 + 2 + 5 + 1),
    ],
)
def test_it_counts_the_outputs_of_each_agent_and_each_stream(compose, overrides, units):
    config = compose("network.hidden_sizes=[7,5]", "network.init.name=xavier_normal", *overrides)
    env = make_env(config.env)
    params = len(build_network(config, env, 0, CPU).initial_params)
    *of_network, batch, _ = memory.needed_memory(config, env).values()
    assert sum(of_network) == 4 * memory.VECTORS * params
    assert batch == 4 * memory.COPIES * (4 + units) * config.batch_size


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["network.hidden_sizes=[10000000000,10000000000]"], "network.hidden_sizes=[10000000000, "),
        ([f"network.hidden_sizes=[{10**30}]"], "network.hidden_sizes=[1000000"),
        (["agent=c51", f"agent.num_atoms={10**18}"], "agent=c51: takes "),
        (["agent=c51", f"agent.num_atoms={10**30}"], "agent=c51: takes "),
        (["agent=iqn", f"agent.embedding_dim={10**12}"], "agent=iqn: takes "),
    ],
)
def test_what_no_machine_could_hold_is_named(compose, overrides, line):
    config = compose(*overrides)
    with pytest.raises(ConfigError) as caught:
        memory.check_memory(config, make_env(config.env), CPU)
    assert str(caught.value).startswith(line)


@pytest.mark.parametrize(
    ("overrides", "free", "line"),
    [
        # 1000 transitions of 48 bytes; 39 parameters of 40 bytes.
        (["network.hidden_sizes=[4]"], 60_000, None),
        (["network.hidden_sizes=[4]"], 40_000, "buffer.capacity=1000: takes 48.0 kB, and 40.0 kB "),
        (["network.hidden_sizes=[4]"], 49_000, "buffer.capacity=1000: takes 48.0 kB and the rest "),
        (["network.hidden_sizes=[99]"], 10_000, "network.hidden_sizes=[99]: takes 35.7 kB, and "),
        (["network.hidden_sizes=[4]", "batch_size=999"], 60_000, "batch_size=999: takes 79.9 kB, "),
    ],
)
def test_what_does_not_fit_is_named(compose, monkeypatch, overrides, free, line):
    config = compose(*overrides)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    if line is None:
        memory.check_memory(config, make_env(config.env), CPU)
        return
    with pytest.raises(ConfigError) as caught:
        memory.check_memory(config, make_env(config.env), CPU)
    assert str(caught.value).startswith(line)
