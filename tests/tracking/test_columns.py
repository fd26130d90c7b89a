"""What makes runs comparable in SwanLab's cloud: names, groups, colors, columns and pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from swanlab_server import API_KEY, CloudRun, SwanLabServer

from dqn_runner.analysis.groups import group_colors, shade
from dqn_runner.program import guarded

SHORT = ("total_timesteps=100", "eval.final_episodes=2", "tracker.mode=offline")


@pytest.fixture(autouse=True)
def logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SWANLAB_API_HOST", "SWANLAB_WEB_HOST", "SWANLAB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SWANLAB_ROOT", str(tmp_path / "home"))
    monkeypatch.setenv("SWANLAB_API_KEY", API_KEY)


@pytest.fixture
def server():
    server = SwanLabServer()
    yield server
    server.stop()


def uploaded(directory: Path, server: SwanLabServer) -> dict[str, CloudRun]:
    """The runs that the server has after an upload of `directory`, by name."""
    from dqn_runner.dashboard import command_line

    arguments = [str(directory), "--upload", "--host", server.url]
    assert guarded("dqn-dashboard", command_line, arguments) == 0
    return {run.about["name"]: run for run in server.runs.values()}


def result_of(run: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((run / "result.json").read_text())
    return result


def expected_columns(run: Path) -> dict[str, float]:
    """The columns of a run, from its own files."""
    result = result_of(run)
    final, best = result["final"], result["best"]
    elapsed = [
        row["time/elapsed_seconds"]
        for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        if "time/elapsed_seconds" in row
    ]
    return {
        "result/final_return": final["mean"],
        "result/final_return_std": final["std"],
        "result/final_episodes": final["episodes"],
        "result/best_return": best["mean"],
        "result/best_return_std": best["std"],
        "result/best_episodes": best["episodes"],
        "result/best_env_steps": best["env_steps"],
        "result/env_steps": result["env_steps"],
        "result/episodes": result["episodes"],
        "result/wall_time_seconds": result["wall_time_seconds"],
        "result/env_steps_per_second": result["env_steps"] / elapsed[-1],
    }


def test_a_sweep_in_the_cloud(command, quick, server, tmp_path):
    """Names say what differs, seeds share a hue, and every result is a number in a column."""
    sweep = Path("sweep")
    arguments = [*quick, *SHORT, f"hydra.sweep.dir={sweep}", "agent.gamma=0.9,0.99", "seed=0,1"]
    assert command("-m", *arguments).code == 0
    runs = uploaded(sweep, server)
    assert set(runs) == {f"agent.gamma={g} seed={s}" for g in (0.9, 0.99) for s in (0, 1)}
    assert {run.about["cluster"] for run in runs.values()} == {"sweep"}
    for gamma, color in zip((0.9, 0.99), group_colors(2), strict=True):
        for seed in (0, 1):  # as in the local dashboard
            colors = runs[f"agent.gamma={gamma} seed={seed}"].about["colors"]
            assert set(colors) == {shade(color, seed, 2)}
    for name, run in runs.items():
        path = sweep / name.replace(" ", ",")
        assert run.table_row("result/") == pytest.approx(expected_columns(path))
        assert {server.column_types[key] for key in run.table_row("result/")} == {"FLOAT"}
        (picture,) = path.glob("swanlab/run-*/media/*/*.png")
        assert run.media == [("curve", 100)]
        assert picture.read_bytes() in server.files.values()


def test_the_environment_is_named_where_there_are_several(command, quick, server):
    short = [*quick, *SHORT, "total_timesteps=60", "hydra.sweep.dir=sweep"]
    assert command("-m", *short, "env=cartpole,acrobot", "seed=range(3,4)").code == 0
    assert set(uploaded(Path("sweep"), server)) == {"cartpole seed=3", "acrobot seed=3"}


def test_a_run_that_goes_on_has_one_result_in_the_cloud(command, quick, server):
    """It is logged again under its id, and the table shows the result of the larger budget."""
    run = Path("run")
    assert command(*quick, *SHORT, f"hydra.run.dir={run}").code == 0
    uploaded(run, server)
    before = expected_columns(run)
    assert command(f"resume={run}", "total_timesteps=200").code == 0
    (cloud_run,) = uploaded(run, server).values()
    after = expected_columns(run)
    assert after["result/env_steps"] == 200 > before["result/env_steps"]
    assert cloud_run.table_row("result/") == pytest.approx(after)
    assert max(len(values) for values in cloud_run.training_points().values()) == 1


def test_a_run_of_an_older_version_gets_its_columns_from_result_json(
    command, quick, server, monkeypatch
):
    run = Path("run")
    with monkeypatch.context() as older:
        older.setattr("dqn_runner.runs.lifecycle.result_metrics", lambda *_: {})
        assert command(*quick, *SHORT, f"hydra.run.dir={run}").code == 0
    (cloud_run,) = uploaded(run, server).values()
    assert cloud_run.table_row("result/") == pytest.approx(expected_columns(run))


def test_a_damaged_result_sends_no_columns(command, quick, server, monkeypatch):
    run = Path("run")
    with monkeypatch.context() as older:
        older.setattr("dqn_runner.runs.lifecycle.result_metrics", lambda *_: {})
        assert command(*quick, *SHORT, f"hydra.run.dir={run}").code == 0
    (run / "result.json").write_text("{}")
    (cloud_run,) = uploaded(run, server).values()
    assert cloud_run.table_row("result/") == {}
    assert cloud_run.training_points()


@pytest.fixture
def compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Logs summaries of runs with these learning rates; returns what was said about them."""
    from run_dirs import write_run

    from dqn_runner.compare import command_line

    def compared(*rates: float, environments: tuple[str, ...] = ("CartPole-v1",)) -> str:
        for environment in environments:
            for rate in rates:
                for seed in range(5):
                    path = tmp_path / "runs" / f"{environment} {rate} {seed}"
                    score = 100 * rate + seed
                    settings = {"env__id": environment, "agent__lr": rate, "seed": seed}
                    write_run(path, [score / 2, score], score, **settings)
        arguments = [str(tmp_path / "runs"), "--swanlab"]
        assert guarded("dqn-compare", command_line, arguments) == 0
        return capsys.readouterr().err

    return compared


