"""dqn-compare: what it groups, prints, draws and refuses, on run directories of any state."""

from __future__ import annotations

import csv
import io
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from filelock import FileLock

from dqn_runner.analysis import Options, compare, curve, figures, group_runs, load_runs
from dqn_runner.analysis.figures import save, varied_parameters
from dqn_runner.compare import command_line
from dqn_runner.train import guarded

DEFAULTS = {
    "seed": 0,
    "env": {"id": "CartPole-v1"},
    "agent": {"lr": 0.001, "n_step": 1},
    "epsilon": {"name": "fixed", "value": 0.1},
    "tracker": {"mode": "disabled", "project": "p", "workspace": None, "name": "n"},
}


def write_run(path: Path, evaluations: list[float], final: float | None = None, **settings) -> Path:
    """A run directory as training leaves it; without `final`, as it is found half-way."""
    config = json.loads(json.dumps(DEFAULTS))
    config["tracker"]["name"] = path.name
    for key, value in settings.items():
        *parents, name = key.split("__")
        section = config
        for parent in parents:
            section = section.setdefault(parent, {})
        section[name] = value
    path.mkdir(parents=True)
    (path / ".hydra").mkdir()
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    rows = [
        {"env_steps": 100 * (i + 1), "episodes": i, "eval/episode_return_mean": value,
         "eval/episode_return_std": 0.5, "time/elapsed_seconds": 0.5 * (i + 1)}
        for i, value in enumerate(evaluations)
    ]  # fmt: skip
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if final is not None:
        numbers = {"mean": final, "std": 0.0, "min": final, "max": final, "episodes": 10}
        result = {
            "status": "finished",
            "env_steps": 100 * len(evaluations),
            "wall_time_seconds": 2.0,
            "final": numbers,
            "best": numbers | {"mean": final + 1.0},
        }
        (path / "result.json").write_text(json.dumps(result))
    return path


