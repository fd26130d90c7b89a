"""What the table and the charts show of runs and groups, against numbers made by hand."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dashboards import write_run
from scipy import stats

from dqn_runner.analysis.groups import COLORS, group_colors, shade
from dqn_runner.analysis.statistics import aggregate
from dqn_runner.board.board import Board
from dqn_runner.board.entries import DETAILS, Entry
from dqn_runner.runs.metrics_file import EVALUATION


def config(seed: int, lr: float = 0.1, env: str = "CartPole-v1") -> dict[str, Any]:
    return {
        "seed": seed, "batch_size": 64, "env": {"id": env}, "agent": {"lr": lr},
        "eval": {"interval": 10}, "tracker": {"name": f"{lr} {seed}", "group": "mine"},
    }  # fmt: skip


def score(mean: float) -> dict[str, float]:
    return {"mean": mean, "std": 2.0, "episodes": 100}


def rows(values: list[float]) -> list[dict[str, float]]:
    return [{"env_steps": 10 * i, EVALUATION: v} for i, v in enumerate(values, 1)]


def finished(path: Path, config: dict[str, Any], values: list[float]) -> None:
    final, best = score(values[-1]), score(max(values))
    result = {"env_steps": 10 * len(values), "wall_time_seconds": 5.0, "final": final, "best": best}
    write_run(path, rows(values), config, **result)


def entries(directory: Path, show: Any) -> list[Entry]:
    board = Board(directory, show)
    board.update()
    return board.entries


@pytest.fixture
def sweep(tmp_path) -> Path:
    """Two settings with six seeds each, whose curves and scores are random."""
    rng = np.random.default_rng(0)
    for lr, seed in itertools.product((0.1, 0.2), range(6)):
        finished(tmp_path / f"{lr},{seed}", config(seed, lr), list(rng.normal(100 * lr, 5, size=4)))
    return tmp_path


def test_a_group_is_its_iqm_with_an_interval(sweep):
    found = entries(sweep, "groups")
    assert {entry.name for entry in found} == {
        "agent.lr=0.1, IQM of 6 seeds",
        "agent.lr=0.2, IQM of 6 seeds",
    }
    assert found[0].columns["final_return"] > found[1].columns["final_return"]
    runs = [run for run in entries(sweep, "runs") if run.columns["agent.lr"] == 0.2]
    runs.sort(key=lambda run: run.columns["seed"])  # resamples depend on the order
    (group,) = (entry for entry in found if entry.columns["agent.lr"] == 0.2)
    finals = np.array([run.columns["final_return"] for run in runs])
    bests = np.array([run.columns["best_return"] for run in runs])
    assert group.columns["final_return"] == pytest.approx(stats.trim_mean(finals, 0.25), abs=0.011)
    assert group.columns["best_return"] == pytest.approx(stats.trim_mean(bests, 0.25), abs=0.011)
    estimate = aggregate([finals])["IQM"]
    ends = (group.columns["final_return_low"], group.columns["final_return_high"])
    assert ends == pytest.approx((estimate.low, estimate.high), abs=0.02)
    assert (group.columns["seeds"], group.columns["interval"]) == (6, "95 %")

    values = np.stack([run.points[EVALUATION].shown()[:, 1] for run in runs])
    iqm, mean = (group.points[f"summary/episode_return_{name}"] for name in ("iqm", "mean"))
    np.testing.assert_allclose(iqm.shown()[:, 1], stats.trim_mean(values, 0.25, axis=0))
    np.testing.assert_allclose(mean.shown()[:, 1], values.mean(axis=0))
    np.testing.assert_array_equal(group.points[EVALUATION].shown(), iqm.shown())
    low = group.points["summary/episode_return_iqm_low"].shown()[:, 1]
    high = group.points["summary/episode_return_iqm_high"].shown()[:, 1]
    assert (low < iqm.shown()[:, 1]).all()
    assert (high > iqm.shown()[:, 1]).all()


def test_few_seeds_have_the_lowest_and_the_highest_instead(tmp_path):
    for seed, final in enumerate((3.0, 8.0, 4.0)):
        finished(tmp_path / str(seed), config(seed), [1.0, final])
    (group,) = entries(tmp_path, "groups")
    assert group.name == "CartPole-v1, IQM of 3 seeds"
    row = group.columns
    assert (row["final_return"], row["final_return_low"], row["final_return_high"]) == (5, 3, 8)
    assert row["interval"] == "min-max"
    assert group.points["summary/episode_return_iqm_low"].shown()[-1, 1] == 3
    assert group.points["summary/episode_return_iqm_high"].shown()[-1, 1] == 8


def test_a_metric_is_compared_where_all_seeds_have_it(tmp_path):
    finished(tmp_path / "0", config(0), [1.0, 2.0, 3.0, 4.0])
    write_run(tmp_path / "1", rows([3.0, 4.0]), config(1))
    (group,) = entries(tmp_path, "groups")
    assert group.points[EVALUATION].shown()[:, :2].tolist() == [[10, 2.0], [20, 3.0]]
    assert group.status == "stopped"
    assert group.columns["final_return"] == 4.0  # the last evaluation stands for the score


def test_columns_are_results_then_what_differs_then_the_rest(sweep):
    finished(sweep / "other", config(0, 0.2) | {"eval": {"interval": 20}}, [1.0])
    for entry in entries(sweep, "both"):
        keys = list(entry.columns)
        first = ["final_return", "best_return", "agent.lr", "seed", "eval.interval"]
        assert keys[: len(first)] == first
        assert keys[len(first) : len(first) + len(DETAILS)] == list(DETAILS)
        rest = ["batch_size", "env.id", "tracker.name", "tracker.group"]
        assert keys[len(first) + len(DETAILS) :] == rest
    group = entries(sweep, "groups")[0]
    assert group.columns["batch_size"] == 64
    assert group.columns["seed"] is None


def test_names_are_what_differs(tmp_path):
    finished(tmp_path / "a", config(0), [1.0])
    assert [e.name for e in entries(tmp_path, "runs")] == ["seed=0"]
    finished(tmp_path / "b", config(1), [1.0])
    assert {e.name for e in entries(tmp_path, "runs")} == {"seed=0", "seed=1"}
    finished(tmp_path / "c", config(1, 0.2), [1.0])
    names = {"agent.lr=0.1 seed=0", "agent.lr=0.1 seed=1", "agent.lr=0.2 seed=1"}
    assert {e.name for e in entries(tmp_path, "runs")} == names
    finished(tmp_path / "deep" / "d", config(1, 0.2), [1.0])  # the same run again
    names = {
        "agent.lr=0.1 seed=0", "agent.lr=0.1 seed=1",
        "agent.lr=0.2 seed=1 in c", "agent.lr=0.2 seed=1 in deep/d",
    }  # fmt: skip
    assert {e.name for e in entries(tmp_path, "runs")} == names
    finished(tmp_path / "e", config(0, 0.2, "Acrobot-v1"), [1.0])
    assert "Acrobot-v1 seed=0" in {e.name for e in entries(tmp_path, "runs")}
    found = {e.name for e in entries(tmp_path, "groups")}
    assert found == {
        "Acrobot-v1, 1 seed", "CartPole-v1 agent.lr=0.1, IQM of 2 seeds",
        "CartPole-v1 agent.lr=0.2, IQM of 2 seeds",
    }  # fmt: skip


def test_a_copied_run_keeps_its_times(tmp_path):
    """From SwanLab's record, whose name has the time, if there is no started.jsonl."""
    path = tmp_path / "old" / "run"
    finished(path, config(0), [1.0])
    (path / "swanlab" / "run-20260131_120000-abc").mkdir(parents=True)
    shutil.copytree(path, tmp_path / "new" / "run")
    first, second = (entries(tmp_path / name, "runs")[0].started for name in ("old", "new"))
    assert first == second
    assert first == pytest.approx(1769860800, abs=13 * 3600)  # it is in local time


def test_groups_have_colors_and_seeds_have_shades_of_them(sweep):
    first, second = group_colors(2)
    assert (first, second) == COLORS[:2]
    colors = {e.name: e.color for e in entries(sweep, "both")}
    assert colors["agent.lr=0.1, IQM of 6 seeds"] == first
    assert colors["agent.lr=0.2, IQM of 6 seeds"] == second
    for seed in range(6):
        assert colors[f"agent.lr=0.1 seed={seed}"] == shade(first, seed, 6)
    many = group_colors(60)
    assert len(set(many)) == 60
    assert many[:7] == list(COLORS)
