"""What a run takes of memory is known before anything is made."""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest
import torch

from dqn_runner.buffers.prioritized import PrioritizedSampler
from dqn_runner.config import memory
from dqn_runner.config.build import build_network, build_storage
from dqn_runner.envs.make import make_env
from dqn_runner.errors import ConfigError

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
