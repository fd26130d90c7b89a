"""The collect-then-train rhythm against a count by hand; SARSA against a log of what was done."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from building import build, learn, q_values

from dqn_runner.buffers.rows import gather
from dqn_runner.networks.flat import FlatNetwork
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.runs.metrics_file import read_metrics
from dqn_runner.training.loop import Training
from dqn_runner.types import EnvStep, Progress, Transition

PHASE = ("learning_starts=0", "agent.n_step=1", "agent.double=false")
SARSA = (*PHASE, "agent.td_target=sarsa", "agent.behaviour=softmax")


class Rows(list[dict[str, float]]):
    """A logger that keeps its rows."""

    log = list.append


class Watched:
    """A run through the real loop, with a log of what it did in the order it did it."""

    def __init__(self, config, path, monkeypatch):
        _, parts = build(config, RunDirectory(path))
        self.parts, self.rows, self.progress = parts, Rows(), Progress()
        self.acts: list[tuple[np.ndarray, list[int]]] = []
        self.steps: list[EnvStep] = []
        self.stored: list[Transition] = []
        self.updates: list[tuple[int, int, int]] = []
        act, step = parts.agent.act, parts.envs.step
        add, learn = parts.storage.add, parts.agent.learn

        def log_act(obs, epsilon, mask=None):
            action = act(obs, epsilon, mask)
            self.acts.append((obs.copy(), list(action)))
            return action

        def log_step(action):
            self.steps.append(step(action))
            return self.steps[-1]

        def log_add(transition):
            self.stored.append(transition)
            add(transition)

        def log_learn(storage, indices, weights):
            self.updates.append((len(self.steps), len(parts.storage), int(indices.max())))
            return learn(storage, indices, weights)

        for owner, name, logging in (
            (parts.agent, "act", log_act),
            (parts.envs, "step", log_step),
            (parts.storage, "add", log_add),
            (parts.agent, "learn", log_learn),
        ):
            monkeypatch.setattr(owner, name, logging)
        Training(config, parts, self.progress, [self.rows]).run()
        parts.envs.close()
        parts.evaluator.close()


@pytest.mark.parametrize("target", [PHASE, SARSA], ids=["max", "sarsa"])
@pytest.mark.parametrize(
    ("budget", "ends"),
    [
        (["total_timesteps=null", "total_episodes=9"], [3, 6, 9]),
        (["total_timesteps=null", "total_episodes=8"], [3, 6, 8]),  # what is left is learned too
        (["total_timesteps=null", "total_episodes=2"], [2]),
    ],
)
def test_updates_of_each_phase_are_its_epochs_over_its_batches(
    compose, tmp_path, monkeypatch, target, budget, ends
):
    config = compose(*target, "phase.episodes=3", "phase.epochs=4", "batch_size=16", *budget)
    run = Watched(config, tmp_path, monkeypatch)
    # A step each: when an episode ended is how many steps had been taken.
    ended = {
        int(row["episodes"]): int(row["env_steps"])
        for row in run.rows
        if "rollout/episode_length" in row
    }
    expected = []
    for before, now in pairwise([0, *ends]):
        end, size = ended[now], ended[now] - ended.get(before, 0)
        expected += [(end, size)] * (4 * (size // 16))
    assert [(steps, size) for steps, size, _ in run.updates] == expected
    assert all(index < size for _, size, index in run.updates)
    assert len(run.parts.storage) == 0
    assert len(run.stored) == run.progress.env_steps == ended[ends[-1]]


def test_the_end_of_a_budget_in_env_steps_ends_the_last_phase(compose, tmp_path, monkeypatch):
    config = compose(*PHASE, "phase.episodes=1000", "phase.epochs=2", "total_timesteps=100")
    run = Watched(config, tmp_path, monkeypatch)
    assert [(steps, size) for steps, size, _ in run.updates] == [(100, 100)] * (2 * (100 // 16))


def test_rows_of_a_phase_are_drawn_with_replacement(compose, tmp_path, monkeypatch):
    """An epoch is a number of updates: as many draws as rows leave about 1/e of them out."""
    config = compose(*PHASE, "phase.episodes=1000", "phase.epochs=1", "total_timesteps=800")
    _, parts = build(config, RunDirectory(tmp_path))
    drawn, learn = [], parts.agent.learn

    def log_learn(storage, indices, weights):
        drawn.append(indices.numpy())
        return learn(storage, indices, weights)

    monkeypatch.setattr(parts.agent, "learn", log_learn)
    Training(config, parts, Progress(), []).run()
    rows = np.concatenate(drawn)
    assert len(rows) == 800
    left_out = 1 - len(np.unique(rows)) / 800
    assert left_out == pytest.approx(np.exp(-1.0), abs=0.05)


def test_a_phase_that_does_not_fit_ends_the_run_in_a_line(command, quick):
    outcome = command(
        *quick, *PHASE, "phase.episodes=50", "phase.epochs=1", "buffer.capacity=100",
        "hydra.run.dir=run",
    )  # fmt: skip
    assert outcome.code == 1
    (line,) = outcome.err.splitlines()
    assert "buffer.capacity=100: the transitions of a phase do not fit" in line
    assert "phase.episodes" in line
    assert "replay buffer of 100 transitions takes at most " in outcome.out
    state = torch.load(Path("run/checkpoints/last.pt"), weights_only=True)
    assert state["env_steps"] == 100
    assert not Path("run/result.json").exists()


@pytest.mark.parametrize("num_envs", [1, 2])
def test_what_sarsa_learns_from_is_what_was_done(compose, tmp_path, monkeypatch, num_envs):
    """Each environment's record, rebuilt from its steps; its TD errors, from network values.

    Episodes end in both ways: poles fall, or the limit of 12 steps is reached.
    """
    config = compose(
        *SARSA, "+env.kwargs.max_episode_steps=12", f"num_envs={num_envs}", "agent.gamma=0.5",
        "epsilon=fixed", "epsilon.value=0.3", "target_update=hard", "total_timesteps=600",
    )  # fmt: skip
    run = Watched(config, tmp_path, monkeypatch)
    chosen_at_ends = iter([action for obs, action in run.acts if len(obs) != num_envs])
    if num_envs == 1:  # the choices at final observations are those that no step followed
        taken = [step.obs.tolist() for step in run.steps]
        chosen_at_ends = iter([a for obs, a in run.acts if obs.tolist() not in taken])
    expected, kinds = [], set()
    for t, step in enumerate(run.steps):
        # The order of storing: what waited from the step before, then what this one ended.
        for i in range(num_envs):
            before = run.steps[t - 1] if t else None
            if before and not (before.terminated[i] or before.truncated[i]):
                expected.append((before, i, 0.5, step.action[i]))
            if step.terminated[i]:
                expected.append((step, i, 0.0, 0))
                kinds.add("terminated")
            elif step.truncated[i]:
                (action,) = next(chosen_at_ends)
                expected.append((step, i, 0.5, action))
                kinds.add("truncated")
    assert kinds == {"terminated", "truncated"}
    assert next(chosen_at_ends, None) is None
    assert len(run.stored) == len(expected)
    for transition, (step, i, discount, next_action) in zip(run.stored, expected, strict=True):
        assert np.array_equal(transition.obs, step.obs[i])
        assert np.array_equal(transition.next_obs, step.next_obs[i])
        assert (transition.action, transition.reward) == (step.action[i], step.reward[i])
        assert (transition.discount, transition.next_action) == (discount, next_action)

    learner, count = run.parts.agent.learner, len(expected)
    network, batch = learner.rule.network, gather(run.parts.storage.tensors, torch.arange(count))
    assert isinstance(network, FlatNetwork)
    learner.state.target_params.mul_(0.5)  # so that it is not the online one
    online_q = q_values(network, learner.state.params, batch.obs).tolist()
    target_q = q_values(network, learner.state.target_params, batch.next_obs).tolist()
    td_errors = [
        step.reward[i] + discount * target_q[row][next_action] - online_q[row][step.action[i]]
        for row, (step, i, discount, next_action) in enumerate(expected)
    ]
    actual = learn(learner, batch, torch.arange(count))
    assert actual.tolist() == pytest.approx(np.abs(td_errors).tolist(), abs=1e-4)


def test_each_episode_has_a_row_and_the_others_none_of_it(train):
    run = train("run", "num_envs=4", "total_timesteps=800")
    rows = read_metrics(run / "metrics.jsonl")
    ended = [row for row in rows if "rollout/episode_return" in row]
    assert [row["episodes"] for row in ended] == list(range(1, len(ended) + 1))
    assert len(ended) > 10
    steps = [row["env_steps"] for row in rows]
    assert steps == sorted(steps)
    total = sum(row["rollout/episode_length"] for row in ended)
    assert 800 - 4 * 500 < total <= 800
    assert total == sum(row["rollout/episode_return"] for row in ended)
    assert all(set(row) >= {"env_steps", "episodes"} for row in rows)
    assert not any("train/epsilon" in row for row in ended)


def test_a_softmax_run_is_one_run_of_its_seed_and_watching_does_not_change_it(train):
    settings = ("agent.behaviour=softmax", "agent.temperature=0.5")
    one, other = train("one", *settings), train("other", *settings)
    watched = train("watched", *settings, "eval.num_episodes=6", "eval.interval=30")
    greedy = train("greedy")

    def rows(run, *prefixes):
        return [
            {k: v for k, v in row.items() if k.startswith(prefixes)}
            for row in read_metrics(run / "metrics.jsonl")
        ]

    assert rows(one, "env", "train", "rollout", "eval") == rows(
        other, "env", "train", "rollout", "eval"
    )
    trained = [[r for r in rows(run, "train", "rollout") if r] for run in (one, watched, greedy)]
    assert trained[0] == trained[1]
    assert trained[0] != trained[2]
