"""Each setting has a meaning, which --help and docs/settings.md take from the same place."""

from __future__ import annotations

import importlib
import pkgutil
import runpy
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import Field

import dqn_runner
from dqn_runner.composing.help_text import Page, as_value, help_text
from dqn_runner.composing.hydra_internals import conf_dir
from dqn_runner.spec import PositiveInt, Probability, Spec

DOCS = Path(__file__).resolve().parents[2] / "docs"
CONF = Path(conf_dir())


@pytest.fixture(scope="module")
def writer() -> dict[str, Any]:
    for extra in ("optuna", "ray", "submitit"):
        pytest.importorskip(extra)
    return runpy.run_path(str(DOCS / "settings.py"))


def subclasses(cls: type[Spec]) -> set[type[Spec]]:
    below = (subclasses(subclass) for subclass in cls.__subclasses__())
    return {cls}.union(*below)


@pytest.mark.usefixtures("writer")
def test_every_field_of_every_section_has_a_docstring():
    for module in pkgutil.walk_packages(dqn_runner.__path__, "dqn_runner."):
        importlib.import_module(module.name)
    specs = {cls for cls in subclasses(Spec) if cls.__module__.startswith("dqn_runner.")}
    assert len(specs) > 25
    fields = {f"{cls.__name__}.{key}": f for cls in specs for key, f in cls.model_fields.items()}
    assert [name for name, field in fields.items() if not field.description] == []


def test_the_page_is_what_the_code_says(writer):
    """After a change: python docs/settings.py > docs/settings.md."""
    assert (DOCS / "settings.md").read_text(encoding="utf-8") == writer["page"]() + "\n"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (PositiveInt | None, "integer > 0 | null"),
        (Probability, "number >= 0 and <= 1"),
        (bool, "true | false"),
        (Literal["a", "b"], "a | b"),
        (Annotated[int, Field(gt=0, le=2048)] | Literal["auto"], "integer > 0 and <= 2,048 | auto"),
        (list[str | dict[str, Any]], "list of (text | mapping)"),
        (tuple[float, bool], "[number, true | false]"),
        (Annotated[str, Field(pattern="^(x|y)$", title="x | y")], "x | y"),
    ],
)
def test_allowed_values_follow_from_the_type(writer, kind, words):
    assert writer["allowed"](kind) == words


def leaves(section: dict[str, Any], prefix: str) -> dict[str, str]:
    """The dotted keys of a section, each with the name of the section it is in."""
    found: dict[str, str] = {}
    for key, value in section.items():
        if isinstance(value, dict) and value:
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = str(section.get("name"))
    return found


def options() -> list[str]:
    files = [path.relative_to(CONF) for path in CONF.glob("*/**/*.yaml")]
    return sorted(str(path) for path in files if path.parts[0] not in ("experiment", "hydra"))


@pytest.mark.parametrize("path", options())
def test_each_key_of_conf_has_a_meaning(path):
    text, page = (CONF / path).read_text(), Page()
    settings, is_global = yaml.safe_load(text), text.startswith("# @package _global_")
    settings.pop("defaults", None)
    prefix = "" if is_global else f"{Path(path).parts[0]}."
    for key, kind in leaves(settings, prefix).items():
        if not key.startswith("env.kwargs."):  # which the environment knows alone
            assert page.about(key, kind), key


def test_settings_are_shown_as_they_would_be_used():
    text = help_text(["env=lunarlander", "agent.lr=1e-4", "epsilon=linear", "experiment=plain_dqn"])
    assert "\n  agent.lr=0.0001                     Learning rate " in text
    assert "\n  env.id=LunarLander-v3 " in text
    assert "\n  agent.double=false " in text
    assert "\n  network.hidden_sizes=[128,128]      Units of each hidden layer. (list of" in text
    # What another kind of schedule says about the same key is not shown.
    assert "ε after decay_steps. (number >= 0 and <= 1)" in text
    assert "ε that is approached" not in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("launcher", ["slurm", "ray", "slurm_gpu"])
def test_settings_of_a_launcher_have_its_meanings(launcher):
    text = help_text([f"hydra/launcher={launcher}"])
    assert ("Other options of ray.remote" in text) == (launcher == "ray")
    assert ("Other options of sbatch" in text) == (launcher != "ray")


def test_a_class_of_the_user_has_settings_of_its_own(tmp_path):
    (tmp_path / "epsilon").mkdir()
    (tmp_path / "epsilon" / "own.yaml").write_text("name: schedules:Own\nstart: 3\nwidth: 2\n")
    text = help_text(["--config-dir", str(tmp_path), "epsilon=own"])
    assert "\n  epsilon.start=3\n  epsilon.width=2\n" in text


def test_a_value_is_written_as_it_is_typed():
    typed = {
        "null": None, "true": True, "0": 0, "0.5": 0.5, "a b": "a b",
        "[1,[x]]": [1, ["x"]], "{a: 1, b: null}": {"a": 1, "b": None},
    }  # fmt: skip
    assert {as_value(value): value for value in typed.values()} == typed
