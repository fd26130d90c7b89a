"""Imports point only downward."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "dqn_runner"


def test_imports_keep_the_contracts(monkeypatch, capsys):
    pytest.importorskip("importlinter")
    from importlinter.cli import lint_imports

    monkeypatch.chdir(REPOSITORY)
    # It would silence every logger that exists, for the tests that follow.
    monkeypatch.setattr("logging.config.dictConfig", lambda _: None)
    code = lint_imports(config_filename=str(REPOSITORY / "pyproject.toml"), no_cache=True)
    output = capsys.readouterr().out
    assert code == 0, output
    assert "0 broken" in output


def modules(folder: Path) -> Iterator[str]:
    """The modules and packages directly in `folder`."""
    for path in folder.iterdir():
        if path.suffix == ".py" or (path / "__init__.py").exists():
            yield path.stem


def test_every_module_has_one_floor():
    """A module that no contract names would be free to import anything."""
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    floors = {
        contract["containers"][0]: re.findall(r"[\w.]+", " ".join(contract["layers"]))
        for contract in contracts
        if contract["type"] == "layers"
    }
    inside = {f"runs.{name}" for name in modules(PACKAGE / "runs")} - {"runs.__init__"}
    rooms = set(modules(PACKAGE)) - {"__init__", "runs"}
    assert sorted(floors["dqn_runner"]) == sorted(rooms | inside)
    assert sorted(f"runs.{name}" for name in floors["dqn_runner.runs"]) == sorted(inside)


def test_analysis_loads_no_torch():
    """A notebook that only reads results must not wait for torch."""
    code = "import sys, dqn_runner.analysis; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
