"""hydra/sweeper=optuna: what is tried, what it is worth, and what a second call goes on with."""

from __future__ import annotations

import json
import signal
import sqlite3
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import yaml
from scipy.stats import trim_mean

pytestmark = pytest.mark.filterwarnings("ignore:builtin type")  # of Box2D

optuna = pytest.importorskip("optuna", reason="needs dqn_runner[optuna]")

from dqn_runner.composing.command import Command, Job  # noqa: E402
from dqn_runner.errors import Stopped  # noqa: E402
from dqn_runner.runs.directory import RunDirectory  # noqa: E402
from dqn_runner.runs.metrics_file import EVALUATION  # noqa: E402
from dqn_runner.sweeps.candidate import Evaluations  # noqa: E402
from dqn_runner.sweeps.grid import checked  # noqa: E402
from dqn_runner.sweeps.search import Search  # noqa: E402
from dqn_runner.sweeps.space import choices_or_ends, search_space  # noqa: E402

SPACE = (
    "hydra/sweeper/space=none",
    "agent.lr=tag(log,interval(1e-4,1e-1))",
    "epsilon=fixed,linear",
    "batch_size=range(16,33,8)",
    "network.hidden_sizes=[8],[4,4]",
)

# Prunes at the first evaluation.
HOPELESS = (
    "hydra/sweeper/pruner=none",
    "+hydra.sweeper.pruner.lower=1e9",
    "hydra.sweeper.pruner._target_=optuna.pruners.ThresholdPruner",
)


@pytest.fixture
def searching(quick):
    """A search over short runs, in the folder `search`."""
    short = (
        "total_timesteps=120", "learning_starts=100", "eval.num_episodes=1",
        "eval.final_episodes=2",
    )  # fmt: skip
    kept = [o for o in quick if not o.startswith("batch_size")]
    return ("-m", "hydra/sweeper=optuna", *kept, *short, *SPACE, "hydra.sweep.dir=search")


def study(storage: str = "sqlite:///search/study.db") -> Any:
    return optuna.load_study(study_name="dqn_runner", storage=storage)


def score(number: int, seed: int) -> float:
    result = json.loads(Path(f"search/trial={number},seed={seed}/result.json").read_text())
    return float(result["final"]["mean"])


def finished() -> dict[str, int]:
    return {p.parent.name: p.stat().st_mtime_ns for p in Path("search").glob("*/result.json")}


def test_a_trial_is_worth_the_iqm_over_its_seeds(command, searching):
    outcome = command(*searching, "hydra.sweeper.n_trials=2", "seed=range(3,7)")
    assert outcome.code == 0, outcome.err
    trials = study().trials
    assert [trial.number for trial in trials] == [0, 1]
    assert set(finished()) == {f"trial={n},seed={s}" for n in (0, 1) for s in range(3, 7)}
    for trial in trials:
        assert trial.value == pytest.approx(
            trim_mean([score(trial.number, seed) for seed in range(3, 7)], 0.25)
        )
        assert 1e-4 <= trial.params["agent.lr"] <= 1e-1
        assert trial.params["batch_size"] in (16, 24, 32)
        config = (Path("search") / f"trial={trial.number},seed=3" / "config.yaml").read_text()
        assert f"name: {trial.params['epsilon']}" in config
        assert f"lr: {trial.params['agent.lr']}\n" in config
        # In SwanLab it is named by what is searched.
        tracker = yaml.safe_load(config)["tracker"]
        named = {setting.split("=")[0] for setting in tracker["name"].split()}
        assert named - {"seed"} == set(trial.params)
        assert tracker["group"] == "search"

    # What is printed and what is written are the best trial, and both can be typed.
    best = max(trials, key=lambda trial: trial.value)
    printed = next(li for li in outcome.out.splitlines() if li.startswith("  dqn-train total"))
    typed = Command([word.strip("'") for word in printed.split()[1:]]).jobs[0].config
    written = Command(["--config-dir", "search", "experiment=best"]).jobs[0].config
    assert typed == written
    assert written["agent"]["lr"] == best.params["agent.lr"]
    assert written["epsilon"]["name"] == best.params["epsilon"]
    assert written["total_timesteps"] == 120
    outcome = command("--config-dir", "search", "experiment=best", "hydra.run.dir=again", "seed=3")
    assert outcome.code == 0, outcome.err
    result = json.loads(Path("again/result.json").read_text())
    assert result["final"]["mean"] == score(best.number, 3)