def test_summaries_are_runs_with_columns_colors_and_pictures(compared, server, tmp_path):
    assert "2 summaries" in compared(0.1, 1.0)
    runs = {
        name: run
        for name, run in uploaded(tmp_path / "runs", server).items()
        if run.about["job"] == "summary"
    }
    good, bad = (runs[f"agent.lr={rate}, IQM of 5 seeds"] for rate in (1.0, 0.1))
    assert len(runs) == 2
    # The scores of the seeds are 100 to 104 and 10 to 14.
    row = good.table_row("summary/final")
    assert row["summary/final_return_iqm"] == row["summary/final_return_mean"] == 102.0
    assert 100.0 <= row["summary/final_return_iqm_low"] < 102.0
    assert 102.0 < row["summary/final_return_iqm_high"] <= 104.0
    assert good.table_row("summary/seeds") == {"summary/seeds": 5}
    assert good.points["summary/episode_return_iqm", 100] == [51.0]
    assert bad.table_row("summary/final")["summary/final_return_iqm"] == 12.0
    assert good.about["colors"] != bad.about["colors"]
    # The best group shows what dqn-compare drew.
    drawn = {path.stem: path for path in (tmp_path / "runs" / "compare").glob("*.png")}
    assert {key for key, _ in good.media} == {f"figures/{name}" for name in drawn}
    assert "figures/learning_curves" in good.media_files
    assert bad.media == []
    assert len(server.files) == len(drawn)


def test_one_summary_is_no_plural(compared):
    assert "1 summary\n" in compared(0.1)


def test_summaries_of_several_environments_name_them(compared, server, tmp_path):
    compared(0.1, 1.0, environments=("CartPole-v1", "Acrobot-v1"))
    runs = uploaded(tmp_path / "runs", server)
    summaries = {name: run for name, run in runs.items() if run.about["job"] == "summary"}
    assert set(summaries) == {
        f"{environment} agent.lr={rate}, IQM of 5 seeds"
        for environment in ("CartPole-v1", "Acrobot-v1")
        for rate in (0.1, 1.0)
    }
    with_pictures = {name for name, run in summaries.items() if run.media}
    assert with_pictures == {name for name in summaries if "agent.lr=1.0" in name}


def test_a_film_goes_up_as_a_gif(server, tmp_path):
    from PIL import Image

    from dqn_runner.tracking.tracker import SwanLabSpec, SwanLabTracker

    film = tmp_path / "film.gif"
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(film, save_all=True, append_images=frames[1:])
    spec = SwanLabSpec(
        mode="offline", project="tests", workspace=None, name="mine", description=None,
        group=None, job_type="train", tags=[],
    )  # fmt: skip
    run = tmp_path / "run"
    (run / "swanlab").mkdir(parents=True)
    (run / "config.yaml").write_text("seed: 0\n")
    tracker = SwanLabTracker(spec, run / "swanlab", {"seed": 0})
    tracker.log_media("eval/video", film, 500)
    tracker.close("success")
    (cloud_run,) = uploaded(run, server).values()
    assert cloud_run.media == [("eval/video", 500)]
    assert film.read_bytes() in server.files.values()
