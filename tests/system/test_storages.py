"""Trainings that keep each frame once compute what those compute that keep whole observations."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from resuming import assert_same
from watching import rows_without_clock

STACK = ["env.wrappers=['pixels:Pixels']", "env.frame_stack=3"]
KINDS = {
    "one environment": ["total_timesteps=200"],
    "eight, three steps": ["num_envs=8", "agent.n_step=3", "buffer=prioritized"],
    "sarsa": ["agent.td_target=sarsa", "agent.double=false", "agent.n_step=1", "num_envs=2"],
    "cut short": ["+env.kwargs.max_episode_steps=7", "agent=c51", "train_frequency=4"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_frames_and_rows_train_the_same_bit_for_bit(train, kind):
    common = [*STACK, "buffer.capacity=64", "checkpoint.interval=null", *KINDS[kind]]
    paths = [train(s, f"buffer.storage={s}", *common) for s in ("rows", "frames")]
    assert rows_without_clock(paths[0]) == rows_without_clock(paths[1])
    for name in ("last.pt", "best.pt"):
        rows, frames = (
            torch.load(path / "checkpoints" / name, weights_only=True)["agent"] for path in paths
        )
        assert_same(rows, frames)
    assert (paths[1] / "checkpoints" / "frames").is_dir()


def test_the_lines_before_training_say_how_frames_are_kept(command, quick):
    outcome = command(*quick, *STACK, "total_timesteps=60", "eval.interval=null")
    assert "replay buffer of 1,000 transitions, each frame once, takes " in outcome.out
    assert "image 2x2, 3 in a stack, stored as uint8, scaled to [0, 1] by the net" in outcome.out


def test_what_auto_chose_is_in_config_yaml(train):
    for name, wrappers, chosen in (("image", STACK, "frames"), ("numbers", [], "rows")):
        path = train(name, *wrappers, "total_timesteps=60", "eval.interval=null")
        assert yaml.safe_load((path / "config.yaml").read_text())["buffer"]["storage"] == chosen
        assert json.loads((path / "result.json").read_text())["status"] == "finished"
