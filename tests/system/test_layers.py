"""Imports point only downward."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def test_imports_keep_the_contracts(monkeypatch, capsys):
    pytest.importorskip("importlinter")
    from importlinter.cli import lint_imports

    monkeypatch.chdir(REPOSITORY)
    code = lint_imports(config_filename=str(REPOSITORY / "pyproject.toml"), no_cache=True)
    output = capsys.readouterr().out
    assert code == 0, output
    assert "0 broken" in output


def test_every_module_has_a_floor():
    """A module that no contract names would be free to import anything."""
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    assert any(
        contract["type"] == "layers"
        and contract["containers"] == ["dqn_runner"]
        and contract["exhaustive"]
        for contract in contracts
    )


def test_analysis_loads_no_torch():
    """A notebook that only reads results must not wait for torch."""
    code = "import sys, dqn_runner.analysis; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
