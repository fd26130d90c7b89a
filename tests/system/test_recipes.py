"""The recipes of conf/experiment against the tutorials' table, and each of them run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import gymnasium as gym
import pytest
import torch
import yaml

from dqn_runner.composing import hydra_internals
from dqn_runner.composing.command import Command
from dqn_runner.config.budget import expected_updates
from dqn_runner.config.root import parse
from dqn_runner.types import flatten

COMMON: dict[str, object] = {
    "agent.n_step": 1,
    "agent.double": False,
    "agent.max_grad_norm": None,
    "agent.lr_schedule": "constant",
    "agent.clip_target": False,
    "network.activation": "relu",
    "network.norm": "none",
    "total_timesteps": None,
    "num_envs": 1,
    "train_frequency": 1,
    "gradient_steps": 1,
}
PLAIN: dict[str, object] = {
    "env.id": "CartPole-v1",
    "network.init": {"name": "torch"},
    "agent.td_target": "max",
    "agent.behaviour": "greedy",
    "phase": {"episodes": None, "epochs": None},
}
ADAM = {
    "name": "adam",
    "betas": [0.9, 0.999],
    "eps": 1e-8,
    "weight_decay": 0.0,
    "amsgrad": False,
}
TABLE: dict[str, dict[str, object]] = {
    "hands_on_rl": PLAIN
    | {
        "network.hidden_sizes": [128],
        "agent.optimizer": ADAM,
        "agent.lr": 2e-3,
        "agent.loss": "mse",
        "agent.max_grad_value": None,
        "agent.gamma": 0.98,
        "epsilon": {"name": "fixed", "value": 0.1},
        "target_update": {"name": "hard", "interval": 10, "unit": "update"},
        "buffer.capacity": 10_000,
        "batch_size": 64,
        "learning_starts": 65,
        "total_episodes": 500,
        "seed": 0,
    },
    "joyrl": PLAIN
    | {
        "network.hidden_sizes": [128, 128],
        "agent.optimizer": ADAM,
        "agent.lr": 1e-4,
        "agent.loss": "mse",
        "agent.max_grad_value": 1.0,
        "agent.gamma": 0.95,
        "epsilon": {"name": "exponential", "start": 0.95, "end": 0.01, "decay_steps": 500},
        "target_update": {"name": "hard", "interval": 4, "unit": "env_step"},
        "buffer.capacity": 100_000,
        "batch_size": 64,
        "learning_starts": 0,
        "total_episodes": 200,
    },
    "pytorch_tutorial": PLAIN
    | {
        "network.hidden_sizes": [128, 128],
        "agent.optimizer": ADAM | {"name": "adamw", "weight_decay": 0.01, "amsgrad": True},
        "agent.lr": 1e-4,
        "agent.loss": "huber",
        "agent.max_grad_value": 100.0,
        "agent.gamma": 0.99,
        "epsilon": {"name": "exponential", "start": 0.9, "end": 0.05, "decay_steps": 1000},
        "target_update": {"name": "soft", "tau": 0.005},
        "buffer.capacity": 10_000,
        "batch_size": 128,
        "learning_starts": 0,
        "total_episodes": 600,
    },
    "lunarlander_sarsa": {
        "env.id": "LunarLander-v3",
        "network.hidden_sizes": [32],
        "network.init": {"name": "uniform", "low": -0.1, "high": 0.1},
        "agent.optimizer": ADAM,
        "agent.lr": 1e-5,
        "agent.loss": "mse",
        "agent.max_grad_value": None,
        "agent.gamma": 0.95,
        "agent.td_target": "sarsa",
        "agent.behaviour": "softmax",
        "agent.temperature": 1.0,
        "epsilon": {"name": "fixed", "value": 0.1},
        "target_update": {"name": "hard", "interval": 5, "unit": "update"},
        "batch_size": 128,
        "learning_starts": 0,
        "phase": {"episodes": 1000, "epochs": 3},
        "total_episodes": 10_000,
    },
    "swanlab_cartpole": PLAIN
    | {
        "network.hidden_sizes": [64, 64],
        "agent.optimizer": ADAM,
        "agent.lr": 1e-3,
        "agent.loss": "mse",
        "agent.max_grad_value": None,
        "agent.gamma": 0.99,
        "epsilon": {
            "name": "multiplicative",
            "start": 1.0,
            "end": 0.01,
            "decay_rate": 0.995,
            "decay_every": 1,
            "unit": "episode",
        },
        "target_update": {"name": "hard", "interval": 100, "unit": "update"},
        "buffer.capacity": 10_000,
        "batch_size": 64,
        "learning_starts": 0,
        "total_episodes": 600,
        "eval.interval": 10,
        "eval.unit": "episode",
        "eval.num_episodes": 5,
        "seed": 42,
        "tracker.project": "RL-All-In-One",
        "tracker.name": "DQN-CartPole-v1",
    },
}

CONF = Path(hydra_internals.conf_dir()) / "experiment"
RESULTS = Path(__file__).parents[2] / "docs" / "results"
EXPERIMENTS = [
    str(path.relative_to(CONF).with_suffix(""))
    for path in sorted(CONF.rglob("*.yaml"))
    if not path.name.startswith("_")
]
KEPT = json.loads(Path(__file__).with_name("recipes.json").read_text(encoding="utf-8"))
OTHER_DEFAULTS = {
    "config.yaml": {
        "agent": "iqn",
        "epsilon": "fixed",
        "num_envs": "3",
        "learning_starts": "333",
        "train_frequency": "3",
        "gradient_steps": "3",
        "batch_size": "33",
    },
    "network/mlp.yaml": {
        "hidden_sizes": "[33, 33]",
        "norm": "none",
        "activation": "silu",
        "dueling": "true",
        "noisy": "0.3",
    },
    "buffer/uniform.yaml": {"capacity": "333333"},
}


def resolved(name):
    (job,) = Command([f"experiment={name}"]).jobs
    return parse(job.config)


@pytest.mark.parametrize("name", KEPT)
def test_a_recipe_stays_what_it_was(name):
    """A setting that is newer than the list has its old behavior there."""
    assert resolved(name) == parse({**KEPT[name], "experiment": name})


@pytest.mark.parametrize("name", [*KEPT, "rainbow", "swanlab_cartpole_hl_gauss"])
def test_other_defaults_change_no_recipe(name, tmp_path, monkeypatch):
    """Each default by which an agent learns is another one here."""
    before, conf = resolved(name), tmp_path / "conf"
    shutil.copytree(hydra_internals.conf_dir(), conf)
    for file, others in OTHER_DEFAULTS.items():
        text = (conf / file).read_text()
        for key, value in others.items():
            text, count = re.subn(rf"(?m)^([- ]*{key}: ).*$", rf"\g<1>{value}", text)
            assert count == 1, key
        (conf / file).write_text(text)
    monkeypatch.setattr(hydra_internals, "conf_dir", lambda: str(conf))
    (job,) = Command([]).jobs
    default = parse(job.config)
    assert (default.agent.name, default.batch_size) == ("iqn", 33)
    assert resolved(name) == before


@pytest.mark.parametrize("name", TABLE)
def test_a_recipe_is_its_column_of_the_table(name):
    config = resolved(name).plain()
    flat = flatten(config)
    for key, value in (COMMON | TABLE[name]).items():
        group, _, rest = key.partition(".")
        place = config[group] if not rest else config[group].get(rest, flat.get(key))
        assert place == value, key


def test_rainbow_is_nothing_but_settings():
    """Those of Hessel et al. 2018, table 1, and ours for a small task, all as one types them."""
    paper = [
        "agent=c51", "agent.num_atoms=51", "agent.double=true", "agent.n_step=3",
        "agent.gamma=0.99", "agent.optimizer.eps=1.5e-4", "network.dueling=true",
        "network.noisy=0.5", "epsilon=fixed", "epsilon.value=0", "buffer=prioritized",
        "buffer.alpha=0.5", "buffer.beta_start=0.4", "target_update=hard",
    ]  # fmt: skip
    ours = [
        "agent.lr=1e-3", "agent.lr_schedule=constant", "agent.max_grad_norm=10",
        "network.hidden_sizes=[128,128]", "network.norm=none", "batch_size=64",
    ]  # fmt: skip
    (job,) = Command([*paper, *ours]).jobs
    assert resolved("rainbow") == parse({**job.config, "experiment": "rainbow"})


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_known_by_its_name(name):
    assert resolved(name).experiment == name


def changes(name: str, other: str) -> set[str]:
    """The keys of the experiment `name`, and groups of which it has another option, that differ."""
    flat, plain = (flatten(resolved(experiment).plain()) for experiment in (name, other))
    sections = {key: key.split(".")[0] if key.endswith(".name") else key for key in plain}
    return {sections[key] for key in plain if flat.get(key) != plain[key]} - {"experiment"}


def test_an_ablation_changes_one_thing_of_plain_dqn():
    """Beside its name; rainbow changes six, and noise on the weights takes the place of ε."""

    def changed(name):
        return changes(f"ablation/{name}", "ablation/plain")

    assert {name: changed(name) for name in ("double", "dueling", "n_step", "layer_norm")} == {
        "double": {"agent.double"}, "dueling": {"network.dueling"},
        "n_step": {"agent.n_step"}, "layer_norm": {"network.norm"},
    }  # fmt: skip
    assert changed("munchausen") == {"agent.td_target"}
    assert changed("prioritized") == {"buffer"}
    assert changed("noisy") >= {"network.noisy", "epsilon"}
    agents = [changed(name) for name in ("c51", "qr_dqn", "iqn", "hl_gauss")]
    others = {"agent.loss", "agent.clip_target", "agent.optimizer.eps"}
    assert all({"agent"} <= keys <= {"agent", *others} for keys in agents)
    assert {"agent", "agent.double", "agent.n_step", "buffer", "network.dueling",
            "network.noisy"} <= changed("rainbow")  # fmt: skip


def test_the_experiments_on_minatar_differ_in_their_agents():
    loss = {"agent", "agent.loss", "agent.clip_target", "agent.max_grad_norm"}
    assert changes("minatar/hl_gauss", "minatar/dqn") == loss | {"agent.lr"}
    assert changes("minatar/combined", "minatar/hl_gauss") == {"agent.td_target"}


def test_the_kept_run_of_pong_has_the_settings_of_its_experiment():
    """But for where it computed, and what is found out when a run begins."""
    (job,) = Command(["experiment=pong", "network.precision=bfloat16", "seed=8000"]).jobs
    settings = flatten(parse(job.config).plain())
    kept = yaml.safe_load((RESULTS / "pong" / "8000" / "config.yaml").read_text())
    found = {"buffer.beta_steps", "buffer.storage", "compile", "device", "torch_threads"}
    same = {key for key in settings if not key.startswith(("tracker.", "experiment"))} - found
    assert {key: settings[key] for key in same} == {key: flatten(kept)[key] for key in same}


def test_the_tracker_is_told_what_swanlab_cartpole_is():
    assert "target network" in resolved("swanlab_cartpole").tracker.description


def test_a_phase_of_lunarlander_cannot_exceed_its_buffer():
    config = resolved("lunarlander_sarsa")
    limit = gym.spec(config.env.id).max_episode_steps
    assert config.buffer.capacity >= config.phase.episodes * limit


@pytest.mark.parametrize("name", TABLE)
def test_a_recipe_names_what_it_repaired_and_how_to_film(name):
    text = Path(__file__).parents[2].joinpath(f"conf/experiment/{name}.yaml").read_text()
    assert text.startswith("# @package _global_\n")
    repairs = {
        "hands_on_rl": ["rewards", "seed 0", "initial weights"],
        "joyrl": ["200 episodes"],
        "pytorch_tutorial": ["termination"],
        "lunarlander_sarsa": ["γ", "terminal mask", "v2", "--videos 10"],
        "swanlab_cartpole": ["20,000", "--checkpoint best --videos 3 --max-steps 1500"],
    }
    comment = " ".join(line[1:] for line in text.splitlines() if line.startswith("#"))
    for words in repairs[name]:
        assert words in " ".join(comment.split())


RUNS = {
    # what makes it end within hundreds of steps, and how many updates it then makes
    "hands_on_rl": (["total_timesteps=300"], lambda steps, _: steps - 64),
    "joyrl": (["total_timesteps=300"], lambda steps, _: steps - 63),
    "pytorch_tutorial": (["total_timesteps=300"], lambda steps, _: steps - 127),
    "swanlab_cartpole": (["total_timesteps=300"], lambda steps, _: steps - 63),
    "swanlab_cartpole_hl_gauss": (["total_timesteps=300"], lambda steps, _: steps - 129),
    "rainbow": (["total_timesteps=1100"], lambda steps, _: steps - 999),
    "lunarlander_sarsa": (
        ["total_episodes=5", "phase.episodes=2", "eval.interval=2"],
        lambda _, sizes: sum(3 * (size // 128) for size in sizes),
    ),
}


@pytest.fixture
def curves_for_swanlab():
    """Each recipe draws its curve: it logs other rows than the others."""


@pytest.mark.parametrize("name", RUNS)
def test_a_recipe_runs_to_its_end(command, name):
    short, updates = RUNS[name]
    outcome = command(
        f"experiment={name}", *short, "compile=never", "device=cpu", "tracker.mode=disabled",
        "eval.final_episodes=2", "hydra.run.dir=run",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    result = json.loads(Path("run/result.json").read_text())
    assert result["status"] == "finished"
    state = torch.load("run/checkpoints/last.pt", weights_only=True)
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    ended = {r["episodes"]: r["env_steps"] for r in rows if "rollout/episode_length" in r}
    sizes = [ended.get(last, 0) - ended.get(last - n, 0) for last, n in ((2, 2), (4, 2), (5, 1))]
    assert state["agent"]["updates"] == updates(result["env_steps"], sizes) > 0
    assert Path("run/curve.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("settings", "updates"),
    [
        (["total_timesteps=50000"], 50_000),
        (["total_timesteps=50000", "train_frequency=4", "gradient_steps=2"], 25_000),
        (["total_timesteps=null", "total_episodes=200"], 50_000),  # of 500 steps at most
        (["total_timesteps=20000", "total_episodes=200"], 20_000),
        (["total_timesteps=null", "total_episodes=20", "env.id=FrozenLake-v1"], 1000),
        (
            ["total_timesteps=12800", "phase.episodes=10", "phase.epochs=3", "learning_starts=0"],
            300 * 8,
        ),
    ],
)
def test_updates_expected_of_a_budget(compose, settings, updates):
    """What compile=auto compares with the price of compiling."""
    config = compose(*settings)
    env = gym.make(config.env.id)
    assert expected_updates(config, env) == updates
    env.close()
