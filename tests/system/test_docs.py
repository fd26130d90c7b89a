"""The tests that the docs name are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
TESTS = {path.name: path.read_text() for path in (REPOSITORY / "tests").rglob("test_*.py")}

# `test_file.py`, `test_file.py::test_name`, or a name alone, which belongs to the file named before
# it in the line; "…" stands for the rest of a name.
NAME = re.compile(r"`(?:(?P<file>test_\w+\.py)(?:::)?)?(?P<name>test_\w+…?|…\w+…?)?`")


def missing(line: str) -> list[str]:
    """The tests that `line` names and that do not exist."""
    absent, file = [], None
    for match in NAME.finditer(line):
        file, name = match["file"] or file, match["name"] or "test_…"
        code = "\n".join(TESTS.values()) if file is None else TESTS.get(file, "")
        pattern = name.replace("…", r"\w*")
        if not re.search(rf"^def {pattern}\(", code, re.MULTILINE):
            absent.append(f"{file}::{name}")
    return absent


def test_a_name_that_is_not_there_is_found():
    here = "`test_docs.py::test_a_name_that…` and `…not_there…`"
    assert missing(here) == []
    assert missing(here + ", `…no_such_end`") == ["test_docs.py::…no_such_end"]
    assert missing("`test_nowhere.py::test_a`") == ["test_nowhere.py::test_a"]
    assert missing("`test_nowhere.py`") == ["test_nowhere.py::test_…"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_the_docs_name_exists(page):
    assert [test for line in page.read_text().splitlines() for test in missing(line)] == []
