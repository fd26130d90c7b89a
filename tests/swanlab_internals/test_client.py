"""What SwanLab keeps internal is used in one folder, and what is replaced is put back."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from requests.adapters import HTTPAdapter
from swanlab.sdk.internal.pkg.client import session

import dqn_runner
from dqn_runner.errors import ConfigError
from dqn_runner.swanlab_internals import check_client
from dqn_runner.swanlab_internals.client import sessions_with

PACKAGE = Path(dqn_runner.__file__).parent
INTERNAL = ("swanlab.sdk.internal", "swanlab.proto", "swanlab.plugin", "swanboard")
FILES = sorted(PACKAGE.rglob("*.py"))


def modules(tree: ast.AST) -> Iterator[str]:
    """The full names of what a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def private_attributes(tree: ast.AST) -> Iterator[str]:
    """Private attributes of anything but the object itself, however they are reached."""
    for node in ast.walk(tree):
        owner, name = None, ""
        if isinstance(node, ast.Attribute):
            owner, name = node.value, node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr"):
            owner, name = node.args[0], ast.literal_eval(node.args[1])
        is_private = name.startswith("_") and not name.endswith("__") and name != "_asdict"
        if owner and is_private and ast.unparse(owner) not in ("self", "cls", "os"):
            yield f"{ast.unparse(owner)}.{name}"


def uses(tree: ast.AST) -> list[str]:
    """What a file uses of SwanLab's internals."""
    names = list(modules(tree))
    found = [name for name in names if name.startswith(INTERNAL)]
    if any(name.partition(".")[0] == "swanlab" for name in names):
        found += private_attributes(tree)
    return found


def test_internals_are_used_in_one_folder():
    used = [path for path in FILES if uses(ast.parse(path.read_text(encoding="utf-8")))]
    assert {path.parent.name for path in used} == {"swanlab_internals"}


@pytest.mark.parametrize("module", ["swanlab.sdk.internal.core_python.sync", "swanlab.plugin"])
def test_another_swanlab_is_told_in_a_line(monkeypatch, module):
    """The test that fails if SwanLab moves what is used of it: all is imported by its name."""
    check_client()
    monkeypatch.delitem(sys.modules, "dqn_runner.swanlab_internals.client")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"swanlab \S+ is not the version .*{module}.*: pip"):
        check_client()


@pytest.mark.parametrize(
    "code",
    [
        "import swanlab.proto.swanlab.record.v1.record_pb2",
        "from swanlab.sdk import internal",
        "import swanlab\nself._run._core.store",
        "import swanlab\ngetattr(run, '_core')",
    ],
)
def test_each_kind_of_use_is_found(code):
    assert uses(ast.parse(code))


def test_adapters_are_given_to_swanlabs_sessions_alone():
    send, adapter = HTTPAdapter.send, HTTPAdapter()
    with sessions_with(lambda: adapter):
        assert session.create().get_adapter("https://a.example") is adapter
        assert HTTPAdapter.send is send
    assert session.create().get_adapter("https://a.example") is not adapter
