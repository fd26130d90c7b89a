"""SwanLab's dashboard page with our changes, in a real browser that cannot reach the internet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import imageio.v3 as imageio
import numpy as np
import pytest
from dashboards import Dashboard, append, browsing, needs_swanboard, opened, write_run

from dqn_runner.analysis import draw_curve
from dqn_runner.analysis.groups import group_colors

if TYPE_CHECKING:
    from playwright.sync_api import Page

LRS, N_STEPS, SEEDS = (1e-5, 1e-4, 1e-3), (1, 3, 5), (0, 1, 2)
EVALUATION = "eval/episode_return_mean"
LOG = "[2026-01-31 12:00:00,000][dqn_runner][INFO] - evaluation at env step 400: 9.4 ± 0.8\n"


def final_return(group: int, seed: int) -> float:
    """Of groups from 8 to 536, which sort differently as letters and as numbers."""
    return 8.0 + 66.0 * group + seed


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """27 finished runs: 9 groups of 3 seeds, with all that a run leaves behind."""
    folder = tmp_path_factory.mktemp("outputs") / "mine"
    groups = [(lr, n) for lr in LRS for n in N_STEPS]
    for g, (lr, n_step) in enumerate(groups):
        for seed in SEEDS:
            final = final_return(g, seed)
            score = {"mean": final, "std": 1.5, "min": 1.0, "max": 500.0, "episodes": 100}
            agent = {"lr": lr, "gamma": 0.99, "n_step": n_step}
            config = {"seed": seed, "env": {"id": "CartPole-v1"}, "agent": agent, "batch_size": 64}
            rows = [
                {"env_steps": 100 * i, EVALUATION: final * i / 10, "train/td_loss": final / i}
                for i in range(1, 11)
            ]
            path = folder / f"agent.lr={lr},agent.n_step={n_step},seed={seed}"
            result = {"env_steps": 1000, "wall_time_seconds": 12.5, "final": score, "best": score}
            run_dir = write_run(path, rows, config, **result)
            (path / "train.log").write_text(LOG)
            if g == 0:
                draw_curve(run_dir.metrics, run_dir.curve)
                start = {
                    "time": "2026-01-31T12:00:00+00:00", "command": "dqn-train -m agent.lr=1e-5",
                    "path": str(path), "working_directory": "here", "host": "my-machine",
                    "os": "Linux 6.1", "python": "3.11.2", "cpu": "a fast one", "cores": 8,
                    "memory_bytes": 2**34, "gpu": "a GPU", "git_commit": "abcdef0",
                }  # fmt: skip
                run_dir.started.write_text(json.dumps(start) + "\n")
    return folder


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browsing() as page:
        yield page


@pytest.fixture(scope="module")
def groups(sweep, tmp_path_factory) -> Iterator[Dashboard]:
    with opened(sweep, tmp_path_factory.mktemp("temporary")) as dashboard:
        yield dashboard


@pytest.fixture(scope="module")
def runs(sweep, tmp_path_factory) -> Iterator[Dashboard]:
    with opened(sweep, tmp_path_factory.mktemp("temporary"), "--show", "runs") as dashboard:
        yield dashboard


def column(page: Page, title: str) -> list[str]:
    """What the table shows below a header."""
    return page.evaluate(
        """(title) => {
            const headers = [...document.querySelectorAll(".table-header-item")];
            const column = headers.findIndex((h) => h.innerText.trim() === title);
            const rows = [...document.querySelectorAll(".dashboard-table .line")];
            return rows.map((row) => row.children[column].innerText.trim());
        }""",
        title,
    )


def lines_of(name: str) -> str:
    return f".chart-container:has(p:text-is('{name}')) .lc-legend-item"


@needs_swanboard
@pytest.mark.slow
def test_a_click_on_a_header_sorts_by_number(groups, page):
    page.goto(groups.address)
    header = page.locator(".table-header-item", has_text="final_return").first
    header.wait_for()
    best_first = [str(final_return(g, 1)).removesuffix(".0") for g in reversed(range(9))]
    assert column(page, "final_return") == best_first  # the middle of three seeds
    header.click()
    assert column(page, "final_return") == best_first
    assert header.get_attribute("aria-sort") == "descending"
    header.click()
    assert column(page, "final_return") == best_first[::-1]
    page.locator(".table-header-item", has_text="agent.n_step").first.click()
    assert column(page, "agent.n_step") == ["5"] * 3 + ["3"] * 3 + ["1"] * 3


@needs_swanboard
@pytest.mark.slow
def test_results_and_the_settings_that_differ_are_in_sight(groups, page):
    page.goto(groups.address)
    headers = page.locator(".table-header-item")
    headers.first.wait_for()
    titles = [title.strip() for title in headers.all_inner_texts()]
    boxes = {title: headers.nth(i).bounding_box() for i, title in enumerate(titles)}
    for title in ("final_return", "best_return", "agent.lr"):
        box = boxes[title]
        assert box is not None
        assert box["x"] + box["width"] <= 1280
    equal = boxes["batch_size"]
    last = boxes["agent.n_step"]
    assert equal is not None
    assert last is not None
    assert last["x"] < equal["x"]
    rows = page.locator(".dashboard-table .line")
    for i in range(rows.count()):  # names take as many lines as they need, and cover no other row
        assert rows.nth(i).evaluate(
            """(row) => {
                const name = row.querySelector("p").getBoundingClientRect();
                const place = row.getBoundingClientRect();
                return name.top >= place.top && name.bottom <= place.bottom;
            }"""
        )


@needs_swanboard
@pytest.mark.slow
def test_a_chart_has_a_line_for_each_group_in_its_color(groups, page):
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(f"{groups.address}/charts")
    page.locator(lines_of(EVALUATION)).first.wait_for()
    names = set(page.locator(lines_of(EVALUATION)).all_inner_texts())
    assert names == {
        f"agent.lr={lr} agent.n_step={n}, IQM of 3 seeds"
        for lr in ("1e-05", "0.0001", "0.001")
        for n in N_STEPS
    }
    canvas = page.locator(f".chart-container:has(p:text-is('{EVALUATION}')) canvas")
    picture = imageio.imread(canvas.screenshot())[..., :3]
    for color in group_colors(9):
        wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(picture.astype(int) - wanted).max(axis=-1) < 40).sum() > 100
    charts = page.locator(".chart-container").count()
    assert len([url for url in requests if "/points/" in url]) == charts


@needs_swanboard
@pytest.mark.slow
def test_the_buttons_change_what_is_shown(groups, page):
    for title, lines in (("Runs", 27), ("Both", 36), ("Groups", 9)):
        page.goto(f"{groups.address}/charts")
        page.get_by_role("button", name=title).click()
        page.wait_for_function(
            "([selector, n]) => document.querySelectorAll(selector).length === n",
            arg=[".sidebar-content .experiment-link", lines],
        )
        page.locator(lines_of(EVALUATION)).first.wait_for()
        assert page.locator(lines_of(EVALUATION)).count() == lines


@needs_swanboard
@pytest.mark.slow
def test_the_page_of_a_run_shows_its_log_its_pictures_and_its_machine(runs, page):
    number = runs.runs()["agent.lr=1e-05 agent.n_step=1 seed=0"]["id"]
    page.goto(f"{runs.address}/experiment/{number}/log")
    page.locator(".log-line", has_text="evaluation at env step 400").wait_for()
    page.goto(f"{runs.address}/experiment/{number}/chart")
    curve = page.locator(".image-chart", has_text="curve").locator("img").first
    curve.wait_for()
    assert curve.evaluate("image => image.naturalWidth") > 500
    page.goto(f"{runs.address}/experiment/{number}/env/index")
    page.get_by_text("my-machine").wait_for()
    text = page.locator(".env-items").all_inner_texts()
    path = "agent.lr=1e-05,agent.n_step=1,seed=0"
    for part in ("Linux 6.1", "3.11.2", "dqn-train -m agent.lr=1e-5", "abcdef0", path, "2026"):
        assert part in "\n".join(text)
    page.goto(f"{runs.address}/experiment/{number}/env/hardware")
    page.get_by_text("a fast one").wait_for()
    assert page.get_by_text("16GB").count() == 1


@needs_swanboard
@pytest.mark.slow
def test_figures_of_the_comparison_appear(groups, page):

    def are_drawn() -> bool:
        return any(chart["type"] == "image" for chart in groups.get("project/charts")["charts"])

    groups.wait(are_drawn, seconds=60)
    page.goto(f"{groups.address}/charts")
    figure = page.locator(".image-chart", has_text="learning_curves").locator("img").first
    figure.wait_for()
    assert figure.evaluate("image => image.naturalWidth") > 500
    number = next(iter(groups.runs().values()))["id"]
    page.goto(f"{groups.address}/experiment/{number}/log")
    table = page.locator(".log-line", has_text="agent.lr=0.001 agent.n_step=5").first
    table.wait_for()  # of dqn-compare
    assert str(final_return(8, 1)) in table.inner_text()


@needs_swanboard
@pytest.mark.slow
def test_an_open_page_follows_what_happens(tmp_path, page):
    """The table and the charts of a sweep that goes on, without a hand on the page."""
    folder = tmp_path / "outputs"
    config = {"env": {"id": "CartPole-v1"}, "agent": {"lr": 0.1}}
    first = write_run(folder / "0", [{"env_steps": 10, EVALUATION: 5.0}], config | {"seed": 0})
    write_run(folder / "1", [{"env_steps": 10, EVALUATION: 7.0}], config | {"seed": 1})
    with opened(folder, tmp_path / "temporary", "--show", "groups") as dashboard:
        page.goto(dashboard.address)
        page.locator(".dashboard-table .line").wait_for()
        assert column(page, "final_return") == ["6"]
        append(first, {"env_steps": 20, EVALUATION: 9.0})
        page.wait_for_function(
            "() => [...document.querySelectorAll('.line')].some((e) => /\\b8\\b/.test(e.innerText))"
        )
        assert column(page, "final_return") == ["8"]
        page.goto(f"{dashboard.address}/charts")
        page.locator(lines_of(EVALUATION)).first.wait_for()
        other = config | {"agent": {"lr": 0.2}, "seed": 0}
        write_run(folder / "2", [{"env_steps": 10, EVALUATION: 1.0}], other)
        page.get_by_text("agent.lr=0.2, 1 seed").first.wait_for()
        page.locator(lines_of(EVALUATION)).nth(1).wait_for()
