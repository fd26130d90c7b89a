"""Environments that bring settings of other groups with them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from dqn_runner.composing.command import Command
from dqn_runner.composing.help_text import help_text
from dqn_runner.composing.hydra_internals import conf_dir
from dqn_runner.config.root import parse
from dqn_runner.errors import ConfigError

CONF = Path(conf_dir())
PRESETS = sorted(
    path.relative_to(CONF / "env").with_suffix("").as_posix()
    for path in (CONF / "env").rglob("*.yaml")
    if path.read_text().startswith("# @package _global_") and not path.name.startswith("_")
)


def composed(*arguments: str):
    (job,) = Command(list(arguments)).jobs
    return job.config


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    "others",
    [
        [],
        ["agent=dqn", "epsilon=fixed", "target_update=soft", "buffer=prioritized"],
        ["agent=qr_dqn", "epsilon=multiplicative"],
        ["experiment=rainbow"],
    ],
    ids=" ".join,
)
def test_a_preset_goes_with_every_option(preset, others):
    """A mlp, whose group all have; the preset's settings of other networks are left out."""
    config = parse(composed(f"env={preset}", "network=mlp", *others))
    assert config.env.id.startswith(("MinAtar/", "MiniGrid-", "ALE/", "LunarLander-"))


def test_a_preset_wins_over_the_groups_and_loses_to_the_rest():
    plain = composed()
    preset = composed("env=minatar/breakout", "network=mlp")
    assert (plain["batch_size"], preset["batch_size"]) == (64, 32)
    assert (plain["agent"]["lr"], preset["agent"]["lr"]) == (4e-4, 2.5e-4)
    assert (plain["epsilon"]["name"], preset["epsilon"]["name"]) == ("exponential", "linear")
    chosen = composed("env=minatar/breakout", "network=mlp", "agent=c51", "batch_size=8")
    assert (chosen["agent"]["name"], chosen["agent"]["lr"], chosen["batch_size"]) == (
        "c51", 2.5e-4, 8
    )  # fmt: skip
    experiment = composed("env=minatar/breakout", "experiment=plain_dqn")
    assert experiment["env"]["id"] == "MinAtar/Breakout-v1"
    assert (experiment["agent"]["lr"], experiment["network"]["name"]) == (1e-3, "mlp")
    assert experiment["learning_starts"] == 1000


def test_beside_an_experiment_another_option_can_be_chosen():
    """What the experiment sets of its own option, and the other does not have, is left out."""
    own = composed("experiment=data_efficient_rainbow")
    assert (own["epsilon"], own["buffer"]["alpha"]) == ({"name": "fixed", "value": 0.0}, 0.5)
    other = composed("experiment=data_efficient_rainbow", "epsilon=linear", "buffer=uniform")
    assert (other["epsilon"]["name"], other["buffer"]["name"]) == ("linear", "uniform")
    assert other["buffer"]["capacity"] == own["buffer"]["capacity"]  # which both have
    assert not {"value", "alpha"} & {*other["epsilon"], *other["buffer"]}
    with pytest.raises(ConfigError, match=r"epsilon\.value=1: no such key"):
        composed("experiment=data_efficient_rainbow", "epsilon=linear", "epsilon.value=1")


def test_a_key_of_another_option_than_the_files_own_is_refused(tmp_path):
    """It is no choice of the command's, but a mistake in the file."""
    header = "# @package _global_\ndefaults:\n  - override /epsilon: linear\n"
    write(tmp_path, "experiment/wrong", header, epsilon={"value": 0.1})
    own = ["--config-dir", str(tmp_path), "experiment=wrong"]
    with pytest.raises(ConfigError, match=r"epsilon\.value=0\.1: no such key"):
        parse(composed(*own))
    assert composed(*own, "epsilon=fixed")["epsilon"]["value"] == 0.1
    assert "value" not in composed(*own, "epsilon=multiplicative")["epsilon"]
    write(tmp_path, "experiment/names_none", "# @package _global_\n", epsilon={"value": 0.1})
    with pytest.raises(ConfigError, match=r"epsilon\.value=0\.1: no such key"):
        parse(composed(*own[:2], "experiment=names_none"))


