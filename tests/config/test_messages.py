"""Every option of conf/ works, every key of it is read, and what is wrong is said in a line."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from building import build
from pictures import images
from pydantic import AfterValidator, BaseModel
from rich.console import Console

from dqn_runner.composing.hydra_internals import conf_dir
from dqn_runner.config.messages import checked
from dqn_runner.config.root import Config, parse
from dqn_runner.custom import Custom
from dqn_runner.envs.make import make_env, obs_spec_of
from dqn_runner.errors import ConfigError
from dqn_runner.runs import lifecycle as run_module
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.spec import Spec
from dqn_runner.tracking.tracker import SwanLabTracker

CONF = Path(conf_dir())
OPTIONS = sorted(f"{path.parent.name}={path.stem}" for path in CONF.glob("*/*.yaml"))
OPTIMIZERS = {
    "adam": ["betas=[0.8,0.9]", "eps=1e-4", "weight_decay=0.01", "amsgrad=true"],
    "adamw": ["betas=[0.8,0.9]", "eps=1e-4", "weight_decay=0.01", "amsgrad=true"],
    "rmsprop": ["alpha=0.9", "eps=1e-4", "weight_decay=0.01", "momentum=0.5", "centered=true"],
    "sgd": ["weight_decay=0.01", "momentum=0.5", "nesterov=true"],
}

INITS = {"uniform": ["low=-1", "high=1"], "normal": ["std=1"], "orthogonal": ["gain=2"]}
ONE_STEP = ["agent.double=false", "agent.n_step=1"]


def read_yaml(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def fitting(option: str) -> list[str]:
    """An environment with the smallest images, more or less, for an option that needs some."""
    sizes = {"network=nature_cnn": 36, "network=data_efficient_cnn": 25}
    size = sizes.get(option, 4)
    return [option, *(images([size, size]) if option.endswith("_cnn") else [])]


def spec_classes(kind: object) -> set[type[Spec]]:
    """The sections that a type annotation can hold, with those inside them."""
    if isinstance(kind, type) and issubclass(kind, Spec):
        inner = [field.annotation for field in kind.model_fields.values()]
        return {kind}.union(*map(spec_classes, inner))
    if not isinstance(kind, type) or typing.get_args(kind):
        return set().union(*map(spec_classes, typing.get_args(kind)))
    return set()


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_parses_and_builds(option, compose, tmp_path):
    config = compose(*fitting(option), *(["learning_starts=0"] if "sarsa" in option else []))
    decided, parts = build(config, RunDirectory(tmp_path))
    step = parts.envs.step(parts.agent.act(parts.envs.obs, 1.0))
    assert step.obs.shape[1:] == obs_spec_of(config.env, make_env(config.env)).shape
    assert parse(decided.plain()) == decided  # config.yaml can be read back
    parts.envs.close()


def test_there_is_an_option_for_each_group():
    groups = {option.split("=")[0] for option in OPTIONS}
    assert groups >= {"env", "agent", "network", "buffer", "epsilon", "target_update", "tracker"}
    assert groups <= set(Config.model_fields) | {"experiment"}


@pytest.mark.parametrize("option", [o for o in OPTIONS if not o.startswith("experiment")])
def test_keys_of_an_option_are_the_fields_of_its_section(option, compose):
    group, name = option.split("=")
    section = getattr(compose(*fitting(option)), group)
    keys = read_yaml(CONF / group / f"{name}.yaml")
    keys = keys.get(group, keys)  # the preset of an environment sets other groups too
    assert set(keys) == set(type(section).model_fields)
    if group == "agent":
        kinds = typing.get_args(type(section).model_fields["optimizer"].annotation)
        fields = set().union(*(kind.model_fields for kind in kinds))
        assert set(keys["optimizer"]) == fields
    if group == "network":
        kinds = typing.get_args(type(section).model_fields["init"].annotation)
        assert set(keys["init"]) == set().union(*(kind.model_fields for kind in kinds))


def test_root_keys_are_the_fields_of_the_configuration():
    root = read_yaml(CONF / "config.yaml")
    groups = {key for entry in root.pop("defaults") if isinstance(entry, dict) for key in entry}
    root.pop("hydra")
    assert set(root) | groups - {"experiment"} == set(Config.model_fields)
    for name, value in root.items():
        if isinstance(value, dict):
            (section,) = spec_classes(Config.model_fields[name].annotation)
            assert set(value) == set(section.model_fields)


@pytest.mark.slow
def test_no_key_is_dead(compose, tmp_path, monkeypatch):
    """Runs that use every option between them read every key: not to check or to print it."""
    pytest.importorskip("ale_py")
    swept = ("epsilon", "network", "buffer", "target_update", "agent")
    runs = [fitting(option) for option in OPTIONS if option.split("=")[0] in swept]
    for name, settings in OPTIMIZERS.items():
        values = [f"agent.optimizer.{setting}" for setting in settings]
        runs.append(["agent.max_grad_value=1", f"agent.optimizer.name={name}", *values])
    for name, settings in INITS.items():
        values = [f"network.init.{setting}" for setting in settings]
        runs.append([f"network.init.name={name}", *values])
    monkeypatch.delenv("SWANLAB_API_KEY", raising=False)
    online = ["tracker.mode=online", "tracker.host=http://127.0.0.1:9"]
    runs.append([*online, "total_episodes=5"])
    runs.append(["agent.behaviour=softmax", "agent.td_target=sarsa", *ONE_STEP])
    runs.append(["agent.td_target=munchausen", "agent.double=false", "agent.reset_interval=9"])
    runs.append(["phase.episodes=2", "phase.epochs=1", "learning_starts=0"])
    runs.append(["env=atari", "network=mlp", "eval.max_episode_steps=9"])
    configs = [compose("total_timesteps=120", "eval.interval=60", *given) for given in runs]
    read: set[tuple[type, str]] = set()

    def recorder(self: object, name: str) -> object:
        if not name.startswith("_"):
            read.update((cls, name) for cls in type(self).__mro__)
        return BaseModel.__getattribute__(self, name)

    for name in ("announce", "draw_curve", "report"):
        monkeypatch.setattr(run_module, name, lambda *_: None)
    monkeypatch.setattr(SwanLabTracker, "log_media", lambda *_: None)
    with monkeypatch.context() as patch:
        patch.setattr(Spec, "__getattribute__", recorder, raising=False)
        for i, config in enumerate(configs):
            path = tmp_path / str(i)
            path.mkdir()
            run_module.run(config, path, Console(quiet=True))

    sections = spec_classes(Config)
    assert len(sections) > 12
    keys = {(_declaring(cls, field), field) for cls in sections for field in cls.model_fields}
    dead = {f"{cls.__name__}.{f}" for cls, f in keys - read if not _is_discriminator(cls, f)}
    # The command line reads resume and notify, dqn-compare experiment; a preset sets other keys.
    by_others = {"Config.resume", "Config.experiment", "SwanLabSpec.notify", "AtariSpec.preset"}
    assert dead == by_others


def _declaring(cls: type[Spec], field: str) -> type[Spec]:
    """The class that `field` comes from: agents share keys, and one that reads them is enough."""
    declaring: type[Spec] = next(
        c for c in reversed(cls.__mro__) if field in vars(c).get("__annotations__", ())
    )
    return declaring


def _is_discriminator(cls: type[Spec], field: str) -> bool:
    kind = cls.model_fields[field].annotation
    return field == "name" and (cls is Custom or typing.get_origin(kind) is typing.Literal)


def test_specs_refuse_unknown_keys_and_changes(compose):
    config = compose()
    for cls in spec_classes(Config) - {Custom}:
        assert cls.model_config["extra"] == "forbid", cls
        assert cls.model_config["frozen"], cls
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3


WRONG = [
    # section, key, value, what the line must say beside the key and the value
    ("", "seed", -1, ["greater than or equal to 0"]),
    ("", "device", "tpu", ["auto", "cpu", "cuda", "cuda:N", "mps"]),
    ("", "compile", "sometimes", ["auto", "always", "never"]),
    ("", "num_envs", 0, ["greater than 0"]),
    ("", "total_timesteps", "many", ["integer"]),
    ("", "total_timesteps", 10.5, ["integer"]),
    ("", "learning_starts", -5, ["greater than or equal to 0"]),
    ("", "torch_threads", 0, ["greater than 0", "auto"]),
    ("", "nonsense", 1, ["no such key", "seed", "batch_size", "buffer"]),
    ("eval", "unit", "second", ["env_step", "episode"]),
    ("eval", "interval", 0, ["greater than 0"]),
    ("eval", "num_episodes", None, ["null", "integer"]),
    ("log", "intervall", 5, ["no such key", "log has interval"]),
    ("agent", "lr", "fast", ["number"]),
    ("agent", "lr", float("nan"), ["finite"]),
    ("agent", "loss", "l1", ["mse", "huber"]),
    ("agent", "double", "perhaps", ["boolean"]),
    ("agent", "gamma", 1.01, ["less than or equal to 1"]),
    ("agent", "n_step", 0, ["greater than 0"]),
    ("agent", "lrr", 1, ["no such key", "agent has", "lr", "gamma"]),
    ("agent.optimizer", "name", "lion", ["adam", "adamw", "rmsprop", "sgd"]),
    ("agent.optimizer", "momentum", 0.9, ["adam takes only", "betas", "eps"]),
    ("agent.optimizer", "eps", 0.0, ["greater than 0"]),
    ("network", "activation", "swish", ["relu", "tanh", "silu"]),
    ("network", "name", "cnn", ["mlp", "package.module:Class"]),
    ("epsilon", "name", "cosine", ["linear", "exponential", "package.module:Class"]),
    ("epsilon", "decay_steps", 0, ["greater than 0"]),
    ("epsilon", "end", -0.1, ["greater than or equal to 0"]),
    ("target_update", "tau", 2.0, ["less than or equal to 1"]),
    ("target_update", "name", "medium", ["hard", "soft"]),
    ("tracker", "mode", "cloud", ["offline", "online", "local", "disabled"]),
    ("tracker", "project", "a b", ["pattern"]),
    ("buffer", "capacity", 10, ["at least", "batch_size=16"]),
    ("agent", "temperature", 0.0, ["greater than 0"]),
    ("agent", "temperature", -1.0, ["greater than 0"]),
    ("agent", "behaviour", "boltzmann", ["greedy", "softmax"]),
    ("agent", "td_target", "expected", ["max", "sarsa", "munchausen"]),
    ("agent", "reward_clip", 0.0, ["greater than 0"]),
    ("agent", "reward_scale", -1.0, ["greater than 0"]),
    ("agent", "reset_interval", 0, ["greater than 0"]),
    ("agent.munchausen", "clip", 0.0, ["less than 0"]),
    ("agent.munchausen", "temperature", 0.0, ["greater than 0"]),
    ("agent.munchausen", "tau", 0.1, ["no such key", "alpha", "temperature", "clip"]),
    ("phase", "episodes", 0, ["greater than 0"]),
]


@pytest.mark.parametrize(("section", "key", "value", "fragments"), WRONG)
def test_error_line_names_key_value_and_what_is_allowed(compose, section, key, value, fragments):
    data = compose().plain()
    place = data
    for name in filter(None, section.split(".")):
        place = place[name]
    if section == "agent.optimizer":
        place = data["agent"]["optimizer"] = {"name": "adam"}
    place[key] = value
    dotted = f"{section}.{key}".removeprefix(".")
    with pytest.raises(ConfigError) as caught:
        parse(data)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"{dotted}={'null' if value is None else value}")
    for fragment in fragments:
        assert fragment in line


REFUSED_TOGETHER = [
    # settings, how the line begins, and what it says must be
    (
        ["agent.td_target=sarsa"],
        "agent.td_target=sarsa: ",
        ["agent.double=false", "agent.n_step=1"],
    ),
    (
        ["agent.td_target=sarsa", "agent.n_step=1"],
        "agent.td_target=sarsa: ",
        ["agent.double=false"],
    ),
    (
        ["agent.td_target=sarsa", "agent.double=false"],
        "agent.td_target=sarsa: ",
        ["agent.n_step=1"],
    ),
    (["agent.td_target=munchausen"], "agent.td_target=munchausen: ", ["agent.double=false"]),
    (
        ["agent=iqn", "agent.td_target=munchausen"],
        "agent.td_target=munchausen: ",
        ["agent.double=false", "softmax of the target network"],
    ),
    (["agent=c51", "agent.td_target=sarsa"], "agent.td_target=sarsa: ", ["agent.n_step=1"]),
    (["agent=c51", "agent.v_min=3", "agent.v_max=3"], "agent.v_min=3.0: ", ["v_max=3.0"]),
    (["phase.episodes=5"], "phase.epochs=null: ", ["phase.episodes"]),
    (["phase.epochs=5"], "phase.episodes=null: ", ["phase.epochs"]),
    (
        ["phase.episodes=5", "phase.epochs=1", "learning_starts=0", "buffer.storage=frames"],
        "buffer.storage=frames: ",
        ["phase.episodes=5", "needs rows"],
    ),
    (
        ["phase.episodes=5", "phase.epochs=1", "learning_starts=50"],
        "learning_starts=50: ",
        ["phase.episodes=5", "learning_starts=0"],
    ),
    (
        ["phase.episodes=5", "phase.epochs=1", "learning_starts=0", "train_frequency=4"],
        "train_frequency=4: ",
        ["phase.episodes=5", "train_frequency=1"],
    ),
    (
        ["phase.episodes=5", "phase.epochs=1", "train_frequency=4", "gradient_steps=2"],
        "learning_starts=50 train_frequency=4 gradient_steps=2: ",
        ["learning_starts=0", "train_frequency=1", "gradient_steps=1"],
    ),
]


@pytest.mark.parametrize(("settings", "start", "fragments"), REFUSED_TOGETHER)
def test_settings_that_make_no_sense_together(compose, settings, start, fragments):
    with pytest.raises(ConfigError) as caught:
        compose(*settings)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(start)
    for fragment in fragments:
        assert fragment in line


def test_each_mistake_is_named(compose):
    data = compose().plain()
    data["agent"]["lr"], data["batch_size"] = 0, 0
    del data["seed"]
    with pytest.raises(ConfigError) as caught:
        parse(data)
    for mistake in ("agent.lr=0: ", "batch_size=0: ", "seed: must be given"):
        assert mistake in str(caught.value)


def test_position_in_a_list_is_named(compose):
    data = compose().plain()
    data["network"]["hidden_sizes"] = [64, 0]
    with pytest.raises(ConfigError, match=r"network\.hidden_sizes\[1\]=0: .*greater than 0"):
        parse(data)


@pytest.mark.parametrize("key", ["seed", "batch_size", "eval.num_episodes", "agent.n_step"])
def test_a_truth_value_is_not_a_number(compose, key):
    data = compose().plain()
    *parents, name = key.split(".")
    place = data[parents[0]] if parents else data
    place[name] = True
    with pytest.raises(ConfigError, match=f"{key}=True"):
        parse(data)


def _even(number: int) -> int:
    if number % 2:
        raise ValueError("must be even")
    return number


class Section(Spec):
    """A section outside of the configuration, as a launcher has one."""

    time: int
    even: Annotated[int, AfterValidator(_even)] = 0


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"time": "x"}, "hydra.part.time=x: must be a valid integer, unable to parse"),
        ({"time": 1, "even": 1}, "hydra.part.even=1: must be even"),
        ({"time": True}, "hydra.part.time=True: must not be true or false"),
        ({}, "hydra.part.time: must be given"),
        (
            {"time": 1, "timee": 2},
            "hydra.part.timee=2: no such key; hydra.part has time; did you mean hydra.part.time?",
        ),
    ],
)
def test_a_section_of_a_launcher_is_checked_in_the_same_words(settings, line):
    with pytest.raises(ConfigError) as caught:
        checked(Section, settings, "hydra.part")
    assert str(caught.value).startswith(line)