def options_in(group: str) -> set[str]:
    """The options of a group of conf/, without those that others are made of."""
    folder = Path(__file__).parents[2] / "conf" / group
    paths = (path.relative_to(folder).with_suffix("") for path in folder.rglob("*.yaml"))
    return {str(path) for path in paths if path.name != "_all"}


def test_each_environment_has_a_space():
    assert options_in("hydra/sweeper/space") == {*options_in("env"), "none"}


@pytest.mark.parametrize(
    "env",
    ["acrobot", "atari", "cartpole", "lunarlander", "minatar/breakout", "minigrid/empty-8x8",
     "mountaincar"],
)  # fmt: skip
@pytest.mark.parametrize("agent", ["dqn", "c51", "hl_gauss"])
def test_each_space_goes_with_each_representation(env, agent):
    """Each corner of it, and what it names is there with every agent."""
    chosen = ["-m", "hydra/sweeper=optuna", f"env={env}", f"agent={agent}"]
    search = Search(Command(chosen))
    assert set(search.space) >= {"agent.lr", "agent.gamma", "agent.n_step"}
    corners = zip_longest(*map(choices_or_ends, search.space.values()))
    for values in corners:
        point = {
            key: choices_or_ends(distribution)[0] if value is None else value
            for (key, distribution), value in zip(search.space.items(), values, strict=True)
        }
        assert checked(search._jobs(point, 0))[0].agent.name == agent


