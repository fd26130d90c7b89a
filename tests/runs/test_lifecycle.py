"""What a run computes depends on its configuration and seed, and on nothing else."""

from __future__ import annotations

import json
import random
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from dqn_runner.runs.metrics_file import read_metrics


def params(run: Path, checkpoint: str = "last") -> torch.Tensor:
    return torch.load(run / "checkpoints" / f"{checkpoint}.pt", weights_only=True)["agent"][
        "params"
    ]


def state(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / "last.pt", weights_only=True)


def rows(run: Path, *prefixes: str) -> list[dict[str, float]]:
    """The metrics of a run: all but the clock's, or those under `prefixes`."""
    return [
        {k: v for k, v in row.items() if (k.startswith(prefixes) if prefixes else k[:5] != "time/")}
        for row in read_metrics(run / "metrics.jsonl")
    ]


def result(run: Path) -> dict[str, Any]:
    return json.loads((run / "result.json").read_text())


def same_training(one: Path, other: Path) -> bool:
    first, second = state(one), state(other)
    return (
        all(
            torch.equal(value, second["agent"][name])
            for name, value in first["agent"].items()
            if isinstance(value, torch.Tensor)
        )
        and first["agent"]["exploration"] == second["agent"]["exploration"]
        and first["env_steps"] == second["env_steps"]
        and first["progress"]["episodes"] == second["progress"]["episodes"]
    )


@pytest.mark.parametrize("seed", [0, 7])
def test_one_seed_is_one_run(train, seed):
    one, other = train("one", f"seed={seed}"), train("other", f"seed={seed}")
    assert same_training(one, other)
    assert rows(one) == rows(other)
    assert len([row for row in rows(one) if "train/epsilon" in row]) == 6
    for name in ("final", "best"):
        assert result(one)[name] == result(other)[name]
    third = train("third", f"seed={seed + 1}")
    assert not torch.equal(params(one), params(third))
    assert rows(one) != rows(third)


def test_learning_moves_the_parameters_from_the_first_update_on(train):
    untrained = train("untrained", "learning_starts=1000")
    trained = train("trained")
    assert state(untrained)["agent"]["updates"] == 0
    # Updates after env steps 50, 51, …, 300, one each.
    assert state(trained)["agent"]["updates"] == 251
    assert not torch.equal(params(untrained), params(trained))
    assert not any("train/td_loss" in row for row in rows(untrained))


@pytest.mark.parametrize(
    ("overrides", "updates"),
    [
        (["train_frequency=4"], 63),  # after 52, 56, …, 300
        (["train_frequency=4", "gradient_steps=3"], 189),
        (["learning_starts=0"], 283),  # from the 18th step: the first two of three are pending
        (["learning_starts=0", "agent.n_step=1"], 285),
    ],
)
def test_number_of_updates(train, overrides, updates):
    """The buffer holds a batch of 16 once step 18 completes the 16th three-step transition."""
    run = train("run", "seed=3", *overrides)
    first_end = next(r["env_steps"] for r in rows(run) if "rollout/episode_length" in r)
    assert first_end > 0
    done = state(run)["agent"]["updates"]
    # An episode that ends within the first 18 steps completes its last transitions earlier.
    assert updates <= done <= updates + (2 if "learning_starts=0" in overrides else 0)


def test_watching_a_run_does_not_change_it(train):
    def logged(run: Path) -> list[dict[str, float]]:
        return [row for row in rows(run, "env_steps", "train/", "rollout/") if len(row) > 1]

    plain = train("plain")
    assert any("train/td_loss" in row for row in logged(plain))
    for overrides in (
        ["eval.num_episodes=7", "eval.interval=30"],
        ["eval.final_episodes=11", "eval.interval=3", "eval.unit=episode"],
        ["eval.interval=null", "checkpoint.interval=null"],
        ["eval.video_interval=100"],
        ["log.interval=17"],
        ["tracker.mode=offline"],
    ):
        watched = train(" ".join(overrides), *overrides)
        assert same_training(plain, watched), overrides
        if not overrides[0].startswith("log"):
            assert logged(watched) == logged(plain), overrides


