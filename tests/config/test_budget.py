"""What a budget never reaches is a warning, and nothing else is; what it repays is compiled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from building import build

from dqn_runner.config.budget import is_worth_compiling, unreached
from dqn_runner.envs.make import make_env
from dqn_runner.runs.directory import RunDirectory

MUNCHAUSEN = ["agent.td_target=munchausen", "agent.double=false"]
EPISODES = ["total_timesteps=null", "env.kwargs={max_episode_steps: 20}"]
PHASES = ["phase.episodes=3", "phase.epochs=1", "learning_starts=0"]


def learned(run: Path) -> dict[str, Any]:
    """The agent of a run's last checkpoint."""
    state: dict[str, Any] = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    return state["agent"]


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        # 300 env steps, learning from 50 on, in batches of 16.
        ([], ""),
        (["learning_starts=300"], ""),
        (["learning_starts=301"], "learning_starts=301: the run ends after at most 300 env steps"),
        (["batch_size=301"], "batch_size=301: the run ends after at most 300 env steps"),
        (["train_frequency=300"], ""),
        (["train_frequency=301"], "train_frequency=301: the run ends after at most 300 env steps"),
        (["train_frequency=160", "learning_starts=170"], "train_frequency=160: the run ends"),
        (["num_envs=8", "learning_starts=304"], ""),  # the last step takes it there
        (["num_envs=8", "learning_starts=305"], "learning_starts=305: the run ends"),
        ([*EPISODES, "total_episodes=3", "learning_starts=61"], "learning_starts=61: the run ends"),
        ([*EPISODES, "total_episodes=3", "learning_starts=10"], ""),
        ([*PHASES, "total_episodes=2"], "phase.episodes=3: the run ends after 2"),
        (["eval.video_interval=300"], ""),
        (["eval.video_interval=301"], "eval.video_interval=301: the run ends after at most 300"),
        (["eval.video_interval=101", "eval.interval=200"], ""),
        (["eval.video_interval=201", "eval.interval=200"], "eval.video_interval=201: the run ends"),
        (["eval.video_interval=201", "eval.interval=2", "eval.unit=episode"], ""),
        (["agent.reset_interval=251"], ""),
        (["agent.reset_interval=252"], "agent.reset_interval=252: the run ends after at most 251"),
        (["agent.reset_interval=252", "learning_starts=301"], "learning_starts=301: the run ends"),
        ([*PHASES, "agent.reset_interval=9999"], ""),
        # What has no effect without another setting.
        (["agent.munchausen.alpha=0.5"], "agent.munchausen.alpha=0.5: has no effect without agent"),
        (
            ["agent.munchausen.clip=-2"],
            "agent.munchausen.clip=-2.0: has no effect without agent.td",
        ),
        ([*MUNCHAUSEN, "agent.munchausen.alpha=0.5", "agent.munchausen.temperature=0.1"], ""),
        (["agent.munchausen.alpha=0.9"], ""),
        (["agent.temperature=0.5"], "agent.temperature=0.5: has no effect without agent.behaviour"),
        (["agent.temperature=0.5", "agent.behaviour=softmax"], ""),
        (
            ["agent.lr_decay_steps=9", "agent.lr_schedule=constant"],
            "agent.lr_decay_steps=9: has no",
        ),
        (["agent.lr_decay_steps=9", "agent.lr_schedule=linear"], ""),
        ([*PHASES], ""),
        ([*PHASES, "batch_size=301"], "batch_size=301: the run ends"),
    ],
)
def test_what_is_never_reached(train, caplog, overrides, line):
    run = train("run", *overrides)
    warned = [r.getMessage() for r in caplog.records if r.name == "dqn_runner.config.build"]
    assert [text[: len(line)] for text in warned] == ([line] if line else [])
    assert (learned(run)["updates"] == 0) == any("learns nothing" in text for text in warned)


@pytest.mark.parametrize(
    ("overrides", "reached"),
    [
        (["target_update.unit=env_step", "target_update.interval=300"], True),
        (["target_update.unit=env_step", "target_update.interval=301"], False),
        (["target_update.unit=update", "target_update.interval=251"], True),  # after 50, …, 300
        (["target_update.unit=update", "target_update.interval=252"], False),
        (["target_update.unit=update", "target_update.interval=502", "gradient_steps=2"], True),
        (["target_update.unit=update", "target_update.interval=503", "gradient_steps=2"], False),
    ],
)
def test_a_target_network_that_never_moves(train, compose, overrides, reached):
    overrides = ["target_update=hard", *overrides]
    lines = list(unreached(compose(*overrides), None))
    assert lines == [] if reached else lines[0].startswith(overrides[2].partition("=")[0])
    agent = learned(train("run", *overrides))
    copied = torch.equal(agent["target_params"], agent["params"])  # after its very last update
    assert copied == reached


@pytest.mark.parametrize(
    ("overrides", "is_worth_it"),
    [
        (["env=cartpole", "total_timesteps=24999"], False),
        (["env=cartpole", "total_timesteps=25000"], True),
        (["env=minatar/breakout", "total_timesteps=24999"], False),  # 12,800 numbers a batch
        (["env=minatar/breakout", "total_timesteps=12500", "batch_size=64"], True),  # 25,600
        (["env=atari", "total_timesteps=675"], False),  # 903,168
        (["env=atari", "total_timesteps=676"], True),  # each worth 37
    ],
)
def test_updates_on_large_images_repay_compiling_sooner(compose, overrides, is_worth_it):
    config = compose("batch_size=32", "train_frequency=1", *overrides)
    env = make_env(config.env)
    assert is_worth_compiling([config], env) == is_worth_it
    env.close()


@pytest.mark.parametrize(("env", "count"), [("cartpole", 1), ("minatar/breakout", 2)])
def test_acting_is_compiled_too_where_it_needs_torch(compose, tmp_path, monkeypatch, env, count):
    compiled = []

    def note(function, constants, inputs):
        compiled.append(function)
        return lambda *given: function(*constants, *given)

    monkeypatch.setattr("dqn_runner.learning.learner.compile_ahead", note)
    config, parts = build(compose(f"env={env}", "compile=always"), RunDirectory(tmp_path))
    assert len(compiled) == count
    actions = parts.agent.act(parts.envs.obs, 0.0)
    assert actions == parts.agent.policy(parts.envs.obs).tolist()
    assert config.compile == "always"