def test_a_search_with_a_histogram_runs_to_its_end(command, quick):
    short = ["total_timesteps=120", "learning_starts=100", "eval.final_episodes=2"]
    kept = [o for o in quick if not o.startswith("batch_size")]
    outcome = command(
        "-m", "hydra/sweeper=optuna", *kept, *short, "agent=hl_gauss", "hydra.sweeper.n_trials=2",
        "seed=0", "hydra.sweep.dir=search", "agent.gamma=choice(0.9,0.99)",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    found = [yaml.safe_load(p.read_text())["agent"] for p in Path("search").glob("t*/config.yaml")]
    assert len(found) == 2
    for agent in found:  # CartPole's range for each gamma, and a tenth of it on each side
        assert agent["v_max"] == pytest.approx(1.1 / (1 - agent["gamma"]))


def test_the_same_command_again_goes_on(command, searching):
    arguments = [*searching, "seed=0,1"]
    assert command(*arguments, "hydra.sweeper.n_trials=2").code == 0
    before = finished()
    # As if the second trial had been interrupted in its second seed.
    with sqlite3.connect("search/study.db") as database:
        database.execute("UPDATE trials SET state='RUNNING' WHERE number=1")
        database.execute(
            "DELETE FROM trial_values WHERE trial_id=(SELECT trial_id FROM trials WHERE number=1)"
        )
    (Path("search") / "trial=1,seed=1" / "result.json").unlink()
    outcome = command(*arguments, "hydra.sweeper.n_trials=3")
    assert outcome.code == 0, outcome.err
    after = finished()
    assert set(after) == {f"trial={n},seed={s}" for n in range(3) for s in (0, 1)}
    assert {name for name in before if before[name] != after[name]} == {"trial=1,seed=1"}
    trials = study().trials
    assert [trial.number for trial in trials] == [0, 1, 2]
    assert all(trial.state.name == "COMPLETE" for trial in trials)
    assert trials[1].value == pytest.approx((score(1, 0) + score(1, 1)) / 2)
    assert len({json.dumps(trial.params) for trial in trials}) == 3
    assert command(*arguments, "hydra.sweeper.n_trials=3").code == 0
    assert finished() == after


@pytest.mark.parametrize(
    ("space", "decided"),
    [
        (["agent.lr=interval(1e-4,1e-1)"], "always"),  # four runs of one update
        (["batch_size=choice(8,16)", "agent.gamma=choice(0.5,0.6)"], "never"),  # two each of two
    ],
)
def test_auto_compiles_what_the_whole_search_repays(
    command, searching, monkeypatch, space, decided
):
    monkeypatch.setattr("dqn_runner.config.budget.WORTH_LOADING", 10)
    monkeypatch.setattr("dqn_runner.config.budget.WORTH_COMPILING", 3 * (120 - 10) + 10)
    monkeypatch.setattr("dqn_runner.learning.learner.Learner.compile", lambda *_: None)
    kept = [o for o in searching if o not in SPACE]
    arguments = [*kept, SPACE[0], "compile=auto", *space, "seed=0,1", "hydra.sweeper.n_trials=2"]
    assert command(*arguments).code == 0
    configs = [path.read_text() for path in Path("search").glob("*/config.yaml")]
    assert len(configs) >= 2
    assert all(f"\ncompile: {decided}\n" in config for config in configs)
    # A run of the best trial's settings alone would not be worth it, and would be another one.
    (best,) = Command(["--config-dir", "search", "experiment=best"]).jobs
    assert best.config["compile"] == {"always": "always", "never": "auto"}[decided]


@pytest.mark.parametrize(
    ("arguments", "runs"),
    [
        ([], 5 * 3),  # of 50 trials with 3 seeds each, and 3 batch sizes with 3 networks each
        (["batch_size=64"], 16 * 3),
        (["batch_size=64", "network.hidden_sizes=[64]"], 50 * 3),
        (["batch_size=64", "network.hidden_sizes=[64]", "seed=0,1"], 50 * 2),
        (["batch_size=64", "network.hidden_sizes=[64]", "hydra.sweeper.n_trials=7"], 7 * 3),
        (["batch_size=range(16,129)"], 3),  # seldom drawn twice
        (["hydra.sweeper.n_trials=4"], 3),
    ],
)
def test_runs_that_share_an_update_in_a_search(arguments, runs):
    command = Command(["-m", "hydra/sweeper=optuna", "env=acrobot", *arguments])
    assert Search(command)._num_sharing == runs


def test_a_stopped_search_goes_on_with_the_trial_it_was_in(command, searching, monkeypatch):
    def stop(*_: object, **__: object) -> None:
        raise Stopped(signal.SIGINT)

    arguments = [*searching, "hydra.sweeper.n_trials=1", "seed=0"]
    with monkeypatch.context() as patch:
        patch.setattr("dqn_runner.training.loop.Training.asking", stop)
        outcome = command(*arguments)
    assert outcome.code == 130
    assert outcome.out.endswith("stopped; the same command with hydra.sweep.dir=search goes on\n")
    (before,) = study().trials
    assert before.state.name == "RUNNING"
    outcome = command(*arguments)
    assert (outcome.code, outcome.err) == (0, "")
    (after,) = study().trials
    assert after.state.name == "COMPLETE"
    assert (after.number, after.params) == (before.number, before.params)


@pytest.mark.parametrize("at_a_time", [1, 3])
def test_the_same_settings_are_not_run_twice(command, searching, at_a_time):
    kept = [o for o in searching if o not in SPACE]
    arguments = [*kept, SPACE[0], "agent.lr=1e-3,1e-2", "batch_size=16", "seed=0"]
    together = f"hydra.sweeper.trials_at_a_time={at_a_time}"
    outcome = command(*arguments, "hydra.sweeper.n_trials=5", together)
    assert (outcome.code, outcome.err) == (0, "")
    trials = study().trials
    assert len(trials) == 5
    assert len(finished()) == len({trial.params["agent.lr"] for trial in trials}) <= 2
    values = {(trial.params["agent.lr"], trial.value) for trial in trials}
    assert len(values) == len(finished())
    # Nor when an interrupted call goes on with two that have the same.
    interrupted = study()
    first = interrupted.trials[0]
    interrupted.enqueue_trial(first.params)
    same = interrupted.ask(first.distributions).number
    before = finished()
    outcome = command(*arguments, "hydra.sweeper.n_trials=6", together)
    assert (outcome.code, outcome.err) == (0, "")
    assert finished() == before
    assert study().trials[same].value == first.value


def test_a_hopeless_trial_is_pruned_cleanly(command, searching):
    outcome = command(
        *searching, *HOPELESS,
        "total_timesteps=100_000_000",
        "hydra.sweeper.n_trials=1", "seed=0,1", "hydra.sweeper.prune_after_seeds=1",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    (trial,) = study().trials
    assert trial.state.name == "PRUNED"
    assert trial.intermediate_values
    assert "trial=0  pruned at " in outcome.out
    for seed in (0, 1):
        run = RunDirectory(Path(f"search/trial=0,seed={seed}"))
        assert (end := run.read_end()) is not None
        assert end.status == "pruned"
        assert not run.result.exists()
        assert not run.is_locked()
    # What Optuna was told is what the run logged.
    rows = Path("search/trial=0,seed=0/metrics.jsonl").read_text().splitlines()
    logged = {r["env_steps"]: r.get("eval/episode_return_mean") for r in map(json.loads, rows)}
    for at, value in trial.intermediate_values.items():
        assert logged[at] == value


def test_twins_are_pruned_together(command, searching):
    kept = [o for o in searching if o not in SPACE]
    outcome = command(
        *kept, SPACE[0], "agent.lr=choice(1e-3)", "seed=0", "batch_size=16",
        *HOPELESS,
        "total_timesteps=100_000_000", "hydra.sweeper.n_trials=2",
        "hydra.sweeper.trials_at_a_time=2",
    )  # fmt: skip
    assert (outcome.code, outcome.err) == (0, "")
    assert [trial.state.name for trial in study().trials] == ["PRUNED", "PRUNED"]
    assert [path.name for path in Path("search").glob("trial=*")] == ["trial=0,seed=0"]


def test_a_failing_trial_does_not_stop_the_search(command, searching):
    swept = ["buffer.capacity=20", "batch_size=16,32"]  # a batch of 32 does not fit
    kept = [o for o in searching if not o.startswith(("batch_size", "buffer.", "agent.lr"))]
    outcome = command(*kept, *swept, "agent.lr=range(0.001,0.02,0.001)", "seed=0",
                      "hydra.sweeper.n_trials=6")  # fmt: skip
    assert outcome.code == 1
    states = {t.params["batch_size"]: t.state.name for t in study().trials}
    assert states == {"16": "COMPLETE", "32": "FAIL"}
    assert "buffer.capacity=20: must be at least batch_size=32" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["agent.lrr=interval(0,1)"], "agent.lrr="),
        (["agent.lr=interval(2,1)"], "agent.lr=interval(2,1): "),
        (["agent.lr=tag(log,interval(0,1))"], "agent.lr=tag(log,interval(0,1)): "),
        (["batch_size=range(9,3)"], "batch_size=range(9,3): holds no value"),
        (["agent.gamma=interval(1.5,2)"], "agent.gamma=1.6"),
        (["seed=a,b"], "seed=a: "),
        (["seed=-1"], "seed=-1: "),
        (["hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0: "),
        (["hydra.sweeper.seeds=[]"], "hydra.sweeper.seeds=[]: "),
        (["hydra.sweeper.trials=3"], "hydra.sweeper.trials=3: no such key"),
        (["hydra/sweeper/sampler=nosuch"], "hydra/sweeper/sampler=nosuch: must be one of "),
        (["hydra/sweeper=nosuch"], "hydra/sweeper=nosuch: must be one of "),
    ],
)
def test_bad_searches_are_refused_in_a_line(command, searching, arguments, line):
    outcome = command(*searching, *arguments)
    assert outcome.code == 2
    assert outcome.err.startswith(f"dqn-train: error: {line}")
    assert len(outcome.err.splitlines()) == 1
    assert list(Path.cwd().iterdir()) == []


