"""The runs that tests interrupt, and what must be the same of a resumed run and another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from watching import rows_without_clock

from dqn_runner.envs.vector import Environments

# What the kills are tried on; each run has about 300 env steps and a checkpoint every 60.
KINDS = {
    "defaults": ["agent=hl_gauss"],  # the others are plain DQN's where they name no agent
    "four environments": ["num_envs=4", "train_frequency=2"],
    "acrobot": ["env=acrobot", "+env.kwargs.max_episode_steps=50", "num_envs=4"],
    "frozen lake": ["env.id=FrozenLake-v1", "target_update=hard", "target_update.unit=update"],
    "softmax": ["agent.behaviour=softmax", "num_envs=2", "eval.unit=episode", "eval.interval=2"],
    "sarsa in phases": [
        "agent.td_target=sarsa", "agent.double=false", "agent.n_step=1", "phase.episodes=3",
        "phase.epochs=2", "learning_starts=0",
    ],
    "small buffer, decaying learning rate": [
        "buffer.capacity=64", "agent.optimizer.name=rmsprop", "agent.lr_schedule=cosine",
        "agent.clip_target=true", "network.norm=layer_norm",
    ],
    "prioritized": [
        "buffer=prioritized", "buffer.capacity=128", "num_envs=2", "train_frequency=7",
        "gradient_steps=3",
    ],
    "resets and munchausen": [
        "agent.reset_interval=40", "agent.td_target=munchausen", "agent.double=false",
        "agent.reward_clip=0.5", "agent.reward_scale=2", "target_update=hard",
        "target_update.interval=7",
    ],
    "hands_on_rl": ["experiment=hands_on_rl"],
    "joyrl": ["experiment=joyrl"],
    "pytorch_tutorial": ["experiment=pytorch_tutorial"],
    "lunarlander_sarsa": ["experiment=lunarlander_sarsa", "learning_starts=0", "phase.episodes=2"],
    "swanlab_cartpole": ["experiment=swanlab_cartpole", "eval.interval=2"],
    "rainbow: c51, prioritized, noisy, dueling": [
        "experiment=rainbow", "agent=c51", "network.hidden_sizes=[16,16]",
        "target_update.interval=50", "train_frequency=2",
    ],
    "range found in the rewards": [
        "env=lunarlander", "agent=hl_gauss", "env.return_range=null", "total_timesteps=200",
    ],
    "implicit quantiles, noisy, eight environments": [
        "agent=iqn", "network.noisy=0.5", "network.dueling=true", "num_envs=8", "train_frequency=4",
    ],
    "frames": [
        "env.wrappers=['pixels:Pixels']", "num_envs=2", "agent.n_step=3", "buffer.capacity=64",
    ],
    "frames, prioritized, cut short": [
        "env.wrappers=['pixels:Pixels']", "env.frame_stack=2", "+env.kwargs.max_episode_steps=15",
        "buffer=prioritized", "buffer.capacity=100", "train_frequency=4",
    ],
    "masks and sarsa": [
        "env.id=Taxi-v4", "env.action_masks=true", "agent.td_target=sarsa", "agent.double=false",
        "agent.n_step=1", "num_envs=2", "eval.max_episode_steps=20",
    ],
    "per-episode epsilon": ["epsilon=multiplicative", "total_timesteps=null", "total_episodes=12"],
}  # fmt: skip
# Games themselves, with images that are kept once; they take longer.
GAMES = {
    # Its hidden layer is large enough to lie by columns.
    "breakout": ["env=minatar/breakout", "network.hidden_size=80", "buffer.capacity=120"],
    "pong": [
        "env=atari", "env.game=pong", "network=data_efficient_cnn", "network.hidden_size=8",
        "buffer.capacity=120", "total_timesteps=240", "env.max_frames=400", "agent.n_step=3",
        "eval.num_episodes=1", "eval.final_episodes=1",
    ],
}  # fmt: skip
COMMON = ["checkpoint.interval=60", "eval.interval=70", "log.interval=40"]


class Killed(BaseException):
    """Stands for SIGKILL within this process: nothing handles it."""


def kill_at_step(patch: pytest.MonkeyPatch, number: int) -> None:
    """Let the environments' step `number` from now on be the last thing that happens."""
    real, calls = Environments.step, [0]

    def step(self, action):
        calls[0] += 1
        if calls[0] == number:
            raise Killed
        return real(self, action)

    patch.setattr(Environments, "step", step)


def assert_same(value: Any, other: Any) -> None:
    if isinstance(value, torch.Tensor):
        assert torch.equal(value, other)
    elif isinstance(value, dict):
        assert value.keys() == other.keys()
        for key in value:
            if key != "elapsed_seconds":
                assert_same(value[key], other[key])
    elif isinstance(value, list | tuple):
        assert len(value) == len(other)
        for pair in zip(value, other, strict=True):
            assert_same(*pair)
    else:
        assert value == other


def replay_of(path: Path, ring: str = "replay") -> list[torch.Tensor]:
    """The stored transitions (or frames) in their order, put together from the chunks."""
    replay = torch.load(path / "checkpoints" / "last.pt", weights_only=True)[ring]
    columns = []
    for first, last, _ in replay["chunks"]:
        content = torch.load(path / "checkpoints" / ring / f"{first}-{last}.pt")
        skip = max(0, replay["num_added"] - replay["size"] - first)
        columns.append([column[skip:] for column in content["columns"]])
    return [torch.cat(pieces) for pieces in zip(*columns, strict=True)]


def assert_same_runs(path: Path, other: Path) -> None:
    assert rows_without_clock(path) == rows_without_clock(other)
    for name in ("last.pt", "best.pt"):
        states = [torch.load(p / "checkpoints" / name, weights_only=True) for p in (path, other)]
        for state in states:
            for ring in ("replay", "frames"):  # how they are cut into files may differ
                state.get(ring, {}).pop("chunks", None)
        assert_same(*states)
    for ring in ("replay", "frames"):
        if (path / "checkpoints" / ring).exists():
            assert_same(replay_of(path, ring), replay_of(other, ring))
    results = [json.loads((p / "result.json").read_text()) for p in (path, other)]
    assert results[0]["final"] == results[1]["final"]
    assert results[0]["best"] == results[1]["best"]
