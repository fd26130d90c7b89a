"""dqn-compare: what it groups, prints, draws and refuses, on run directories of any state."""

from __future__ import annotations

import csv
import gzip
import io
import json
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from filelock import FileLock
from run_dirs import write_run, write_sweep, write_two_environments

from dqn_runner.analysis import Options, as_records, compare, curve, figures, group_runs, load_runs
from dqn_runner.analysis import comparison as comparison_module
from dqn_runner.analysis.archive import archive
from dqn_runner.analysis.statistics import probability_of_improvement
from dqn_runner.compare import command_line, read
from dqn_runner.program import guarded
from dqn_runner.tracking.summary import spec_of


def run_compare(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = guarded("dqn-compare", command_line, [str(argument) for argument in arguments])
    return (code, *capsys.readouterr())


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return write_sweep(tmp_path / "sweep")


@pytest.fixture
def two_environments(tmp_path: Path) -> Path:
    return write_two_environments(tmp_path / "two")


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
    # From there on the evaluations are 200 - seed and 300 - seed.
    assert (worse["held_threshold"], worse["median_env_steps_to_hold"]) == ("0", "inf")
    assert (rows[0]["held_threshold"], rows[0]["median_env_steps_to_hold"]) == ("6", "200.0")
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


def test_an_archive_tells_the_same(two_environments, capsys, tmp_path):
    write_run(two_environments / "half", [10.0, 20.0], agent__lr=0.5)  # stopped
    archived = tmp_path / "kept"
    _, before, _ = run_compare(capsys, two_environments, "--no-figures", "--archive", archived)
    files = {path.name for path in archived.rglob("*") if path.is_file()}
    assert files == {"config.yaml", "result.json", "metrics.jsonl.gz"}
    again = tmp_path / "again"
    _, after, _ = run_compare(capsys, archived, "--no-figures", "--archive", again)
    assert "agent.lr=0.5" in before
    assert after == before.replace(str(two_environments), str(archived))
    for path in archived.rglob("*.gz"):  # so that a version control system sees no change
        assert path.read_bytes() == (again / path.relative_to(archived)).read_bytes()


def test_an_archive_keeps_evaluations_alone(tmp_path, capsys):
    run = write_run(tmp_path / "sweep" / "run", [1.0, 2.0], 2.0)
    later = {"env_steps": 900, "train/td_loss": 0.5, "time/elapsed_seconds": 9.0}
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps({"env_steps": n, "train/td_loss": 0.5}) + "\n" for n in (3, 4))
        file.write(json.dumps(later) + "\n")
    run_compare(capsys, tmp_path / "sweep", "--no-figures", "--archive", tmp_path / "kept")
    (kept,) = (tmp_path / "kept").rglob("metrics.jsonl.gz")
    rows = [json.loads(line) for line in gzip.decompress(kept.read_bytes()).splitlines()]
    assert [row["env_steps"] for row in rows] == [100, 200, 900]
    assert {name for row in rows for name in row if name.startswith("train")} == set()
    assert load_runs([tmp_path / "kept"])[0].last_row() == rows[-1]


