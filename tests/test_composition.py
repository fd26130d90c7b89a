"""From a command line to the jobs it asks for, their folders, and one line where it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dqn_runner.composition import Command, conf_dir
from dqn_runner.errors import ConfigError


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (Path(conf_dir()) / group).glob("*.yaml"))


def refused(*arguments: str) -> str:
    with pytest.raises(ConfigError) as caught:
        Command(list(arguments))
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_defaults_are_one_job_with_what_conf_says():
    command = Command([])
    (job,) = command.jobs
    assert not command.is_sweep
    root = yaml.safe_load((Path(conf_dir()) / "config.yaml").read_text(encoding="utf-8"))
    assert job.config["batch_size"] == root["batch_size"]
    assert job.config["env"]["id"] == "CartPole-v1"
    assert "hydra" not in job.config
    assert command.directory.parts[:2] == ("outputs", "cartpole")


def test_sweep_is_every_combination():
    jobs = Command(["-m", "agent.lr=1e-3,1e-4", "seed=0,1,2", "batch_size=32"]).jobs
    settings = [(job.config["agent"]["lr"], job.config["seed"]) for job in jobs]
    assert settings == [(lr, seed) for lr in (1e-3, 1e-4) for seed in (0, 1, 2)]
    assert all(job.config["batch_size"] == 32 for job in jobs)


@pytest.mark.parametrize(
    ("override", "values"),
    [
        ("seed=range(3)", [0, 1, 2]),
        ("seed=range(2,9,3)", [2, 5, 8]),
        ("seed=choice(4,7)", [4, 7]),
        ("seed=5", [5]),
    ],
)
def test_sweeps_by_range_and_choice(override, values):
    assert [job.config["seed"] for job in Command(["-m", override]).jobs] == values


def test_sweep_over_options_of_a_group():
    swept = options("epsilon")
    jobs = Command(["-m", f"epsilon={','.join(swept)}"]).jobs
    assert [job.config["epsilon"]["name"] for job in jobs] == swept


def test_sweep_over_an_experiment_and_none():
    jobs = Command(["-m", "experiment=none,plain_dqn"]).jobs
    assert [job.config["agent"]["double"] for job in jobs] == [True, False]


def test_list_values_sweep_as_a_whole():
    jobs = Command(["-m", "network.hidden_sizes=[8],[16,16]"]).jobs
    assert [job.config["network"]["hidden_sizes"] for job in jobs] == [[8], [16, 16]]


def test_a_sweep_needs_m():
    line = refused("agent.lr=1,2", "seed=3")
    assert line.startswith("agent.lr=1,2: ")
    assert "-m" in line


def test_folders_are_named_by_what_differs(command, quick):
    """What is the same in every job is left out of the names; nothing is cut."""
    swept = ["agent.lr=1e-3,1e-4", "env.id=CartPole-v1"]
    outcome = command("-m", *quick, "total_timesteps=20", *swept, "hydra.sweep.dir=sweep")
    assert outcome.code == 0, outcome.err
    folders = sorted(path.parent.name for path in Path("sweep").glob("*/result.json"))
    assert folders == ["agent.lr=0.0001", "agent.lr=0.001"]


def test_folder_names_of_two_keys(command, quick):
    swept = ["seed=0,1", "network.hidden_sizes=[8],[4,4]"]
    outcome = command("-m", *quick, "total_timesteps=20", *swept, "hydra.sweep.dir=sweep")
    assert outcome.code == 0, outcome.err
    folders = {path.parent.name for path in Path("sweep").glob("*/result.json")}
    sizes = ("[8]", "[4,4]")
    assert folders == {f"network.hidden_sizes={n},seed={seed}" for n in sizes for seed in (0, 1)}


def test_own_experiment_and_environment(tmp_path):
    own = {
        "env/short_cartpole": {
            "id": "CartPole-v1",
            "kwargs": {"max_episode_steps": 30},
            "wrappers": [],
        },
        "experiment/mine": {
            "defaults": [{"override /env": "short_cartpole"}, {"override /epsilon": "linear"}],
            "agent": {"lr": 0.25},
        },
    }
    for name, content in own.items():
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        header = "# @package _global_\n" if name.startswith("experiment") else ""
        path.write_text(header + yaml.safe_dump(content), encoding="utf-8")
    command = Command(["--config-dir", str(tmp_path), "experiment=mine"])
    (job,) = command.jobs
    assert job.config["env"] == own["env/short_cartpole"]
    assert job.config["epsilon"]["name"] == "linear"
    assert job.config["agent"]["lr"] == 0.25
    assert job.config["agent"]["gamma"] == 0.99
    assert command.directory.parts[:2] == ("outputs", "mine")
    # The command line has the last word, and the options of both places are listed.
    (job,) = Command(["--config-dir", str(tmp_path), "experiment=mine", "agent.lr=0.5"]).jobs
    assert job.config["agent"]["lr"] == 0.5
    line = refused("--config-dir", str(tmp_path), "env=nosuch")
    assert "short_cartpole" in line
    assert "acrobot" in line


@pytest.mark.parametrize(
    "group", sorted({p.parent.name for p in Path(conf_dir()).glob("*/*.yaml")})
)
def test_unknown_option_lists_the_options(group):
    line = refused(f"{group}=nosuch")
    assert line.startswith(f"{group}=nosuch: must be one of ")
    assert line.split("must be one of ")[1].split(", ") == options(group)


def test_unknown_option_in_a_sweep():
    line = refused("-m", "env=cartpole,nosuch")
    assert line.startswith("env=nosuch: must be one of ")


@pytest.mark.parametrize("override", ["agent.lrr=1", "+agent.foo=1"])
def test_unknown_key_lists_its_neighbours(override):
    if override.startswith("+"):
        from dqn_runner.config import parse

        (job,) = Command([override]).jobs
        with pytest.raises(ConfigError) as caught:
            parse(job.config)
        line = str(caught.value)
    else:
        line = refused(override)
    assert line.startswith(override.removeprefix("+") + ": no such key; agent has lr, gamma")


def test_unknown_key_at_the_root():
    line = refused("batchsize=3")
    assert line.startswith("batchsize=3: no such key; the configuration has ")
    assert "batch_size" in line
    assert "hydra" not in line


@pytest.mark.parametrize("group", ["env", "agent", "epsilon", "target_update", "tracker"])
def test_null_group_is_refused(group):
    assert refused(f"{group}=null") == (f"{group}=null: must be one of {', '.join(options(group))}")


def test_no_experiment_is_the_default():
    assert Command(["experiment=none"]).jobs[0].config == Command([]).jobs[0].config


def test_unknown_config_directory():
    assert refused("--config-dir", "nosuch") == "--config-dir=nosuch: no such directory"


@pytest.mark.parametrize("override", ["agent.lr=${nosuch}", "agent.lr=${seed", "agent.lr", "=3"])
def test_unreadable_overrides_are_refused_in_a_line(override):
    refused(override)


def test_interpolation_between_keys_works():
    (job,) = Command(["learning_starts=${batch_size}", "batch_size=48"]).jobs
    assert job.config["learning_starts"] == 48


@pytest.mark.parametrize("arguments", [["~experiment"], ["-m", "seed=0,1", "~experiment"]])
def test_leaving_the_experiment_out_is_no_crash(arguments, command, quick):
    """Hydra's ~group takes a group away; there may be none to take away, as by default."""
    outcome = command(*quick, "total_timesteps=20", *arguments)
    assert outcome.code in (0, 2), outcome.err
    assert "Traceback" not in outcome.err
