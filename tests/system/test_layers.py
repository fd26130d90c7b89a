"""Imports point only downward."""

from __future__ import annotations

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