def test_an_experiment_keeps_what_another_option_has(tmp_path):
    """Be it that option's own, or of one that it includes, or of an environment's preset."""
    header = "# @package _global_\ndefaults:\n  - override /env: cartpole\n"
    write(tmp_path, "experiment/mine", header, env={"frame_stack": 4})
    write(tmp_path, "agent/slow", "defaults:\n  - dqn\n  - _self_\n", lr=0.3)
    own = ["--config-dir", str(tmp_path)]
    assert composed(*own, "experiment=mine", "env=lunarlander")["env"]["frame_stack"] == 4
    agent = composed(*own, "experiment=rainbow", "agent=slow")["agent"]
    assert (agent["name"], agent["n_step"]) == ("dqn", 3)
    assert "v_min" not in agent
    other = composed("experiment=data_efficient_rainbow", "env=minatar/breakout")
    assert (other["env"]["id"], other["agent"]["n_step"]) == ("MinAtar/Breakout-v1", 20)
    assert "preset" not in other["env"]


def test_a_sweep_over_environments_gives_each_its_own():
    jobs = Command(["-m", "env=cartpole,minatar/breakout", "network=mlp"]).jobs
    assert [job.config["batch_size"] for job in jobs] == [64, 32]
    assert [job.path.name for job in jobs] == ["env=cartpole", "env=minatar_breakout"]


def test_folders_are_named_by_the_environment():
    def folder(*arguments: str) -> str:
        return Command(list(arguments)).directory.parts[1]

    assert folder("env=minatar/breakout", "network=mlp") == "minatar_breakout"
    assert folder("env=atari", "env.game=qbert", "network=mlp") == "atari_qbert"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["env=minatar/brekout"], r".*one of acrobot, .*did you mean env=minatar/breakout\?$"),
        (["env.game=pong"], r"env\.game=pong: no such key; .*it goes with env=atari$"),
        (["env=minatar/breakout", "network=mlp", "epsilon=fixed", "epsilon.end=1"],
         r"epsilon\.end=1: no such key; epsilon has name, value; it goes with "),
    ],
)  # fmt: skip
def test_what_is_not_there_is_a_line(arguments, line):
    with pytest.raises(ConfigError) as caught:
        Command(arguments)
    assert re.match(line, str(caught.value))


def test_presets_are_listed_in_help():
    text = help_text([])
    for preset in PRESETS:
        assert preset in text
    assert "_all" not in text


def write(folder: Path, name: str, header: str, **content: object) -> None:
    path = folder / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(header + yaml.safe_dump(content))


def test_presets_of_a_users_own(tmp_path):
    mine = {"id": "CartPole-v1", "kwargs": {}, "wrappers": []}
    write(tmp_path, "env/plain", "", **mine)
    write(tmp_path, "env/mine/long", "# @package _global_\n", env=mine, total_timesteps=7,
          epsilon={"decay_steps": 3, "decay_every": 2})  # fmt: skip
    write(tmp_path, "env/typo", "# @package _global_\n", env=mine, agent={"lrr": 3})
    own = ["--config-dir", str(tmp_path)]
    assert composed(*own, "env=plain")["env"] == mine
    config = composed(*own, "env=mine/long")
    assert (config["total_timesteps"], config["epsilon"]["decay_steps"]) == (7, 3)
    assert "decay_every" not in config["epsilon"]  # which is of another schedule
    with pytest.raises(ConfigError, match=r"agent\.lrr=3: no such key"):
        parse(composed(*own, "env=typo"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["env=cartpole"], [0, "horizon"]),
        (["env=lunarlander"], [-300, 300]),
        (["env.id=Taxi-v4"], None),  # not what is known of CartPole
        (["env=acrobot", "env.id=CartPole-v1"], None),
        (["env.id=Taxi-v4", "env.return_range=[-200,20]"], [-200, 20]),
    ],
)
def test_a_range_of_returns_belongs_to_one_environment(arguments, expected):
    assert composed(*arguments)["env"]["return_range"] == expected
    jobs = Command(["-m", "env.id=CartPole-v1,Taxi-v4"]).jobs
    assert [job.config["env"]["return_range"] for job in jobs] == [[0, "horizon"], None]