def test_nothing_to_choose_is_refused(command, quick):
    outcome = command("-m", "hydra/sweeper=optuna", "hydra/sweeper/space=none", *quick)
    assert outcome.code == 2
    assert outcome.err.startswith("dqn-train: error: hydra/sweeper=optuna: nothing to choose")


def test_storages_that_cannot_be_used_are_refused_in_a_line(command, searching):
    Path("no_database.db").write_text("a file of somebody else's")
    optuna.create_study(study_name="dqn_runner", storage="sqlite:///foreign.db")
    for name, reason in (("no_database", "file is not a database"), ("foreign", "another search")):
        outcome = command(*searching, f"hydra.sweeper.storage='sqlite:///{name}.db'")
        assert outcome.code == 2
        begins = f"dqn-train: error: hydra.sweeper.storage=sqlite:///{name}.db: "
        assert outcome.err.startswith(begins)
        assert reason in outcome.err
        assert len(outcome.err.splitlines()) == 1
        assert not Path("search").exists()


def test_another_search_in_the_same_folder_is_refused(command, searching):
    arguments = [*searching, "hydra.sweeper.n_trials=1", "seed=0"]
    assert command(*arguments).code == 0
    before = finished()
    for other in ("agent.gamma=0.5", "agent.lr=tag(log,interval(1e-4,1))", "seed=0,1"):
        outcome = command(*arguments[:-1], other, *([] if "seed" in other else ["seed=0"]))
        assert outcome.code == 2
        assert "study.db: holds another search, with " in outcome.err
        assert len(outcome.err.splitlines()) == 1
    assert finished() == before


