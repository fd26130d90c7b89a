"""The report: one page that holds all, says what the runs say, and loads and executes nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from filelock import FileLock
from run_dirs import write_run
from test_compare import run_compare

from dqn_runner.analysis import Options, as_records, compare, load_runs, report
from dqn_runner.analysis.origins import ranges
from dqn_runner.types import flatten

SCRIPT = "<script>alert(1)</script>"


class Cell(NamedTuple):
    text: str
    number: float | None


class Page(HTMLParser):
    """What a browser would find in the page, by the parser of the standard library."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.tables: dict[str, list[list[list[Cell]]]] = {}  # rows of the tables of one caption
        self.texts: dict[str, list[str]] = {}  # by tag
        self._open: list[str] = []
        self._number: float | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in ("meta", "img"):
            self._open.append(tag)
        if tag == "tr":
            self._row: list[Cell] = []
        if tag in ("td", "th"):
            number = dict(attrs).get("data-number")
            self._row.append(Cell("", None if number is None else float(number)))
        self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag  # all that is opened is closed, in order
        if tag == "caption":
            self._rows: list[list[Cell]] = []
            self.tables.setdefault(self.texts["caption"][-1], []).append(self._rows)
        if tag == "tr":
            self._rows.append(self._row)

    def handle_data(self, data):
        for tag in self._open[-1:]:
            self.texts[tag][-1] += data
        if "td" in self._open or "th" in self._open:
            self._row[-1] = Cell((self._row[-1].text + data).strip(), self._row[-1].number)

    def table(self, caption: str) -> list[dict[str, Cell]]:
        """The rows of the only table of that caption, by header."""
        (rows,) = self.tables[caption]
        headers = [cell.text for cell in rows[0]]
        return [dict(zip(headers, row, strict=True)) for row in rows[1:]]