def test_global_generators_neither_matter_nor_move(train):
    runs = []
    for i, seed in enumerate((1, 12345)):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        python, numpy = random.getstate(), np.random.get_state(legacy=False)
        torch_state = torch.get_rng_state()
        mode = "offline" if i else "disabled"
        runs.append(train(str(i), f"tracker.mode={mode}", "tracker.name=given"))
        assert random.getstate() == python
        np.testing.assert_equal(np.random.get_state(legacy=False), numpy)
        assert torch.equal(torch.get_rng_state(), torch_state)
    assert same_training(*runs)
    assert rows(runs[0]) == rows(runs[1])


def test_intervals_fire_by_crossings(train):
    """Four environments step together, so the counter passes most multiples without touching."""
    run = train("run", "num_envs=4", "total_timesteps=400", "log.interval=30", "eval.interval=70",
                "checkpoint.interval=110", "train_frequency=6")  # fmt: skip

    def crossed(interval: int) -> list[int]:
        return sorted({-(-multiple // 4) * 4 for multiple in range(interval, 401, interval)})

    logged = [row["env_steps"] for row in rows(run) if "train/epsilon" in row]
    assert logged == sorted({*crossed(30), 400})
    evaluated = [row["env_steps"] for row in rows(run) if "eval/episode_return_mean" in row]
    assert evaluated == crossed(70)
    previous = torch.load(run / "checkpoints" / "previous.pt", weights_only=True)
    assert previous["env_steps"] == crossed(110)[-1]
    # One update for each multiple of 6 from the 52nd env step on: (48, 400].
    assert state(run)["agent"]["updates"] == 400 // 6 - 48 // 6
    episodes = [row["episodes"] for row in rows(run)]
    assert episodes == sorted(episodes)
    assert state(run)["env_steps"] == 400


def test_a_budget_that_num_envs_does_not_divide_is_passed_by_the_last_step(train):
    run = train("run", "num_envs=4", "total_timesteps=302")
    assert result(run)["env_steps"] == 304
    assert rows(run)[-1]["env_steps"] == 304


def test_a_budget_of_episodes(train):
    run = train("run", "total_timesteps=null", "total_episodes=7", "eval.interval=2",
                "eval.unit=episode", "log.interval=1")  # fmt: skip
    assert result(run)["episodes"] == 7
    ended = [row for row in rows(run) if "rollout/episode_return" in row]
    assert [row["episodes"] for row in ended] == list(range(1, 8))
    # A reward of one a step: return, length and the steps between two ends are the same number.
    steps = [0, *(row["env_steps"] for row in ended)]
    lengths = [now - before for before, now in pairwise(steps)]
    assert [row["rollout/episode_length"] for row in ended] == lengths
    assert [row["rollout/episode_return"] for row in ended] == lengths
    assert result(run)["env_steps"] == sum(lengths)
    evaluated = [row["episodes"] for row in rows(run) if "eval/episode_return_mean" in row]
    assert evaluated == [2, 4, 6]


def test_one_policy_has_one_score(train, monkeypatch):
    """Where the best policy is the final one it is not scored again, on other episodes."""
    from dqn_runner.training.evaluation import Evaluator

    real, lengths = Evaluator.evaluate, []

    def evaluate(self, policy, seeds, *rest):
        lengths.append(len(seeds))
        return real(self, policy, seeds, *rest)

    monkeypatch.setattr(Evaluator, "evaluate", evaluate)
    # Without an evaluation on the way, with one at the end, and with one before the end.
    for name, overrides, closing in (
        ("none", ["eval.interval=null"], 1),
        ("last", ["eval.interval=300"], 1),
        ("middle", ["eval.interval=200"], 2),
    ):
        lengths.clear()
        run = train(name, *overrides)
        numbers = result(run)
        assert lengths.count(3) == closing
        same = torch.equal(params(run), params(run, "best"))
        assert same == (closing == 1)
        final, best = numbers["final"], dict(numbers["best"])
        assert best.pop("env_steps") == (300 if same else 200)
        assert (final == best) == same


@pytest.mark.parametrize("overrides", [["total_episodes=3"], ["total_episodes=1000"]])
def test_the_first_of_two_budgets_ends_the_run(train, overrides):
    numbers = result(train("run", *overrides))
    if overrides == ["total_episodes=3"]:
        assert numbers["episodes"] == 3
        assert numbers["env_steps"] < 300
    else:
        assert numbers["env_steps"] == 300


def test_a_budget_of_episodes_decays_the_learning_rate_over_its_estimate(train):
    """Ten episodes of CartPole are taken for half of their limit of 500 steps each."""
    run = train("run", "total_timesteps=null", "total_episodes=10", "agent.lr_schedule=linear")
    assert yaml.safe_load((run / "config.yaml").read_text())["agent"]["lr_decay_steps"] == 2500


def test_q_values_beyond_any_return_are_told_of_once(train, caplog):
    """Weights of standard deviation 10 give wild Q-values; CartPole pays at most 100."""
    wild = ["network.init.name=normal", "network.init.std=10", "network.norm=none"]
    run = train("run", *wild)
    told = [r.getMessage() for r in caplog.records if "Q-values" in r.getMessage()]
    assert len(told) == 1
    assert re.match(
        r"Q-values of -?[\d,]{3,} where returns so far allow at (most 100|least 0):", told[0]
    )
    q_max = [row["train/q_max"] for row in rows(run) if "train/q_max" in row]
    assert min(q_max) > 150
    caplog.clear()
    train("tame")
    assert not [r for r in caplog.records if "Q-values" in r.getMessage()]


def test_discrete_observations_are_learned_from(train):
    """A frozen lake of one row: the goal is three steps to the right, every other way is no way."""
    lake = ["env.id=FrozenLake-v1", "+env.kwargs.is_slippery=false", "+env.kwargs.desc=[SFFG]"]
    settings = ["total_timesteps=1000", "network.hidden_sizes=[16]", "network.norm=none",
                "agent.lr=0.003", "target_update.tau=0.05"]  # fmt: skip
    run = train("run", *lake, *settings, "epsilon=fixed", "epsilon.value=0.8")
    assert len(params(run)) == 4 * 16 + 16 + 16 * 4 + 4  # an input for each of the 4 states
    assert result(run)["final"] == {"mean": 1.0, "std": 0.0, "min": 1.0, "max": 1.0, "episodes": 3}


def test_taxi_trains(train):
    taxi = ["env.id=Taxi", "network.hidden_sizes=[8]", "network.norm=none",
            "network.activation=tanh"]  # fmt: skip
    run, untrained = train("run", *taxi), train("untrained", *taxi, "learning_starts=1000")
    assert len(params(run)) == 500 * 8 + 8 + 8 * 6 + 6
    weights = (params(run) != params(untrained))[: 500 * 8].view(8, 500)
    seen = weights.any(dim=0).sum()
    assert 0 < seen <= 300  # the inputs of states that were never visited have no gradient
    assert weights.any(dim=1).all()
    returns = [r["rollout/episode_return"] for r in rows(run) if "rollout/episode_return" in r]
    assert returns
    assert max(returns) < 0


@pytest.mark.slow
def test_cartpole_is_learned_with_the_default_settings(tmp_path):
    """README's promise: final policies of at least 475 on at least four of the seeds 0 to 4."""
    from rich.console import Console

    from dqn_runner.composing.command import Command
    from dqn_runner.config.root import parse
    from dqn_runner.runs.lifecycle import run

    def final_return(seed):
        (job,) = Command([f"seed={seed}", "tracker.mode=disabled", "device=cpu"]).jobs
        return run(parse(job.config), tmp_path / str(seed), Console(quiet=True)).final.mean

    for seed in range(5):
        (tmp_path / str(seed)).mkdir()
    returns = [final_return(seed) for seed in range(5)]
    assert sum(score >= 475 for score in returns) >= 4, returns
