"""The rewards that an agent learns from, and the returns that follow from them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from watching import rows_without_clock

from dqn_runner.agents.c51 import CategoricalSpec
from dqn_runner.config.build import resolve_agent
from dqn_runner.envs.make import make_env


def stored_rewards(run: Path) -> torch.Tensor:
    """The rewards of the transitions that a run has stored."""
    chunks = sorted((run / "checkpoints" / "replay").glob("*.pt"))
    return torch.cat([torch.load(chunk)["columns"][2] for chunk in chunks])


@pytest.mark.parametrize("num_envs", [1, 4])
def test_rewards_are_clipped_and_then_scaled_for_learning_alone(train, num_envs):
    """Transitions of one step, chosen at random: what happens is the same with either."""
    same = [
        "env=lunarlander", "agent.n_step=1", "epsilon=fixed", "epsilon.value=1",
        "eval.interval=null", f"num_envs={num_envs}",
    ]  # fmt: skip
    plain = train("plain", *same)
    scaled = train("scaled", *same, "agent.reward_clip=0.5", "agent.reward_scale=3")
    rewards = stored_rewards(plain)
    assert rewards.abs().max() > 0.5  # some are clipped
    assert ((rewards != 0) & (rewards.abs() < 0.5)).any()  # and some are not
    expected = [3 * min(max(reward, -0.5), 0.5) for reward in rewards.tolist()]
    assert stored_rewards(scaled).tolist() == pytest.approx(expected, rel=1e-6)
    states = [torch.load(run / "checkpoints" / "last.pt", weights_only=True)["progress"]
              for run in (plain, scaled)]  # fmt: skip
    assert states[1]["lowest_reward"] == -1.5
    assert states[1]["highest_reward"] <= 1.5 < states[0]["highest_reward"]
    assert states[0]["recent_returns"] == states[1]["recent_returns"] != []
    episodes = [
        [
            row["rollout/episode_return"]
            for row in rows_without_clock(run)
            if "rollout/episode_return" in row
        ]
        for run in (plain, scaled)
    ]
    assert episodes[0] == episodes[1] != []


def test_returns_that_are_evaluated_stay_those_of_the_environment(train):
    run = train("run", "agent.reward_scale=0.01")
    result = json.loads((run / "result.json").read_text())
    assert result["final"]["mean"] >= 5.0  # CartPole ends no episode before


@pytest.mark.parametrize(
    ("overrides", "low", "high"),
    [
        ([], 0.0, 100.0),
        (["agent.reward_scale=0.1"], 0.0, 10.0),
        (["agent.reward_clip=0.5", "agent.reward_scale=2"], 0.0, 100.0),
        (["agent.reward_clip=5"], 0.0, 100.0),
        (["env=acrobot", "agent.reward_clip=0.1"], -10.0, 0.0),
        (["env=lunarlander", "agent.reward_scale=0.1"], -30.0, 30.0),
        (["env=lunarlander", "agent.reward_clip=1"], "auto", "auto"),
        (["env=lunarlander", "agent.reward_clip=1", "agent.v_min=-3"], -3.0, "auto"),
        (["agent.reward_scale=0.1", "agent.v_max=50"], 0.0, 50.0),  # as it was asked for
        (["agent.gamma=1"], "auto", "auto"),
        (["env=lunarlander", "agent.gamma=1"], -300.0, 300.0),
        (
            ["agent.td_target=munchausen", "agent.double=false", "agent.reward_scale=2"],
            -0.9 * (1 + 100 * 0.03 * math.log(2)),
            200 + 100 * 0.03 * math.log(2),
        ),
        (
            ["env=lunarlander", "agent.td_target=munchausen", "agent.double=false",
             "agent.gamma=1"],
            "auto",
            "auto",
        ),
    ],
)  # fmt: skip
def test_the_known_range_of_returns_is_that_of_the_rewards_learned_from(
    compose, overrides, low, high
):
    config = compose("agent=c51", *overrides)
    env = make_env(config.env)
    agent = resolve_agent(config, env)
    env.close()
    assert isinstance(agent, CategoricalSpec)
    expected = [end if end == "auto" else pytest.approx(end) for end in (low, high)]
    assert [agent.v_min, agent.v_max] == expected


def test_a_range_found_from_rewards_is_that_of_the_rewards_learned_from(train):
    """No range is known; rewards are all 1, of which a scale of 0.1 makes 0.1."""
    overrides = ["agent=c51", "env.return_range=null", "agent.reward_scale=0.1"]
    run = train("run", *overrides)
    state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    (support,) = (b for b in state["agent"]["buffers"] if len(b) == 51)
    assert support[0] == 0.0
    first = [row for row in rows_without_clock(run) if row["env_steps"] <= 50]
    repeated = 1 - max(row["episodes"] for row in first) / 50  # the last of an episode counts once
    assert support[-1].item() == pytest.approx(0.1 * repeated**0.5 * 100 + 0.1)


@pytest.mark.parametrize("agent", ["dqn", "c51", "qr_dqn", "iqn", "hl_gauss"])
def test_the_loss_of_each_representation_has_one_name(train, agent):
    rows = rows_without_clock(train("run", f"agent={agent}"))
    losses = [row["train/td_loss"] for row in rows if "train/td_loss" in row]
    assert len(losses) == 6  # at 50 env steps and every 50 after
    assert all(loss > 0 for loss in losses)
