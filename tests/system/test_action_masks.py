"""Training where the environment forbids actions: Taxi, which tells so in its infos."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from building import build
from gymnasium.envs.toy_text.taxi import TaxiEnv

from dqn_runner.runs.directory import RunDirectory
from dqn_runner.training.loop import Training
from dqn_runner.types import Progress

TAXI = ["env.id=Taxi-v4", "env.action_masks=true", "learning_starts=50", "train_frequency=4"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["num_envs=2", "agent.n_step=3", "agent.double=true"],
        ["agent=hl_gauss", "buffer=prioritized", "agent.behaviour=softmax"],
        ["agent.td_target=sarsa", "agent.double=false", "agent.n_step=1", "epsilon=fixed"],
    ],
    ids=["three steps", "prioritized softmax", "sarsa"],
)
def test_no_forbidden_action_is_taken_and_next_masks_are_stored(compose, tmp_path, overrides):
    """By the environment's own table of masks: an observation tells its state."""
    config, parts = build(compose(*TAXI, *overrides), RunDirectory(tmp_path))
    Training(config, parts, Progress(), []).run()
    taxi = gym.make("Taxi-v4").unwrapped
    assert isinstance(taxi, TaxiEnv)
    masks = np.stack([taxi.action_mask(s) for s in range(500)]).astype(bool)
    batch = parts.storage.gather(parts.storage.tensors, torch.arange(len(parts.storage)))
    assert batch.next_mask is not None
    states, next_states = batch.obs.argmax(1), batch.next_obs.argmax(1)
    assert masks[states, batch.action].all()
    goes_on = (batch.discount > 0).numpy()
    assert np.array_equal(batch.next_mask[goes_on], masks[next_states][goes_on])
    assert not masks[next_states].all()


def test_a_run_obeys_masks_in_its_evaluations_too(train, monkeypatch):
    taken = []
    step = TaxiEnv.step

    def checked(taxi, action):
        taken.append(taxi.action_mask(taxi.s)[action])
        return step(taxi, action)

    monkeypatch.setattr(TaxiEnv, "step", checked)
    train("run", *TAXI, "epsilon=fixed", "epsilon.value=0.5", "+env.kwargs.max_episode_steps=30")
    assert len(taken) > 300  # those of evaluations are among them
    assert all(taken)


def test_munchausen_beside_masks_is_refused(command):
    outcome = command(*TAXI, "agent.td_target=munchausen", "agent.double=false")
    assert outcome.code == 2
    assert "agent.td_target=munchausen: not with env.action_masks=true" in outcome.err


def test_an_environment_without_masks_is_a_line(command):
    outcome = command("env.action_masks=true", "tracker.mode=disabled")
    assert outcome.code == 1
    assert "no action_mask in info, which env.action_masks=true needs" in outcome.err
    assert "Traceback" not in outcome.err