def test_runs_of_several_folders_are_archived_below_one(tmp_path, capsys, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    monkeypatch.chdir(here)
    for folder in (here / "a", there / "b"):
        write_run(folder / "run", [1.0], 1.0)
    for other in ("../there", there):
        code, _, err = run_compare(capsys, "a", other, "--no-figures", "--archive", "kept")
        assert code == 0, err
        kept = {path.parent for path in Path("kept").rglob("config.yaml")}
        assert kept == {Path("kept/here/a/run"), Path("kept/there/b/run")}


def test_an_archive_says_nothing_of_who_ran_it(tmp_path, capsys):
    run = write_run(tmp_path / "runs" / "run", [1.0], 1.0, tracker__workspace="secret")
    result = json.loads((run / "result.json").read_text())
    result |= {"command": "dqn-train tracker.notify=[secret]", "versions": {"torch": "2"}}
    (run / "result.json").write_text(json.dumps(result))
    (run / "started.jsonl").write_text('{"host": "secret"}\n')
    run_compare(capsys, tmp_path / "runs", "--no-figures", "--archive", tmp_path / "kept")
    kept = [path.read_text() for path in (tmp_path / "kept" / "run").glob("*.[jy]*[nl]")]
    assert len(kept) == 2
    assert not any("secret" in text for text in kept)
    (copy,) = load_runs([tmp_path / "kept"])
    assert copy.result is not None
    assert copy.result["versions"] == {"torch": "2"}


def test_an_archive_follows_a_run_that_goes_on(tmp_path, capsys):
    run, kept = write_run(tmp_path / "runs" / "run", [1.0], 1.0), tmp_path / "kept"
    run_compare(capsys, tmp_path / "runs", "--no-figures", "--archive", kept)
    assert load_runs([kept])[0].status == "finished"
    (run / "result.json").unlink()
    run_compare(capsys, tmp_path / "runs", "--no-figures", "--archive", kept)
    assert load_runs([kept])[0].status == "stopped"


@pytest.mark.parametrize("folder", ["runs", "runs/kept", "other"])
def test_an_archive_among_runs_is_refused(folder, tmp_path, capsys):
    for name in ("runs", "other"):
        write_run(tmp_path / name / "run", [1.0], 1.0)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    arguments = [tmp_path / "runs", "--no-figures", "--archive", tmp_path / folder]
    code, _, err = run_compare(capsys, *arguments)
    assert code == 2
    assert err.startswith(f"dqn-compare: error: --archive={tmp_path / folder}: ")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("damage", ["cut", "changed", "no gzip"])
def test_a_damaged_archive_is_named(damage, two_environments, tmp_path, capsys):
    run_compare(capsys, two_environments, "--no-figures", "--archive", tmp_path / "kept")
    kept = next((tmp_path / "kept").rglob("metrics.jsonl.gz"))
    content = bytearray(kept.read_bytes())
    content[20:24] = b"\xff" * 4
    kept.write_bytes({"cut": content[:15], "changed": content, "no gzip": b"{}\n"}[damage])
    code, out, _ = run_compare(capsys, tmp_path / "kept", "--no-figures")
    assert code == 0
    assert str(kept) in out.replace("\n", "")


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


def test_environments_are_never_ranked_together(two_environments, capsys):
    comparison = compare(load_runs([two_environments]))
    shown = [(r.name, [group.group.name for group in r.groups]) for r in comparison.rankings]
    assert shown == [
        ("Acrobot-v1", ["agent.lr=0.01", "agent.lr=0.001"]),  # the best first, of each
        ("CartPole-v1", ["agent.lr=0.001", "agent.lr=0.01"]),
    ]
    _, table, _ = run_compare(capsys, two_environments, "--no-figures")
    assert [line for line in table.splitlines() if line.endswith("-v1")] == [
        "Acrobot-v1",
        "CartPole-v1",
    ]
    assert "env.id" not in table
    assert "Environments are compared together only when normalized (--normalize)." in table
    _, text, _ = run_compare(capsys, two_environments, "--no-figures", "--format=json")
    pairs = [
        (pair["environment"], pair["above"], pair["value"])
        for pair in json.loads(text)["improvements"]
    ]
    assert pairs == [("Acrobot-v1", "agent.lr=0.01", 1.0), ("CartPole-v1", "agent.lr=0.001", 1.0)]


def test_the_area_under_a_curve_is_its_mean_over_env_steps(tmp_path, capsys):
    run = write_run(tmp_path / "bent", [], 5.0)
    points = ((0, 0), (100, 8), (400, 2))
    rows = [{"env_steps": n, "eval/episode_return_mean": value} for n, value in points]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_run(tmp_path / "point", [7.0], 5.0, agent__lr=0.5)
    write_run(tmp_path / "none", [], 5.0, agent__lr=0.6)
    given = ("--no-figures", "--metric=area", "--group-by=agent.lr")
    _, text, _ = run_compare(capsys, tmp_path, *given, "--format=json")
    areas = {row["group"]: row["IQM"] for row in json.loads(text)["groups"]}
    bent = (100 * (0 + 8) / 2 + 300 * (8 + 2) / 2) / 400  # two trapezoids
    assert areas == {"agent.lr=0.001": bent, "agent.lr=0.5": 7.0, "agent.lr=0.6": None}
    _, table, _ = run_compare(capsys, tmp_path, *given)
    assert "higher mean return over the curve" in table
    assert "these differ (0 to 400, 100 to 100): runs that are evaluated later or longer" in table
    _, scaled, _ = run_compare(capsys, tmp_path, *given, "--normalize=0:10", "--format=json")
    assert json.loads(scaled)["groups"][1]["IQM"] == bent / 10
    write_run(tmp_path / "running", [9.0, 9.0], agent__lr=0.7)
    _, table, _ = run_compare(capsys, tmp_path, *given)
    assert "stopped before its end; it counts with what it has" in table


def test_each_group_can_be_compared_with_a_baseline(two_environments, capsys):
    for i in range(12):
        write_run(two_environments / f"x{i}", [1.0], 1.0 * i, seed=i % 2, agent__lr=2 + i // 2)
    given = ("--no-figures", "--format=json", "--baseline", "agent.lr=4", "--normalize=0:500")
    _, text, _ = run_compare(capsys, two_environments, *given)
    (environment,) = {pair["environment"] for pair in json.loads(text)["improvements"]}
    pairs = {p["above"]: (p["below"], p["value"]) for p in json.loads(text)["improvements"]}
    assert environment == "CartPole-v1"  # Acrobot's runs have no such group
    assert pairs == {
        **{f"agent.lr={lr}": ("agent.lr=4", 1.0) for lr in (0.001, 0.01, 5, 6, 7)},
        **{f"agent.lr={lr}": ("agent.lr=4", 0.0) for lr in (2, 3)},
    }
    remarks = [remark for remark in json.loads(text)["remarks"] if "--baseline" in remark]
    for name, remark in zip(("Acrobot-v1", "all environments"), remarks, strict=True):
        assert remark == f"--baseline=agent.lr=4: {name} has no group of this name with a score."
    code, _, err = run_compare(capsys, two_environments, "--baseline", "agent.lr=9")
    assert (code, err.count("\n")) == (2, 1)
    assert "--baseline=agent.lr=9: no group has this name; there are agent.lr=0.001; " in err


def test_normalized_environments_are_also_compared_together(two_environments, capsys):
    bounds = ("--normalize=CartPole-v1=0:500", "--normalize=Acrobot-v1=-500:0")
    _, text, _ = run_compare(capsys, two_environments, "--no-figures", "--format=csv", *bounds)
    rows = [row for row in csv.DictReader(io.StringIO(text)) if row["metric"] == "final"]
    assert [row["environment"] for row in rows] == [
        *["Acrobot-v1"] * 2, *["CartPole-v1"] * 2, *["all environments"] * 2,
    ]  # fmt: skip
    together = {row["group"]: row for row in rows[4:]}
    wanted = {"agent.lr=0.01": (0.804 + 0.804) / 2, "agent.lr=0.001": (0.904 + 0.704) / 2}
    for name, mean in wanted.items():
        assert float(together[name]["mean"]) == pytest.approx(mean)
        assert together[name]["runs"] == "10"
    _, table, _ = run_compare(capsys, two_environments, "--no-figures", *bounds)
    assert "all environments: groups with normalized scores in each of Acrobot-v1, " in table
    assert "0.804 [" in table


def test_each_environment_can_have_a_threshold(tmp_path, capsys):
    for name in ("CartPole-v1", "Acrobot-v1", "MountainCar-v0"):
        write_run(tmp_path / name, [-300.0, -200.0, -100.0], -100.0, env__id=name)
    given = ("--threshold=-300", "--threshold=Acrobot-v1=-200", "--threshold=CartPole-v1=0")
    _, text, _ = run_compare(capsys, tmp_path, "--no-figures", "--format=json", *given)
    rows = [row for row in json.loads(text)["groups"] if row["metric"] == "final"]
    reached = {row["environment"]: row["median_env_steps_to_threshold"] for row in rows}
    assert reached == {"Acrobot-v1": 200, "CartPole-v1": None, "MountainCar-v0": 100}


def test_a_group_that_lacks_an_environment_is_not_compared_across_them(two_environments):
    for seed in range(5):
        path = two_environments / f"half {seed}"
        write_run(path, [900.0], 900.0, seed=seed, agent__lr=0.5)  # in CartPole alone
    write_run(two_environments / "empty", [], seed=9, agent__lr=0.5, env__id="Acrobot-v1")
    *_, across = compare(load_runs([two_environments]), Options(bounds={"*": (0.0, 1.0)})).rankings
    assert {group.group.name for group in across.groups} == {"agent.lr=0.01", "agent.lr=0.001"}


def test_what_differs_between_environments_alone_makes_no_groups(tmp_path):
    write_run(tmp_path / "a", [1.0], 500.0, total_timesteps=50)
    write_run(tmp_path / "b", [1.0], -100.0, env__id="Acrobot-v1", total_timesteps=90)
    bounds = {"CartPole-v1": (0.0, 500.0), "Acrobot-v1": (-500.0, 0.0)}
    *each, across = compare(load_runs([tmp_path]), Options(bounds=bounds)).rankings
    assert [r.groups[0].group.name for r in each] == ["Acrobot-v1", "CartPole-v1"]
    (group,) = across.groups
    assert group.group.name == "all runs"
    assert group.estimates["final"]["mean"].value == pytest.approx((1.0 + 0.8) / 2)


def test_settings_of_an_environment_make_groups(tmp_path):
    for gravity in (1.0, 9.8):
        write_run(tmp_path / str(gravity), [1.0], 1.0, env__kwargs={"gravity": gravity})
    names = [group.group.name for group in compare(load_runs([tmp_path])).groups]
    assert sorted(names) == ["env.kwargs.gravity=1.0", "env.kwargs.gravity=9.8"]


def test_where_and_how_a_run_is_computed_makes_no_group(tmp_path, capsys):
    for seed, how in enumerate(("always", "never", "never")):
        write_run(
            tmp_path / str(seed), [1.0], 1.0 + seed, seed=seed, compile=how, torch_threads=seed + 1,
            device="cuda" if seed else "cpu", eval__interval=10 * seed, log__interval=seed,
            buffer__storage="frames" if seed else "rows",
            checkpoint__interval=seed, tracker__group=str(seed),
        )  # fmt: skip
    (group,) = group_runs(load_runs([tmp_path]))
    assert (group.name, len(group.runs)) == ("CartPole-v1", 3)
    _, out, _ = run_compare(capsys, tmp_path, "--no-figures")
    (line,) = [line for line in out.splitlines() if "--group-by" in line]
    assert line == (
        "These differ too, and make no groups unless --group-by names them: "
        "buffer.storage (frames, rows), checkpoint.interval (0, 1, 2), compile (always, never), "
        "device (cpu, cuda), eval.interval (0, 10, 20), log.interval (0, 1, 2), "
        "torch_threads (1, 2, 3)."
    )
    two = group_runs(load_runs([tmp_path]), ["compile"])
    assert [group.name for group in two] == ["compile=always", "compile=never"]


def test_a_run_repeated_with_other_threads_adds_no_evidence(tmp_path):
    for threads in (1, 2):
        write_run(tmp_path / str(threads), [1.0], 1.0, torch_threads=threads)
    remarks = compare(load_runs([tmp_path])).remarks
    assert any(remark.startswith("1 of the runs repeats another") for remark in remarks)


def test_an_older_run_has_the_defaults_of_what_it_did_not_know(tmp_path, compose):
    """Written with all settings, and as a version left them that knew no behaviour."""
    for name, behaviour, known in (
        ("new", "greedy", True),
        ("old", "greedy", False),
        ("other", "softmax", True),
    ):
        config = compose(f"agent.behaviour={behaviour}").plain()
        if not known:
            del config["agent"]["behaviour"]
        path = write_run(tmp_path / name, [1.0], 1.0)
        (path / "config.yaml").write_text(yaml.safe_dump(config))
    archive(load_runs([tmp_path]), tmp_path / "kept")
    for folder, copies in ((tmp_path / "kept", 1), (tmp_path, 2)):
        names = {group.name: len(group.runs) for group in group_runs(read([folder]))}
        assert names == {"agent.behaviour=greedy": 2 * copies, "agent.behaviour=softmax": copies}


def test_a_group_without_scores_is_not_ranked(tmp_path, capsys):
    for seed in range(5):
        write_run(tmp_path / f"a{seed}", [10.0], 100.0 + seed, seed=seed)
        write_run(tmp_path / f"b{seed}", [], seed=seed, agent__lr=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        code, out, _ = run_compare(capsys, tmp_path, "--figures", tmp_path / "figures")
    assert code == 0
    assert "probability" not in out
    assert "Without scores, and not ranked: agent.lr=0.5." in out
    assert "too few to tell" not in out
    assert f"{tmp_path / 'b0'}: stopped before its end; no score yet" in out
    _, text, _ = run_compare(capsys, tmp_path, "--no-figures", "--format=json")
    content = json.loads(text)
    assert content["improvements"] == []
    assert (content["groups"][2]["IQM"], content["groups"][2]["interval"]) == (None, "none")


def test_runs_without_any_score_are_shown(tmp_path, capsys):
    write_run(tmp_path / "a", [])
    write_run(tmp_path / "b", [], seed=1, agent__lr=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        code, out, _ = run_compare(capsys, tmp_path, "--figures", tmp_path / "figures")
    assert code == 0
    assert "–" in out


def test_few_seeds_have_their_lowest_and_highest_and_no_interval(tmp_path, capsys):
    for seed, score in enumerate((105.0, 116.0, 139.0)):
        write_run(tmp_path / f"a{seed}", [10.0, score], score, seed=seed)
        write_run(tmp_path / f"b{seed}", [10.0, 20.0], 20.0, seed=seed, agent__lr=0.5)
    _, out, _ = run_compare(capsys, tmp_path, "--no-figures")
    assert "120.0 (105.0 to 139.0)  120.0 (105.0 to 139.0)  116.0 (105.0 to 139.0)" in out
    assert "[" not in out
    assert "In parentheses: lowest and highest seed; fewer than 5 give no interval." in out
    comparison = compare(load_runs([tmp_path]))
    record = as_records(comparison)[0]
    assert (record["interval"], record["IQM_low"], record["IQM_high"]) == ("min-max", 105.0, 139.0)
    assert np.isnan(comparison.improvements[0][2].low)
    drawn = figures(comparison)["learning_curves"]
    assert not drawn.axes[0].collections  # nothing is shaded
    assert "lowest and highest seed" in drawn.get_suptitle()
    best = spec_of(comparison.groups[0])
    assert best.name == "agent.lr=0.001, IQM of 3 seeds"
    assert "lowest and the highest seed" in str(best.description)


def test_enough_seeds_have_an_interval(sweep, capsys):
    assert "In brackets: 95 % interval." in run_compare(capsys, sweep, "--no-figures")[1]
    comparison = compare(load_runs([sweep]))
    assert {record["interval"] for record in as_records(comparison)} == {"95 %"}
    drawn = figures(comparison)["learning_curves"]
    assert len(drawn.axes[0].collections) == 2
    assert "95 % interval" in drawn.get_suptitle()
    assert "95 % intervals" in str(spec_of(comparison.groups[0]).description)


def test_a_metric_that_is_no_return_is_not_called_one(tmp_path, capsys):
    for seed in range(2):
        path = write_run(tmp_path / str(seed), [1.0], 1.0, agent__lr=0.1 + seed)
        row = {"env_steps": 9, "train/td_loss": 0.0125, "time/elapsed_seconds": 1.0}
        with (path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
    _, out, _ = run_compare(capsys, tmp_path, "--no-figures", "--metric=train/td_loss")
    assert "has the higher train/td_loss\n" in out
    assert "0.0125" in out


def test_the_environments_own_threshold(tmp_path):
    write_run(tmp_path / "a", [474.0, 475.0, 1.0], 500.0)
    write_run(tmp_path / "b", [474.0, 474.0, 1.0], 500.0, env__id="Unknown-v0")
    by_name = {g.group.name: g for g in compare(load_runs([tmp_path])).groups}
    assert by_name["CartPole-v1"].steps_to_threshold.tolist() == [200.0]
    assert np.isnan(by_name["Unknown-v0"].steps_to_threshold).all()


def test_curves_meet_on_a_common_axis(tmp_path):
    points = curve(load_runs([write_run(tmp_path / "a", [0.0, 10.0], 1.0)])[0])
    np.testing.assert_allclose(
        points.at(np.array([50, 100, 150, 200, 250])), [np.nan, 0, 5, 10, np.nan]
    )


@pytest.mark.parametrize(
    ("chosen", "suffixes"),
    [((), ("png", "svg")), (("--style", "paper"), ("png", "svg", "pdf"))],
    ids=["screen", "paper"],
)
def test_figures_are_written_in_the_formats_of_their_style(sweep, capsys, chosen, suffixes):
    for seed in range(2):
        write_run(sweep / f"n{seed}", [1.0], 5.0, seed=seed, agent__n_step=5)
    assert run_compare(capsys, sweep, *chosen)[0] == 0
    names = {path.name for path in (sweep / "compare").iterdir()}
    stems = {"learning_curves", "aggregates", "performance_profile", "sample_efficiency",
             "parameters", "parallel_coordinates"}  # fmt: skip
    assert names == {f"{stem}.{suffix}" for stem in stems for suffix in suffixes}
    for path in (sweep / "compare").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "saying"),
    [
        (["missing"], "missing: no such directory"),
        (["empty"], "no run here"),
        (["sweep", "--normalize=Cart=0:1"], "--normalize=Cart=…: no run has this environment"),
        (["sweep", "--threshold=Cart=1"], "--threshold=Cart=…: no run has this environment"),
        (["sweep", "--threshold=5:1"], "--threshold=5:1: must be RETURN or ENV=RETURN"),
        (["sweep", "--threshold=nan"], "--threshold=nan: must be RETURN or ENV=RETURN"),
        (["sweep", "--output=nowhere/x.md"], "--output=nowhere/x.md: No such file or directory"),
        (["sweep", "--metric=train/los"], "--metric=train/los: no run has it; there are final"),
        (["sweep", "--group-by=agent.rate"], "--group-by=agent.rate: no run has this setting"),
        (["sweep", "--normalize=5"], "--normalize=5: must be LOW:HIGH"),
        (["sweep", "--normalize=5:1"], "--normalize=5:1: must be LOW:HIGH"),
        (["sweep", "--normalize=-1e308:1e308"], "--normalize=-1e308:1e308: must be LOW:HIGH"),
        (["sweep", "--normalize=0:inf"], "--normalize=0:inf: must be LOW:HIGH"),
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


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere", None])
def test_figures_that_cannot_be_written_are_told_in_a_line(sweep, capsys, tmp_path, place):
    (tmp_path / "file").touch()
    folder = tmp_path / place if place else sweep / "compare"
    if place is None:
        folder.touch()  # what is there by default cannot be a folder
    chosen = () if place is None else ("--figures", folder)
    code, out, err = run_compare(capsys, sweep, *chosen)
    assert code == 2
    assert "agent.lr=0.01" in out  # the table is there all the same
    assert err.startswith(f"dqn-compare: error: --figures={folder}: ")
    assert "; use another folder, or --no-figures" in err
    assert err.count("\n") == 1


def test_summaries_that_cannot_be_written_are_told_in_a_line(sweep, capsys):
    (sweep / "compare").touch()
    code, _, err = run_compare(capsys, sweep, "--no-figures", "--swanlab")
    assert code == 2
    assert err.startswith(f"dqn-compare: error: --swanlab in {sweep / 'compare' / 'swanlab'}: ")
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


@pytest.mark.parametrize("style", ["table", "markdown", "csv", "json"])
def test_a_damaged_line_is_left_out_and_told_of(tmp_path, capsys, style):
    """Not the rows behind it; and what is read by a program says so beside it."""
    metrics = write_run(tmp_path / "run", [1.0, 2.0, 3.0]) / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes().replace(b"100,", b"1\xff0,", 1))
    code, out, err = run_compare(capsys, tmp_path, "--no-figures", f"--format={style}")
    told = f"{metrics}: line 1 is damaged"
    assert (code, told in out, told in err) == (0, style != "csv", style == "csv")
    steps, values = load_runs([tmp_path])[0].series("eval/episode_return_mean")
    assert (steps.tolist(), values.tolist()) == ([200, 300], [2.0, 3.0])


def test_the_work_of_a_comparison_grows_with_its_runs_not_with_their_square(tmp_path, monkeypatch):
    for i in range(24):
        write_run(tmp_path / "runs" / str(i), [0.5, 1.0 * i], 1.0 * i, seed=i % 2, agent__lr=i // 2)
    opened, pairs, really_open = Counter[str](), [], Path.open

    def counted(path, *arguments, **settings):
        if path.is_relative_to(tmp_path):
            opened[path.name] += 1
        return really_open(path, *arguments, **settings)

    def improvement(x, y):
        pairs.append((x, y))
        return probability_of_improvement(x, y)

    monkeypatch.setattr(Path, "open", counted)
    monkeypatch.setattr(comparison_module, "probability_of_improvement", improvement)
    comparison = compare(load_runs([tmp_path / "runs"]))
    # Of metrics.jsonl the evaluations, and then its end.
    assert opened == {"config.yaml": 24, "result.json": 24, "metrics.jsonl": 48}
    # Of many groups each is compared with the best alone.
    assert (len(comparison.groups), len(pairs)) == (12, 11)