def page_of(*directories: Path, options: Options | None = None) -> Page:
    return Page(report(compare(load_runs(directories), options), {}))


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Three learning rates, six seeds each, made by one command; the last is not finished."""
    for i, lr in enumerate((0.1, 0.01, 0.001)):
        for seed in range(6):
            finished = (lr, seed) != (0.001, 5)
            final = 100.0 * i + 7.5 * seed if finished else None
            run = write_run(
                tmp_path / "sweep" / f"lr={lr},seed={seed}", [1.0, 10.0 * i + seed], final,
                seed=seed, agent__lr=lr, tracker__host="https://secret.example",
                tracker__name=f"secret-{seed}", torch_threads=1 + seed % 2,
            )  # fmt: skip
            if finished:
                add_to_result(
                    run,
                    command="dqn-train -m agent.lr=0.1,0.01,0.001 'seed=range(0,6)' "
                    f"tracker.host=https://secret.example +tracker.name=secret-{seed}",
                    versions={"python": "3.11.7", "torch": "2.13.0" if i else "2.12.0"},
                    git_commit="0123abcd",
                )
    return tmp_path / "sweep"


def add_to_result(run: Path, **entries: object) -> None:
    path = run / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def test_the_scores_are_those_of_the_records(sweep):
    comparison = compare(load_runs([sweep]))
    records, rows = as_records(comparison), page_of(sweep).table("Scores")
    assert len(rows) == len(records) == 6
    for record, row in zip(records, rows, strict=True):
        assert (row["group"].text, row["return"].text) == (record["group"], record["metric"])
        assert row["seeds"].number == record["runs"]
        for name in ("IQM", "mean", "median"):
            assert row[name].number == record[name]
            shown = [float(n) for n in re.findall(r"-?\d+\.\d", row[name].text)]
            expected = [record[name], record[f"{name}_low"], record[f"{name}_high"]]
            np.testing.assert_allclose(shown, expected, atol=0.051)
    for record, row in zip(records[::2], page_of(sweep).table("Cost"), strict=True):
        assert row["wall time"].number == record["wall_time_seconds"]
        assert row["env steps/s"].number == record["env_steps_per_second"]
        _, reached, held, *_ = row.values()
        assert reached.number == record["median_env_steps_to_threshold"]
        assert held.number == record["median_env_steps_to_hold"]


def test_each_run_is_there_as_its_result_says(sweep):
    rows = page_of(sweep).table("Runs")
    assert [row["run"].text for row in rows] == sorted(path.name for path in sweep.iterdir())
    for row in rows:
        run = sweep / row["run"].text
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert row["group"].text == f"agent.lr={config['agent']['lr']}"
        assert row["seed"].number == config["seed"]
        if not (run / "result.json").exists():
            assert (row["status"].text, row["best"].text) == ("stopped", "–")
            assert (row["final"].number, row["env steps"].number) == (25.0, 200)
            continue
        result = json.loads((run / "result.json").read_text())
        assert row["status"].text == "finished"
        assert row["final"].number == result["final"]["mean"]
        assert row["best"].number == result["best"]["mean"]
        assert row["env steps"].number == result["env_steps"]
        assert row["wall time"].number == result["wall_time_seconds"]
    assert {row["seeds"].text for row in page_of(sweep).table("Seeds")} == {"0 to 5"}


@pytest.mark.parametrize(
    ("seeds", "text"),
    [([], "–"), ([3], "3"), ([1, 0], "0, 1"), ([2, 0, 1, 9, 1, 7, 8, 5], "0 to 2, 5, 7 to 9")],
)
def test_seeds_are_written_as_ranges(seeds, text):
    assert ranges(seeds) == text
    assert ranges([*seeds, None, "x"]) == text


def test_settings_that_differ_and_that_are_shared(sweep):
    page = page_of(sweep)
    configs = [flatten(yaml.safe_load(path.read_text())) for path in sweep.glob("*/config.yaml")]
    values: dict[str, Counter[str]] = {}
    for config in configs:
        for key, value in config.items():
            values.setdefault(key, Counter())[value if isinstance(value, str) else str(value)] += 1
    wanted = {k: v for k, v in values.items() if k != "seed" and not k.startswith("tracker.")}
    shared = {row["setting"].text: row["value"].text for row in page.table(
        "Settings that all runs share")}  # fmt: skip
    assert shared == {key: next(iter(found)) for key, found in wanted.items() if len(found) == 1}
    differing = {row["setting"].text: row for row in page.table("Settings that differ")}
    assert {
        key: [f"{value} ({n} runs)" for value, n in sorted(found.items())]
        for key, found in wanted.items()
        if len(found) > 1
    } == {key: row["values"].text.split("\n") for key, row in differing.items()}
    assert [(key, row["makes groups"].text) for key, row in differing.items()] == [
        ("agent.lr", "yes"),
        ("torch_threads", "no"),
    ]


def test_a_setting_that_only_some_runs_have_differs(tmp_path):
    write_run(tmp_path / "a", [1.0], 1.0, network={"norm": "none"})
    write_run(tmp_path / "b", [1.0], 1.0)
    (row,) = page_of(tmp_path).table("Settings that differ")
    assert (row["setting"].text, row["values"].text) == (
        "network.norm", "(not set) (1 run)\nnone (1 run)",
    )  # fmt: skip


def test_commands_versions_and_commits(sweep):
    page = page_of(sweep)
    assert [(row["command"].text, row["runs"].text) for row in page.table("Commands")] == [
        ("dqn-train -m agent.lr=0.1,0.01,0.001 'seed=range(0,6)'", "17"),
        ("(not known before a run has finished)", "1"),
    ]
    assert [tuple(cell.text for cell in row.values()) for row in page.table("Versions")] == [
        ("python", "3.11.7", "no"),
        ("torch", "2.12.0 (6 runs)\n2.13.0 (11 runs)", "yes"),
        ("git commit", "0123abcd", "no"),
    ]


def test_nothing_of_the_tracker_and_no_path_of_the_machine_is_in_the_page(sweep):
    (write_run(sweep / "damaged", [1.0]) / "config.yaml").write_text("- 1")
    text = report(compare(load_runs([sweep])))
    assert "secret" not in text
    assert "damaged: damaged/config.yaml: holds no settings; left out" in text
    assert str(sweep.parent) not in text  # nor where the runs are on this machine


def test_a_page_asks_for_nothing_from_elsewhere(sweep):
    text = report(compare(load_runs([sweep])))
    page = Page(text)
    addresses = [value for _, name, value in page.attributes if name in ("src", "href", "srcset")]
    assert len(addresses) == page.tags["img"] > 3
    assert all(value.startswith("data:image/") for value in addresses)
    assert not page.tags.keys() & {"link", "iframe", "object", "embed", "base", "form"}
    assert not re.search(r"url\(|@import|fetch\(", text)
    (policy,) = [
        value for _, name, value in page.attributes if name == "content" and "-src" in value
    ]
    hashes = {
        name: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for name in ("script", "style")
        for text in page.texts[name]
    }
    assert dict(part.split(" ", 1) for part in policy.split("; ")) == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": f"'sha256-{hashes['style']}'",
        "script-src": f"'sha256-{hashes['script']}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_figures_are_in_the_page_with_texts(sweep):
    page = Page(report(compare(load_runs([sweep]))))
    sources = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    for source in sources:
        assert b"<svg" in base64.b64decode(source.partition("base64,")[2])
    alts = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")]
    assert len(alts) == len(sources) == page.tags["figcaption"]
    assert alts[0].startswith("Learning curves. CartPole-v1")
    assert "evaluation return over env steps" in alts[0]


def test_names_and_settings_are_escaped(tmp_path):
    """Whatever a run brings is text: in names, settings, its path, its command, its versions."""
    run = write_run(tmp_path / "<b>", [1.0], 1.0, network={SCRIPT: "'\"&", "name": SCRIPT})
    write_run(tmp_path / "other", [1.0], 1.0, network={"name": "{{ 7 * 7 }}"})
    write_run(tmp_path / "<i>", [1.0], seed=3)
    add_to_result(
        run, command=f"x '{SCRIPT}", versions={"<u>": {"a": [SCRIPT]}}, git_commit=["</style>"]
    )
    text = report(compare(load_runs([tmp_path])))
    page = Page(text)
    assert page.tags["script"] == page.tags["style"] == 1
    assert not page.tags.keys() & {"i", "u"}
    assert page.tags["b"] == page.tags["figure"]  # only the titles of figures are bold
    assert f"network.name={SCRIPT}" in [row["group"].text for row in page.table("Scores")]
    assert "network.name={{ 7 * 7 }}" in [row["group"].text for row in page.table("Scores")]
    assert f"network.{SCRIPT}" in [
        row["setting"].text for row in page.table("Settings that differ")
    ]
    assert any(SCRIPT in row["command"].text for row in page.table("Commands"))
    assert [row["package"].text for row in page.table("Versions")] == ["<u>", "git commit"]


def test_results_of_any_shape_are_shown(tmp_path):
    odd: tuple[dict[str, object], ...] = (
        {"command": 5, "versions": []},
        {"versions": {"torch": None}},
        {"git_commit": {"a": 1}},
    )
    for i, extra in enumerate(odd):
        add_to_result(write_run(tmp_path / str(i), [1.0], 1.0, seed=i), **extra)
    write_run(tmp_path / "text", [1.0], 1.0, seed="<none>")
    page = page_of(tmp_path)
    assert [row["command"].text for row in page.table("Commands")] == ["(not known)"]
    assert [row["seeds"].text for row in page.table("Seeds")] == ["0 to 2"]
    assert page.table("Runs")[3]["seed"].text == "<none>"


def test_several_environments_and_all_together(tmp_path):
    for name, base in (("Acrobot-v1", -300.0), ("CartPole-v1", 100.0)):
        for seed in range(5):
            for lr in (0.1, 0.2):
                write_run(tmp_path / f"{name}{lr}{seed}", [base], base + seed, seed=seed,
                          env={"id": name}, agent__lr=lr)  # fmt: skip
    bounds = {"Acrobot-v1": (-500.0, 0.0), "CartPole-v1": (0.0, 500.0)}
    for options in (Options(), Options(bounds=bounds)):
        comparison = compare(load_runs([tmp_path]), options)
        page = Page(report(comparison, {}))
        assert len(page.tables["Scores"]) == len(comparison.rankings) == 2 + bool(options.bounds)
        assert len(page.tables["Cost"]) == 2
        numbers = [row[4].number for rows in page.tables["Scores"] for row in rows[1:]]
        assert numbers == [record["mean"] for record in as_records(comparison)]
        assert {row["environment"].text for row in page.table("Runs")} == set(bounds)
        assert page.texts["h1"] == ["Acrobot-v1, CartPole-v1: agent.lr"]


def test_runs_without_any_score_and_a_single_run(tmp_path):
    write_run(tmp_path / "none" / "a", [], seed=4)
    page = page_of(tmp_path / "none")
    assert [row["mean"].text for row in page.table("Scores")] == ["–", "–"]
    assert "Settings that differ" not in page.tables
    assert page.texts["h1"] == ["CartPole-v1"]
    assert any("no score yet" in text for text in page.texts["li"])
    write_run(tmp_path / "one" / "a", [1.0], 2.0)
    assert page_of(tmp_path / "one").table("Scores")[0]["mean"].number == 2.0


def test_the_same_runs_give_the_same_bytes(sweep, tmp_path):
    moved = shutil.copytree(sweep, tmp_path / "elsewhere" / "sweep")
    first, second = (report(compare(load_runs([folder]))) for folder in (sweep, moved))
    assert first == second


def test_the_report_is_beside_the_figures_and_shows_them(tmp_path, capsys):
    write_run(tmp_path / "a", [1.0, 2.0], 1.0)
    code, _, err = run_compare(capsys, tmp_path, "--report")
    target = tmp_path / "compare" / "report.html"
    assert (code, err.splitlines()[-1]) == (0, f"report  {target}")
    assert Page(target.read_text()).tags["img"] == len([*target.parent.glob("*.svg")]) > 0
    assert sorted(path.suffix for path in target.parent.glob("report*")) == [".html"]


def test_the_report_goes_where_it_is_asked_to(sweep, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    target = tmp_path / "new" / "page.html"
    arguments = ("--no-figures", "--format=csv", "--output=table.csv", f"--report={target}")
    assert run_compare(capsys, "sweep", *arguments)[0] == 0
    page = Page(target.read_text())
    assert page.tags["img"] == 0  # --no-figures: nothing is drawn
    assert len(page.tables["Scores"]) == 1
    assert (tmp_path / "table.csv").read_text().startswith("group,")
    assert not (sweep / "compare").exists()
    for wrong, saying in (
        (("--report", "sweep"), "argument --report: sweep is a folder; write it before --report"),
        (("sweep", "--report=table.csv/x", "--no-figures"), "--report=table.csv/x: "),
        (("sweep", "--report="), "argument --report: must not be empty"),
    ):
        code, _, err = run_compare(capsys, *wrong)
        assert (code, err.count("\n")) == (2, 1)
        assert err.startswith(f"dqn-compare: error: {saying}")


def test_following_updates_the_report(tmp_path, capsys, monkeypatch):
    running = write_run(tmp_path / "runs" / "running", [1.0])
    target = tmp_path / "runs" / "compare" / "report.html"
    lock, seen = FileLock(running / ".lock"), []
    lock.acquire()

    def finish(seconds: float) -> None:
        seen.append(Page(target.read_text()).table("Runs")[0]["status"].text)
        if lock.is_locked:
            lock.release()

    monkeypatch.setattr("time.sleep", finish)
    assert run_compare(capsys, tmp_path / "runs", "--follow", "--report", "--no-figures")[0] == 0
    assert seen == ["running", "stopped", "stopped"]


def test_a_config_with_a_date_is_left_out_in_a_line(tmp_path, capsys):
    """YAML knows more than settings: dates, sets and bytes."""
    write_run(tmp_path / "a", [1.0], 1.0)
    for i, odd in enumerate(("when: 2020-01-01", "of: !!set {a}", "in: [{2020-01-01: 1}]")):
        config = write_run(tmp_path / f"odd{i}", [1.0], 1.0) / "config.yaml"
        config.write_text(f"{config.read_text()}\n{odd}\n")
    code, out, _ = run_compare(capsys, tmp_path, "--report", "--no-figures")
    assert code == 0
    assert out.count("; left out") == 3
    assert len(Page((tmp_path / "compare" / "report.html").read_text()).table("Runs")) == 1


def seen_in_a_browser(page: Path, script: str) -> Page:
    """The page after `script`, which the page's own policy is told to allow, in a real browser.

    No name can be looked up, so nothing could come from a network.
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs chromium: apt-get install chromium")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = page.read_text().replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    copy = page.with_name("copy.html")
    copy.write_text(text.replace("</body>", f"<script>{script}</script></body>"))
    done = subprocess.run(
        [
            chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={page.parent / 'browser'}", "--virtual-time-budget=5000",
            "--dump-dom", copy.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return Page(done.stdout)


@pytest.mark.slow
def test_a_click_on_a_header_sorts_in_a_real_browser(tmp_path):
    """Numbers as numbers, names by the numbers in them, what has no number always at the end."""
    for lr, evaluations, final in (
        (2.0, [9.0], 9.0), (10.0, [1.0], 1.0), (1e-4, [100.0, 600.0], 1234.0), (0.5, [], None),
    ):  # fmt: skip
        write_run(tmp_path / "runs" / f"{lr}", evaluations, final, agent__lr=lr)
    page = tmp_path / "report.html"
    page.write_text(report(compare(load_runs([tmp_path / "runs"]), Options(metrics=("final",)))))
    clicks = {  # of the table of scores
        "start": [],
        "mean up": ["group", "mean"],
        "mean down": ["group", "mean", "mean"],
        "group up": ["group"],
        "group down": ["IQM", "group", "group"],
    }
    script = """
        {
        const order = {}, marks = {};
        const table = document.querySelector("table"), names = [...table.tHead.rows[0].cells];
        for (const [name, headers] of Object.entries(CLICKS)) {
            for (const header of names) header.setAttribute("aria-sort", "none");
            for (const text of headers) {
                const button = names.find(th => th.textContent.trim() == text).firstChild;
                button.focus();  // a button can also be reached and pressed by keyboard
                document.activeElement.click();
            }
            order[name] = [...table.tBodies[0].rows].map(row => row.cells[0].textContent);
            marks[name] = names.map(th => th.getAttribute("aria-sort"));
        }
        const painted = [...document.images].every(image => image.complete && image.naturalWidth);
        dispatchEvent(new Event("beforeprint"));
        const unfolded = document.querySelectorAll("details:not([open])").length == 0;
        dispatchEvent(new Event("afterprint"));
        const folded = document.querySelectorAll("details[open]").length == 0;
        document.title = JSON.stringify({order, marks, painted, unfolded, folded});
        }
    """.replace("CLICKS", json.dumps(clicks))
    seen = json.loads(seen_in_a_browser(page, script).texts["title"][0])
    lrs = {
        name: [text.removeprefix("agent.lr=") for text in found]
        for name, found in seen["order"].items()
    }
    assert lrs == {
        "start": ["0.0001", "2.0", "10.0", "0.5"],
        "mean up": ["10.0", "2.0", "0.0001", "0.5"],
        "mean down": ["0.0001", "2.0", "10.0", "0.5"],
        "group up": ["0.0001", "0.5", "2.0", "10.0"],
        "group down": ["10.0", "2.0", "0.5", "0.0001"],
    }
    assert seen["marks"]["mean down"] == ["none"] * 4 + ["descending", "none"]
    assert seen["marks"]["group up"] == ["ascending"] + ["none"] * 5
    assert (seen["painted"], seen["unfolded"], seen["folded"]) == (True, True, True)
