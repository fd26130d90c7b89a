"""The page of SwanLab's dashboard is the one that is changed, and only what is meant is changed."""

from __future__ import annotations

import re
import shutil

import pytest
from dashboards import needs_swanboard

from dqn_runner.errors import ConfigError
from dqn_runner.swanlab_internals import page as page_files


@needs_swanboard
def test_another_page_of_swanboard_is_told_in_a_line(tmp_path, monkeypatch):
    """The one test that fails when swanboard's page changes."""
    page_files.check()
    template = tmp_path / "template"
    shutil.copytree(page_files._template(), template)
    monkeypatch.setattr(page_files, "_template", lambda: template)
    page_files.check()
    for beginning, texts in page_files.REPLACED.items():
        (path,) = (p for p in template.glob(f"{beginning}*") if p.suffix != ".css")
        content = path.read_text()
        for text in texts:
            assert content.count(text) == 1
            path.write_text(content.replace(text, "x"))
            with pytest.raises(ConfigError, match=re.escape(beginning)):
                page_files.check()
            path.write_text(content)


@needs_swanboard
def test_the_page_is_changed_and_nothing_else():
    index, kind = page_files.file("index.html") or (b"", "")
    assert b'<script src="/page.js">' in index
    assert kind == "text/html"
    assert page_files.file("page.css") is not None
    assert page_files.file("../app.py") is None
    assert page_files.file("nothing.js") is None
    for path in (page_files._template() / "assets").iterdir():
        found = page_files.file(f"assets/{path.name}")
        assert found is not None
        is_changed = any(f"assets/{path.name}".startswith(b) for b in page_files.REPLACED)
        assert (found[0] == path.read_bytes()) == (not is_changed or path.suffix == ".css")
