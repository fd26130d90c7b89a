"""The wheel is complete: it runs without the checkout beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]


def called(*arguments: object, **options: Any) -> str:
    done = subprocess.run(
        [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_runs_elsewhere(tmp_path, quick):
    pytest.importorskip("hatchling")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    built = tmp_path / "built"
    # Built by what is installed already: a test needs no network.
    called(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", built, REPOSITORY)
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    conf = {path.relative_to(REPOSITORY) for path in (REPOSITORY / "conf").rglob("*.yaml")}
    assert {f"dqn_runner/{path.as_posix()}" for path in conf} <= set(names)
    assert "dqn_runner/py.typed" in names  # without it a type checker ignores our annotations
    assert "dqn_runner/docs/settings.md" in names
    pages = {f"dqn_runner/analysis/report.{part}" for part in ("html.jinja", "css", "js")}
    pages |= {f"dqn_runner/swanlab_internals/page.{part}" for part in ("css", "js")}
    assert pages <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"dqn_runner"}

    target, cwd = tmp_path / "target", tmp_path / "elsewhere"
    called(*pip, "install", "--no-deps", "--no-index", "--target", target, wheel)
    cwd.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(target)}
    where = called(
        sys.executable, "-c",
        "import dqn_runner; from dqn_runner.composing.hydra_internals import conf_dir; "
        "print(dqn_runner.__file__); print(conf_dir())",
        cwd=cwd, env=environment,
    )  # fmt: skip
    assert all(Path(line).is_relative_to(target) for line in where.splitlines())

    command = target / "bin" / "dqn-train"
    assert "(number > 0)" in called(sys.executable, command, "--help", cwd=cwd, env=environment)
    out = called(sys.executable, command, *quick, "total_timesteps=200", cwd=cwd, env=environment)
    (result,) = cwd.rglob("result.json")
    assert result.relative_to(cwd).parts[:2] == ("outputs", "cartpole")
    assert json.loads(result.read_text())["env_steps"] == 200
    assert f"run    {result.parent.relative_to(cwd)}" in out
    assert list(cwd.iterdir()) == [cwd / "outputs"]
    called(
        sys.executable, target / "bin" / "dqn-eval", result.parent, "--episodes", 2, "--videos", 0,
        cwd=cwd, env=environment,
    )  # fmt: skip