def test_a_locked_storage_is_refused_in_a_line(command, searching, monkeypatch):
    monkeypatch.setattr("dqn_runner.sweeps.study.SECONDS_FOR_A_LOCK", 0.2)
    arguments = [*searching, "hydra.sweeper.n_trials=1", "seed=0"]
    assert command(*arguments).code == 0
    with sqlite3.connect("search/study.db", isolation_level=None) as database:
        database.execute("BEGIN EXCLUSIVE")
        outcome = command(*arguments)
        database.execute("ROLLBACK")
    assert outcome.code == 2
    assert "study.db: " in outcome.err
    assert "locked" in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_every_environment_has_a_space_that_fits(monkeypatch):
    from dqn_runner.composing.hydra_internals import conf_dir

    for path in (Path(conf_dir()) / "env").glob("*.yaml"):
        if path.read_text().startswith("# @package _global_"):
            continue  # a preset for which nothing has been searched yet
        search = Search(Command(["-m", "hydra/sweeper=optuna", f"env={path.stem}"]))
        assert "agent.lr" in search.space, path.stem


def test_spaces_are_read_as_hydra_writes_them():
    command = Command(["-m", "hydra/sweeper=optuna"])
    given = command.parse(
        {
            "agent.lr": "tag(log,interval(1e-5,1e-2))",
            "batch_size": "range(16,65,16)",
            "agent.gamma": "range(0.9,0.99,0.03)",
            "learning_starts": "int(interval(10,20))",
            "agent.n_step": "choice(1,3)",
            "epsilon": "linear,fixed",
        }
    )
    distributions = optuna.distributions
    assert search_space(given) == {
        "agent.lr": distributions.FloatDistribution(1e-5, 1e-2, log=True),
        "batch_size": distributions.IntDistribution(16, 64, step=16),
        "agent.gamma": distributions.FloatDistribution(0.9, 0.96, step=0.03),
        "learning_starts": distributions.IntDistribution(10, 20),
        "agent.n_step": distributions.CategoricalDistribution(["1", "3"]),
        "epsilon": distributions.CategoricalDistribution(["linear", "fixed"]),
    }
    fixed = command.parse({"agent.lr": "0.5"})
    assert "agent.lr" not in search_space([*given, *fixed])


def test_evaluations_are_followed_not_read_anew(tmp_path, caplog):
    """Also of a run that goes on after it was cut; damage is told of once."""
    file = tmp_path / "metrics.jsonl"

    def row(env_steps: int, value: float) -> str:
        return json.dumps({"env_steps": env_steps, EVALUATION: value}) + "\n"

    evaluations = Evaluations(Job({"eval": {"unit": "env_step"}}, [], tmp_path))
    evaluations.update()
    assert evaluations.values == {}
    file.write_text(row(10, 1.0) + row(20, 2.0))
    evaluations.update()
    assert evaluations.values == {10: 1.0, 20: 2.0}
    file.write_text("x" * len(row(10, 1.0)) + row(20, 2.0) + row(30, 3.0))  # not looked at again
    evaluations.update()
    assert (evaluations.values, caplog.text) == ({10: 1.0, 20: 2.0, 30: 3.0}, "")
    for value in (5.0, 6.0):
        with file.open("a") as more:
            more.write("bad\n" + row(40, value))
        evaluations.update()
    assert evaluations.values[40] == 6.0
    assert caplog.text.count(f"{file}: line 4 is damaged") == 1
    file.write_text(row(10, 9.0))
    evaluations.update()
    assert evaluations.values == {10: 9.0}
