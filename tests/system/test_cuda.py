"""What runs on a GPU alone: the captured update against the eager one, and a whole short run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from building import build
from watching import rows_without_clock

from dqn_runner.buffers.rows import RowStorage
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.runs.group import train_together
from dqn_runner.types import ObsSpec, Transition

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def build_on_cuda(compose, path, compile_mode):
    path.mkdir()
    config = compose("device=cuda", f"compile={compile_mode}", "batch_size=32")
    return build(config, RunDirectory(path))[1]


def fill(parts, rng):
    for _ in range(100):
        obs, next_obs = rng.standard_normal((2, 4), np.float32)
        parts.storage.add(Transition(obs, int(rng.integers(2)), 1.0, 0.9, next_obs))


def test_the_captured_update_agrees_with_the_eager_one(compose, tmp_path):
    eager = build_on_cuda(compose, tmp_path / "eager", "never")
    captured = build_on_cuda(compose, tmp_path / "captured", "always")
    for parts in (eager, captured):
        rng = np.random.default_rng(0)
        fill(parts, rng)
        for update in range(50):
            if update == 25:
                parts.agent.learner.copy_target()
            parts.agent.learn(parts.storage.tensors, *parts.sampler.draw(32, rng))
    states = [built.agent.learner.state.tensors for built in (eager, captured)]
    for one, other in zip(*states, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_updates_wait_for_nothing(compose, tmp_path):
    parts = build_on_cuda(compose, tmp_path / "run", "always")
    rng = np.random.default_rng(0)
    fill(parts, rng)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            fill(parts, rng)
            parts.agent.learn(parts.storage.tensors, *parts.sampler.draw(32, rng))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_rows_on_the_device_are_those_that_were_added():
    storage = RowStorage(8, ObsSpec((3,), np.dtype(np.float32)), torch.device("cuda"))
    for i in range(11):
        row = np.full(3, i, np.float32)
        storage.add(Transition(row, i % 2, float(i), 0.5, row + 1))
    newest = [8, 9, 10, 3, 4, 5, 6, 7]
    assert storage.tensors[2].tolist() == newest
    assert storage.tensors[0][:, 0].tolist() == newest
    assert storage.tensors[4][:, 2].tolist() == [i + 1 for i in newest]


def test_a_run_on_the_device_finishes(train):
    path = train("run", "device=cuda", "compile=always")
    result = RunDirectory(path).read_result()
    assert result is not None
    assert result["env_steps"] == 300


def test_runs_trained_together_equal_each_alone(train, compose, tmp_path):
    """Their update and their forward pass are captured, each for all of them."""
    settings = ["device=cuda", "compile=always", "agent.max_grad_norm=10"]
    runs = {row: (compose(*settings, f"seed={row}"), tmp_path / str(row)) for row in range(3)}
    for _, path in runs.values():
        path.mkdir()
    train_together(runs, len(runs), len(runs))
    for row, (_, path) in runs.items():
        alone = train(f"alone {row}", *settings, f"seed={row}")
        pairs = zip(rows_without_clock(path), rows_without_clock(alone), strict=True)
        for together, by_itself in pairs:
            assert together == pytest.approx(by_itself, rel=1e-3, abs=1e-3)
