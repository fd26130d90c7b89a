"""The tests that the docs name are there, and results are what the kept runs give."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from dqn_runner.compare import command_line

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


RESULTS = REPOSITORY / "docs" / "results.md"
# Returns of their DQN at 5,000,000 frames of MinAtar, read off the plots (Young and Tian 2019).
YOUNG_AND_TIAN = {"Asterix": 17, "Breakout": 10, "Freeway": 50, "Seaquest": 20, "SpaceInvaders": 44}
# What `dqn-compare` printed of runs that are kept, below the command.
PRINTED = re.compile(r"^```\n\$ dqn-compare (.*)\n((?s:.*?))^```$", re.MULTILINE)


@pytest.mark.parametrize("arguments", [found[1] for found in PRINTED.finditer(RESULTS.read_text())])
def test_results_are_what_the_kept_runs_give(arguments, monkeypatch, capsys):
    monkeypatch.chdir(REPOSITORY)
    assert command_line([*shlex.split(arguments), "--no-figures"]) == 0
    printed = {found[1]: found[2] for found in PRINTED.finditer(RESULTS.read_text())}
    assert capsys.readouterr().out.strip() == printed[arguments].strip()


@pytest.fixture
def compared(monkeypatch, capsys):
    """What the command of docs/results.md with this folder and this option says, as JSON."""

    def read(folder: str, option: str) -> Any:
        monkeypatch.chdir(REPOSITORY)
        commands = [shlex.split(found[1]) for found in PRINTED.finditer(RESULTS.read_text())]
        (arguments,) = (c for c in commands if c[0] == f"docs/results/{folder}" and option in c)
        assert command_line([*arguments, "--no-figures", "--format=json"]) == 0
        return json.loads(capsys.readouterr().out)

    return read


def test_the_summary_of_the_ablation_is_what_the_kept_runs_give(compared):
    found = compared("ablation", "--normalize")
    iqm = {(g["environment"], g["group"], g["metric"]): g for g in found["groups"]}
    better = {(p["environment"], p["above"]): p for p in found["improvements"]}
    together = "all environments"
    environments = [together, *sorted({name for name, _, _ in iqm} - {together})]
    rows = []
    for name, group, metric in iqm:
        if (name, metric) == (together, "area"):
            scores = [iqm[together, group, m] for m in ("area", "final")]
            cells = [f"{s['IQM']:.2f} [{s['IQM_low']:.2f}, {s['IQM_high']:.2f}]" for s in scores]
            pairs = [better.get((environment, group)) for environment in environments]
            cells += [f"{p['value']:.2f} [{p['low']:.2f}, {p['high']:.2f}]" if p else "–"
                      for p in pairs]  # fmt: skip
            rows.append(f"| `{group.rsplit('/')[-1]}` | {' | '.join(cells)} |")
    assert len(rows) == 13
    assert "\n".join(rows) in RESULTS.read_text()


def test_the_summary_of_minatar_is_what_the_kept_runs_give(compared):
    def of_each_agent(option: str, environment: str) -> list[dict[str, Any]]:
        found = {(g["environment"], g["group"]): g for g in compared("minatar", option)["groups"]
                 if g["metric"] == "final"}  # fmt: skip
        return [
            found[environment, f"experiment=minatar/{a}"] for a in ("dqn", "hl_gauss", "combined")
        ]

    rows = []
    for game, published in YOUNG_AND_TIAN.items():
        groups = of_each_agent("--threshold", f"MinAtar/{game}-v1")
        cells = [f"{g['IQM']:.1f} [{g['IQM_low']:.1f}, {g['IQM_high']:.1f}]" for g in groups]
        reached = [f"{g['reached_threshold']} of {g['runs']}" for g in groups]
        rows.append(f"| {' | '.join([game, *cells, str(published), *reached])} |")
    groups = of_each_agent("--normalize", "all environments")
    cells = [f"{g['IQM']:.2f} [{g['IQM_low']:.2f}, {g['IQM_high']:.2f}]" for g in groups]
    rows.append(f"| {' | '.join(['all, divided by theirs', *cells, '1'])} | | | |")
    assert "\n".join(rows) in RESULTS.read_text()


def test_all_kept_runs_are_in_the_results():
    kept = {path.parent for path in (REPOSITORY / "docs" / "results").rglob("config.yaml")}
    compared = [found[1].split()[0] for found in PRINTED.finditer(RESULTS.read_text())]
    assert compared
    assert kept == {path for path in kept for folder in compared
                    if path.is_relative_to(REPOSITORY / folder)}  # fmt: skip
