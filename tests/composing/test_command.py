"""From a command line to the jobs it asks for, their folders, and one line where it is wrong."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml

from dqn_runner.composing.command import Command
from dqn_runner.composing.hydra_internals import conf_dir
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


def test_a_key_of_the_options_that_are_swept_need_not_be_one_of_the_default():
    jobs = Command(["-m", "agent=qr_dqn,iqn", "agent.kappa=0"]).jobs
    assert [(job.config["agent"]["name"], job.config["agent"]["kappa"]) for job in jobs] == [
        ("qr_dqn", 0),
        ("iqn", 0),
    ]
    with pytest.raises(ConfigError, match=r"agent\.kappa=0: no such key; .* agent=iqn or agent=qr"):
        Command(["-m", "agent=qr_dqn,c51", "agent.kappa=0"])


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
        from dqn_runner.config.root import parse

        (job,) = Command([override]).jobs
        with pytest.raises(ConfigError) as caught:
            parse(job.config)
        line = str(caught.value)
    else:
        line = refused(override)
    assert line.startswith(
        override.removeprefix("+") + ": no such key; agent has name, lr, lr_schedule"
    )


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


@pytest.mark.parametrize(
    ("override", "kwargs"),
    [
        ("env.kwargs={max_episode_steps: 50}", {"max_episode_steps": 50}),
        ("env.kwargs.max_episode_steps=50", {"max_episode_steps": 50}),
        ("+env.kwargs.max_episode_steps=50", {"max_episode_steps": 50}),
        ("env.kwargs={a: {b: 1}, c: [2]}", {"a": {"b": 1}, "c": [2]}),
        ("env.kwargs={map: 地图 一, c: [二]}", {"map": "地图 一", "c": ["二"]}),
    ],
)
def test_keyword_arguments_need_no_plus(override, kwargs):
    assert Command([override]).jobs[0].config["env"]["kwargs"] == kwargs


def test_keyword_arguments_are_swept_without_a_plus():
    command = Command(["-m", "env.kwargs.max_episode_steps=50,100"])
    kwargs = [job.config["env"]["kwargs"] for job in command.jobs]
    assert kwargs == [{"max_episode_steps": 50}, {"max_episode_steps": 100}]
    names = [job.path.name for job in command.jobs]
    assert names == ["env.kwargs.max_episode_steps=50", "env.kwargs.max_episode_steps=100"]
    swept = "env.kwargs={max_episode_steps: 50},{max_episode_steps: 100}"
    assert [job.config["env"]["kwargs"] for job in Command(["-m", swept]).jobs] == kwargs


def test_a_whole_section_is_one_override():
    settings = {"agent.optimizer": "{name: sgd, momentum: 0.5}", "network.init": "{std: 1}"}
    (job,) = Command([f"{key}={value}" for key, value in settings.items()]).jobs
    optimizer, init = job.config["agent"]["optimizer"], job.config["network"]["init"]
    assert (optimizer["name"], optimizer["momentum"], optimizer["eps"]) == ("sgd", 0.5, None)
    assert (init["name"], init["std"]) == ("torch", 1)


def test_sections_of_own_classes_take_any_key(tmp_path):
    (tmp_path / "network").mkdir()
    (tmp_path / "network" / "own.yaml").write_text("name: nets:Own\nwidth: 8\n")
    own = ["--config-dir", str(tmp_path), "network=own"]
    (job,) = Command([*own, "network.depth=3"]).jobs
    assert job.config["network"] == {"name": "nets:Own", "width": 8, "depth": 3}
    assert refused(*own, "epsilon.depth=3").startswith("epsilon.depth=3: no such key; epsilon has ")


@pytest.mark.parametrize("launcher", ["slurm", "ray"])
@pytest.mark.parametrize("plus", ["", "+"])
def test_options_of_a_launcher_need_no_plus(launcher, plus):
    line = f"{plus}hydra.launcher.options.resources={{a100: 1}}"
    _, config = Command(["-m", f"hydra/launcher={launcher}", line]).context()
    assert config.hydra.launcher.options == {"resources": {"a100": 1}}


def test_sweeps_of_the_sweeper_are_one_override():
    command = Command(["-m", 'hydra.sweeper.params={seed: "1,2", agent.lr: "0.5,0.25"}'])
    found = [(job.config["seed"], job.config["agent"]["lr"]) for job in command.jobs]
    assert found == [(1, 0.5), (1, 0.25), (2, 0.5), (2, 0.25)]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["epsilon=fixed", "epsilon.end=0.1"],
         "epsilon.end=0.1: no such key; epsilon has name, value; it goes with epsilon=exponential "
         "or epsilon=linear or epsilon=multiplicative"),
        (["-m", "epsilon=linear,fixed", "epsilon.end=0.1"],
         "epsilon.end=0.1: no such key; epsilon has name, value; it goes with epsilon=exponential "
         "or epsilon=linear or epsilon=multiplicative"),
        (["target_update=hard", "target_update.tau=0.1"],
         "target_update.tau=0.1: no such key; target_update has name, interval, unit; it goes with "
         "target_update=soft"),
        (["target_update.interval=9"],
         "target_update.interval=9: no such key; target_update has name, tau; it goes with "
         "target_update=hard"),
        (["epsilon.name=fixed"],
         "epsilon.name=fixed: epsilon=fixed chooses it, with its settings"),
        (["hydra/sweeper=optuna", "hydra.sweeper.sampler.seeed=1"],
         "hydra.sweeper.sampler.seeed=1: no such key; hydra.sweeper.sampler has seed, "
         "n_startup_trials, multivariate, constant_liar; did you mean hydra.sweeper.sampler.seed?"),
    ],
)  # fmt: skip
def test_the_keys_named_are_those_of_what_is_chosen(arguments, line):
    assert refused(*arguments) == line


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("lr=1e-4", "agent.lr"),
        ("gamma=0.9", "agent.gamma"),
        ("hidden_sizes=[64]", "network.hidden_sizes"),
        ("agent.gama=0.9", "agent.gamma"),
        ("agnet.lr=1", "agent.lr"),
        ("agent/lr=1", "agent.lr"),
        ("batchsize=3", "batch_size"),
        ("experiments=plain_dqn", "experiment"),
        ("launcher=joblib", "hydra/launcher"),
        ("interval=10", "eval.interval or log.interval or checkpoint.interval"),
        ("env=CartPole-v1", "env=cartpole or env.id=CartPole-v1"),
        ("env=LunarLander-v3", "env=lunarlander or env.id=LunarLander-v3"),
        ("env=ALE/Pong-v5", "env.id=ALE/Pong-v5"),
        ("env=cartpol", "env=cartpole"),
        ("experiment=plain_dqm", "experiment=plain_dqn"),
    ],
)
def test_what_may_be_meant_is_offered(override, hint):
    line = refused(override)
    assert line.startswith(f"{override}: ")
    assert line.endswith(f"; did you mean {hint}?")


@pytest.mark.parametrize("override", ["learning_rate=1", "env=nosuch", "experiment=nosuch"])
def test_nothing_is_offered_where_nothing_is_alike(override):
    assert "did you mean" not in refused(override)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("tracker.name=实验一", "name", "实验一"),
        ("tracker.name=实验 (一): 50%", "name", "实验 (一): 50%"),
        ("tracker.name=run_${seed}_é", "name", "run_7_é"),
        ("tracker.tags=[实验,baseline,ε=0]", "tags", ["实验", "baseline", "ε=0"]),
        ("tracker.name='实验,一'", "name", "实验,一"),
    ],
)
def test_text_of_any_script_needs_no_quotes(override, key, value):
    assert Command([override, "seed=7"]).jobs[0].config["tracker"][key] == value


@pytest.mark.parametrize("values", ["实验一,b", "choice(实验一,b)"])
def test_text_of_any_script_is_swept(values):
    jobs = Command(["-m", f"tracker.name={values}"]).jobs
    assert [job.config["tracker"]["name"] for job in jobs] == ["实验一", "b"]
    assert [job.path.name for job in jobs] == ["tracker.name=实验一", "tracker.name=b"]
    # As it is launched, where Hydra composes it anew.
    assert [Command(job.overrides).jobs[0].config for job in jobs] == [job.config for job in jobs]


def test_own_options_of_any_script(tmp_path):
    (tmp_path / "配置" / "experiment").mkdir(parents=True)
    (tmp_path / "配置" / "experiment" / "我的.yaml").write_text("# @package _global_\nseed: 5\n")
    command = Command(["--config-dir", str(tmp_path / "配置"), "experiment=我的"])
    assert command.jobs[0].config["seed"] == 5
    assert command.directory.parts[:2] == ("outputs", "我的")


UNREADABLE = [
    "a:b@c#d",
    "a (b",
    "[64",
    "64]",
    "{a",
    "a=b",
    "f(a)",
    'it"s',
    "50%!",
    "'实验",
    "实验, #",
]


@pytest.mark.parametrize("value", UNREADABLE)
def test_what_hydra_cannot_read_is_quoted_by_the_line_that_says_so(value):
    """The command that the line shows can be pasted into a shell, and means what was meant."""
    line = refused(f"tracker.name={value}")
    assert line.startswith(f"tracker.name={value}: ")
    assert "Exception" not in line
    (typed,) = shlex.split(line.partition("; text with special characters is quoted: ")[2])
    assert Command([typed]).jobs[0].config["tracker"]["name"] == value


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["agent.lr"], "agent.lr: must be KEY=VALUE"),
        (["=3"], "=3: must be KEY=VALUE"),
        (["agent.lr＝3"], "agent.lr＝3: must be KEY=VALUE"),
        (["键=1"], "键=1: no such key"),
        (["+agent.lr=3"], "+agent.lr=3: agent.lr is there already; did you mean agent.lr=3?"),
        (["~agent.foo"], "~agent.foo: no such key; agent has name, lr, lr_schedule"),
        (["seed.foo=1"], "seed.foo=1: no such key"),
        (["network.hidden_sizes.foo=1"], "network.hidden_sizes.foo=1: no such key"),
        (["network.hidden_sizes.a.b=1"], "network.hidden_sizes.a.b=1: no such key"),
        (["agent.lr=${nosuch}"], "agent.lr=${nosuch}: Interpolation key 'nosuch' not found"),
        (["-m", "hydra.sweeper.params=3"], "hydra.sweeper.params=3: must be a mapping"),
        (["network=[64,64]"], "network=[64,64]: must be one of data_efficient_cnn, impala_cnn, "),
        (["--nosuch"], "unrecognized arguments: --nosuch"),
        (["-cn", "nosuch"], "--config-name=nosuch: there is no nosuch.yaml"),
        (["--config-dir="], "--config-dir=: must not be empty"),
        (["--config-path="], "--config-path=: must not be empty"),
        (["hydra.run.dir="], "hydra.run.dir=: must name a directory"),
        (["hydra.run.dir=null"], "hydra.run.dir=null: "),
        (["-m", "seed=1,2", "hydra.sweep.dir="], "hydra.sweep.dir=: must name a directory"),
        (["-m", "seed=1,2", "hydra.sweep.subdir="], "hydra.sweep.subdir=: must name a directory"),
        (["-m", "hydra.sweeper.params.seed=1,2"],
         "hydra.sweeper.params.seed=1,2: must be one value; "),
        (["-m", f"seed=range({10**9})"], f"seed=range({10**9}): must make at most 100,000 jobs"),
        (["-m", "seed=range(1000)", "batch_size=range(1,1000)"],
         "seed=range(1000) batch_size=range(1,1000): must make at most 100,000 jobs"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_a_line(arguments, line):
    assert refused(*arguments).startswith(line)