def run_compare(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = guarded("dqn-compare", command_line, [str(argument) for argument in arguments])
    return (code, *capsys.readouterr())


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two learning rates, six seeds each; the larger is better by 100."""
    for lr, offset in ((0.01, 300.0), (0.001, 200.0)):
        for seed in range(6):
            write_run(
                tmp_path / "sweep" / f"lr={lr},seed={seed}",
                [10.0, offset + seed, offset - seed],
                offset + 10 * seed,
                seed=seed,
                agent__lr=lr,
            )
    return tmp_path / "sweep"


def test_groups_are_runs_that_differ_in_their_seed_alone(sweep):
    groups = group_runs(load_runs([sweep]))
    assert [group.name for group in groups] == ["agent.lr=0.001", "agent.lr=0.01"]
    assert [[run.config["seed"] for run in group.runs] for group in groups] == [[*range(6)]] * 2
    assert groups[0].settings == {"agent.lr": 0.001}


def test_group_keys_can_be_chosen(sweep):
    (one,) = group_runs(load_runs([sweep]), ["agent.n_step"])
    assert (one.name, len(one.runs)) == ("agent.n_step=1", 12)
    with pytest.raises(KeyError, match=r"agent\.rate"):
        group_runs(load_runs([sweep]), ["agent.rate"])


def test_names_say_all_that_differs_and_nothing_twice(tmp_path):
    linear = {"name": "linear", "start": 1.0, "end": 0.1}
    write_run(tmp_path / "a", [1.0], 1.0)
    write_run(tmp_path / "b", [1.0], 1.0, epsilon=linear)
    write_run(tmp_path / "c", [1.0], 1.0, epsilon=linear, agent__n_step=3)
    write_run(tmp_path / "d", [1.0], 1.0, epsilon={**linear, "end": 0.2}, agent__n_step=3)
    names = {group.name for group in group_runs(load_runs([tmp_path]))}
    assert names == {
        "agent.n_step=1 epsilon.name=fixed",
        "agent.n_step=1 epsilon.name=linear epsilon.end=0.1",
        "agent.n_step=3 epsilon.name=linear epsilon.end=0.1",
        "agent.n_step=3 epsilon.name=linear epsilon.end=0.2",
    }


def test_a_long_name_is_printed_whole(tmp_path, capsys):
    sizes = [[width] * 60 for width in (64, 128)]
    for i, hidden in enumerate(sizes):
        write_run(tmp_path / str(i), [1.0], 1.0, network={"hidden_sizes": hidden})
    _, out, _ = run_compare(capsys, tmp_path, "--no-figures")
    for hidden in sizes:
        assert f"network.hidden_sizes={json.dumps(hidden, separators=(',', ':'))}" in out


def test_numbers_in_the_table(sweep, capsys):
    code, out, _ = run_compare(capsys, sweep, "--no-figures", "--format=csv", "--threshold=204")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(row["group"], row["metric"], row["runs"]) for row in rows] == [
        ("agent.lr=0.01", "final", "6"),  # the best group first
        ("agent.lr=0.01", "best", "6"),
        ("agent.lr=0.001", "final", "6"),
        ("agent.lr=0.001", "best", "6"),
    ]
    worse = rows[2]
    finals = np.array([200.0 + 10 * seed for seed in range(6)])
    assert float(worse["IQM"]) == pytest.approx(finals[1:-1].mean())
    assert float(worse["mean"]) == pytest.approx(finals.mean())
    assert float(worse["mean_low"]) < finals.mean() < float(worse["mean_high"])
    assert float(rows[3]["mean"]) == pytest.approx(finals.mean() + 1.0)
    # Of the seeds 0 to 5, whose evaluations reach 200 + seed, two get to 204.
    assert (worse["reached_threshold"], worse["median_env_steps_to_threshold"]) == ("2", "inf")
    assert (rows[0]["reached_threshold"], rows[0]["median_env_steps_to_threshold"]) == (
        "6",
        "200.0",
    )
    assert float(worse["wall_time_seconds"]) == 2.0
    assert float(worse["env_steps_per_second"]) == 200.0


def test_table_and_markdown_and_json_tell_the_same(sweep, capsys):
    _, table, _ = run_compare(capsys, sweep, "--no-figures")
    assert "275" not in table
    for text in ("agent.lr=0.001", "225.0 [", "probability", "1.00"):
        assert text in table
    _, markdown, _ = run_compare(capsys, sweep, "--no-figures", "--format=markdown")
    assert "| agent.lr=0.01 " in markdown
    assert "225.0 [" in markdown
    _, text, _ = run_compare(capsys, sweep, "--no-figures", "--format=json")
    content = json.loads(text)
    (improvement,) = content["improvements"]
    assert (improvement["above"], improvement["below"]) == ("agent.lr=0.01", "agent.lr=0.001")
    assert improvement["value"] == 1.0
    assert content["groups"][2]["median_env_steps_to_threshold"] is None


def test_output_goes_to_a_file(sweep, capsys, tmp_path):
    target = tmp_path / "table.md"
    code, out, _ = run_compare(
        capsys, sweep, "--no-figures", "--format=markdown", "--output", target
    )
    assert (code, out) == (0, "")
    assert "| agent.lr=0.01 " in target.read_text()


def test_a_single_seed_has_no_interval_and_a_plain_sentence(tmp_path, capsys):
    write_run(tmp_path / "a", [1.0, 2.0], 5.0)
    _, out, _ = run_compare(capsys, tmp_path, "--no-figures")
    assert "There is only 1 seed: too few to tell." in out
    assert "[" not in out


def test_enough_seeds_need_no_sentence(sweep, capsys):
    assert "too few" not in run_compare(capsys, sweep, "--no-figures")[1]


def test_runs_in_every_state_are_named(tmp_path, capsys):
    write_run(tmp_path / "finished", [1.0, 2.0], 5.0)
    stopped = write_run(tmp_path / "stopped", [1.0, 7.0], seed=1)
    with (stopped / "metrics.jsonl").open("a") as file:
        file.write('{"env_steps": 300, "eval/episode_return_mean": 99')  # torn
    running = write_run(tmp_path / "running", [1.0, 3.0], seed=2)
    failed = tmp_path / "failed"
    (failed / ".hydra").mkdir(parents=True)
    broken = write_run(tmp_path / "broken", [1.0], 5.0, seed=3)
    (broken / "config.yaml").write_text("{a: [")
    lock = FileLock(running / ".lock")
    with lock:
        runs = load_runs([tmp_path])
        _, out, _ = run_compare(capsys, tmp_path, "--no-figures", "--format=json")
    states = {run.path.name: run.status for run in runs}
    assert states == {
        "finished": "finished", "stopped": "stopped", "running": "running",
        "failed": "unreadable", "broken": "unreadable",
    }  # fmt: skip
    content = json.loads(out)
    final, best = content["groups"]
    assert (final["runs"], final["mean"]) == (3, (5.0 + 7.0 + 3.0) / 3)
    assert best["mean"] == 6.0  # of the one that has been scored anew
    remarks = "\n".join(content["remarks"])
    assert f"{running}: still running" in remarks
    assert f"{stopped}: stopped before its end" in remarks
    assert f"{failed}: it failed before it began" in remarks
    assert f"{broken}: " in remarks


def test_normalisation_puts_environments_on_one_scale(tmp_path):
    write_run(tmp_path / "a", [1.0], 500.0)
    write_run(tmp_path / "b", [1.0], -100.0, env__id="Acrobot-v1")
    bounds = {"CartPole-v1": (0.0, 500.0), "Acrobot-v1": (-500.0, 0.0)}
    options = Options(group_by=("agent.lr",), bounds=bounds)
    (group,) = compare(load_runs([tmp_path]), options).groups
    assert group.estimates["final"]["mean"].value == pytest.approx((1.0 + 0.8) / 2)


def test_environments_without_normalisation_are_remarked(tmp_path):
    write_run(tmp_path / "a", [1.0], 500.0)
    write_run(tmp_path / "b", [1.0], -100.0, env__id="Acrobot-v1")
    remarks = compare(load_runs([tmp_path]), Options(group_by=("agent.lr",))).remarks
    assert any("--normalize" in remark for remark in remarks)


def test_the_environments_own_threshold(tmp_path):
    write_run(tmp_path / "a", [474.0, 475.0, 1.0], 500.0)
    write_run(tmp_path / "b", [474.0, 474.0, 1.0], 500.0, env__id="Unknown-v0")
    by_name = {g.group.name: g for g in compare(load_runs([tmp_path])).groups}
    assert by_name["env.id=CartPole-v1"].steps_to_threshold.tolist() == [200.0]
    assert np.isnan(by_name["env.id=Unknown-v0"].steps_to_threshold).all()


def test_curves_meet_on_a_common_axis(tmp_path):
    points = curve(load_runs([write_run(tmp_path / "a", [0.0, 10.0], 1.0)])[0])
    np.testing.assert_allclose(
        points.at(np.array([50, 100, 150, 200, 250])), [np.nan, 0, 5, 10, np.nan]
    )


def test_figures_are_written_as_png_and_svg(sweep, capsys, tmp_path):
    for seed in range(2):
        write_run(sweep / f"n{seed}", [1.0], 5.0, seed=seed, agent__n_step=5)
    assert run_compare(capsys, sweep)[0] == 0
    names = {path.name for path in (sweep / "compare").iterdir()}
    stems = {"learning_curves", "aggregates", "performance_profile", "sample_efficiency",
             "parameters", "parallel_coordinates"}  # fmt: skip
    assert names == {f"{stem}.{suffix}" for stem in stems for suffix in ("png", "svg")}
    for path in (sweep / "compare").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_the_learning_curve_shows_the_mean_of_each_group(sweep):
    axes = figures(compare(load_runs([sweep])))["learning_curves"].axes[0]
    lines = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    np.testing.assert_allclose(lines["agent.lr=0.01 (n=6)"], [10.0, 302.5, 297.5])
    np.testing.assert_allclose(lines["agent.lr=0.001 (n=6)"], [10.0, 202.5, 197.5])


def test_one_run_has_figures_but_no_parameters(tmp_path):
    comparison = compare(load_runs([write_run(tmp_path / "a", [1.0, 2.0], 5.0)]))
    assert varied_parameters(comparison) == []
    assert set(figures(comparison)) == {
        "learning_curves", "aggregates", "performance_profile", "sample_efficiency",
    }  # fmt: skip


def test_the_same_runs_draw_the_same_files(sweep, tmp_path):
    contents = []
    for i in range(2):
        paths = save(figures(compare(load_runs([sweep]))), tmp_path / str(i))
        contents.append({path.name: path.read_bytes() for path in paths if path.suffix == ".png"})
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("arguments", "saying"),
    [
        (["missing"], "missing: no such directory"),
        (["empty"], "no run here"),
        (["sweep", "--normalize=Cart=0:1"], "--normalize=Cart=…: no run has this environment"),
        (["sweep", "--output=nowhere/x.md"], "--output=nowhere/x.md: No such file or directory"),
        (["sweep", "--metric=train/los"], "--metric=train/los: no run has it; there are final"),
        (["sweep", "--group-by=agent.rate"], "--group-by=agent.rate: no run has this setting"),
        (["sweep", "--normalize=5"], "--normalize=5: must be LOW:HIGH"),
        (["sweep", "--normalize=5:1"], "--normalize=5:1: must be LOW:HIGH"),
        ([""], "argument DIR: must not be empty"),
        (["sweep", "--output="], "argument --output: must not be empty"),
        (["sweep", "--figures", ""], "argument --figures: must not be empty"),
        (["sweep", "--nosuch"], "unrecognized arguments: --nosuch"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_line(
    sweep, monkeypatch, capsys, arguments, saying
):
    (sweep.parent / "empty").mkdir()
    monkeypatch.chdir(sweep.parent)
    code, out, err = run_compare(capsys, *arguments, "--no-figures")
    assert (code, out) == (2, "")
    assert err.startswith(f"dqn-compare: error: {saying}")
    assert err.count("\n") == 1


def test_following_ends_with_the_last_run(tmp_path, capsys, monkeypatch):
    running = write_run(tmp_path / "runs" / "running", [1.0, 3.0])
    lock = FileLock(running / ".lock")
    lock.acquire()
    looks = []

    def finish(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            lock.release()

    monkeypatch.setattr(time, "sleep", finish)
    code, out, _ = run_compare(capsys, tmp_path / "runs", "--follow")
    assert (code, len(looks)) == (0, 4)  # two while it ran, two to be sure that none follows
    assert "CartPole-v1" in out
    assert (tmp_path / "runs" / "compare" / "learning_curves.png").exists()
    assert (running / "curve.png").exists()


def test_summaries_reach_swanlab(sweep, capsys):
    code, _, err = run_compare(capsys, sweep, "--no-figures", "--swanlab")
    assert code == 0
    assert "2 summaries" in err
    assert len(list((sweep / "compare" / "swanlab").glob("run-*"))) == 2


def test_a_thousand_runs_of_a_thousand_points_take_less_than_ten_seconds(tmp_path):
    path = write_run(tmp_path / "runs" / "template", [0.5 * i for i in range(1000)], 100.0)
    text = (path / "metrics.jsonl").read_text()
    for i in range(999):
        other = write_run(
            tmp_path / "runs" / str(i), [], 100.0 + i, seed=i % 10, agent__lr=i // 10 + 1
        )
        (other / "metrics.jsonl").write_text(text)
    started = time.process_time()
    comparison = compare(load_runs([tmp_path / "runs"]))
    save(figures(comparison), tmp_path / "figures")
    seconds = time.process_time() - started
    assert len(comparison.groups) == 101
    assert seconds < (20 if "CI" in os.environ else 15)
    print(f"{seconds:.1f} s")
