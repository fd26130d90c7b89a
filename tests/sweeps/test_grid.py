"""Sweeps: which jobs run, what goes on in their folders, and what is told of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
import tomllib
from pathlib import Path

import pytest
import torch
import yaml
from building import build
from omegaconf import DictConfig
from run_dirs import write_run
from watching import rows_without_clock, wait_for

from dqn_runner.analysis.table import print_results
from dqn_runner.runs import job
from dqn_runner.runs.directory import End, RunDirectory
from dqn_runner.sweeps.display import SweepDisplay
from dqn_runner.sweeps.launchers.joblib import _Worker

REPOSITORY = Path(__file__).resolve().parents[2]

FAILING_ENV = """
import os
import signal

import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv


class Failing(CartPoleEnv):
    def __init__(self, how=None, **kwargs):
        super().__init__(**kwargs)
        self.how, self.steps = how, 0

    def step(self, action):
        self.steps += 1
        if self.steps == 60 and self.how == "raise":
            raise RuntimeError("the pole has broken")
        if self.steps == 60 and self.how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


gym.register("Failing-v0", Failing, max_episode_steps=500)
"""


@pytest.fixture
def tiny(quick):
    """Overrides that make a run last a tenth of a second."""
    short = ("total_timesteps=120", "learning_starts=100")
    return (*quick, *short, "eval.num_episodes=1", "eval.final_episodes=1")


@pytest.fixture
def failing(tmp_path):
    """Overrides for an environment that breaks as `+env.kwargs.how` says."""
    (tmp_path / "failing_env.py").write_text(FAILING_ENV)
    return "env.id=failing_env:Failing-v0"


def _times(sweep: Path) -> dict[str, int]:
    """When each run of the sweep finished."""
    return {path.parent.name: path.stat().st_mtime_ns for path in sweep.glob("*/result.json")}


def _contents(folder: Path) -> dict[str, bytes]:
    """What lies in the folder, but for locks, which come and go."""
    return {
        str(path): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def _finish(child: subprocess.Popen[str], seconds: float = 60) -> tuple[int, str, str]:
    out, err = child.communicate(timeout=seconds)
    return child.returncode, out, err


def test_the_same_command_again_runs_what_is_left(command, tiny):
    sweep = Path("sweep")
    arguments = ["-m", *tiny, "hydra.sweep.dir=sweep"]
    assert command(*arguments, "seed=range(0,3)").code == 0
    before = _times(sweep)
    assert set(before) == {"seed=0", "seed=1", "seed=2"}
    # seed=1 was interrupted in mid-run: it has no result, and rows that are not to be mixed.
    rows = rows_without_clock(sweep / "seed=1")
    (sweep / "seed=1" / "result.json").unlink()
    outcome = command(*arguments, "seed=range(0,4)")
    assert outcome.code == 0, outcome.err
    after = _times(sweep)
    assert set(after) == {"seed=0", "seed=1", "seed=2", "seed=3"}
    assert {name for name in before if before[name] != after[name]} == {"seed=1"}
    assert rows_without_clock(sweep / "seed=1") == rows
    assert all(f"seed={seed} " in outcome.out for seed in range(4))  # the table has all of them
    assert outcome.out.count("\nreplay ") == 2
    # Everything is done.
    outcome = command(*arguments, "seed=range(0,4)")
    assert outcome.code == 0
    assert _times(sweep) == after


def test_results_and_ends_that_cannot_be_read_are_made_again(command, tiny):
    """A sweep does not pass for done because of a file that holds nothing."""
    sweep = (*tiny, "-m", "seed=0,1,2", "hydra.sweep.dir=sweep")
    assert command(*sweep).code == 0
    paths = [Path("sweep") / f"seed={seed}" / "result.json" for seed in range(3)]
    scores = [json.loads(path.read_text())["final"] for path in paths]
    paths[0].write_bytes(b"")
    paths[1].unlink()
    paths[1].with_name("ended.json").write_bytes(b"\xff")
    done = paths[2].read_bytes()
    outcome = command(*sweep)
    assert outcome.code == 0, outcome.err
    assert [json.loads(path.read_text())["final"] for path in paths] == scores
    assert paths[2].read_bytes() == done


def test_another_configuration_is_not_mixed_in(command, tiny):
    arguments = ["-m", *tiny, "hydra.sweep.dir=sweep", "seed=0,1"]
    assert command(*arguments).code == 0
    Path("sweep/seed=1/result.json").unlink()  # finished or not does not matter
    for arguments_again in ([*arguments, "agent.lr=0.5"], [*arguments, "seed=2,1", "agent.lr=0.5"]):
        before = _contents(Path("sweep"))
        outcome = command(*arguments_again)
        assert outcome.code == 2
        assert re.fullmatch(
            r"dqn-train: error: sweep/seed=[01]: holds a run with agent\.lr=0\.001, not 0\.5; "
            "choose another hydra.sweep.dir\n",
            outcome.err,
        )
        assert _contents(Path("sweep")) == before


def test_what_a_run_decides_for_itself_is_no_difference(command, tiny):
    """config.yaml holds cpu where the command says auto, the ends of schedules where it says null.

    And the name the run got in SwanLab.
    """
    auto = ["device=auto", "compile=auto", "torch_threads=auto", "buffer=prioritized"]
    arguments = ["-m", *tiny, *auto, "hydra.sweep.dir=sweep", "seed=0,1"]
    assert command(*arguments).code == 0
    before = _times(Path("sweep"))
    settings = yaml.safe_load(Path("sweep/seed=0/config.yaml").read_text())
    assert settings["device"] != "auto"
    assert settings["buffer"]["beta_steps"] == 120
    assert command(*arguments).code == 0
    assert _times(Path("sweep")) == before
    # As where there was no compiler: it says compile=never.
    assert command(*arguments, "compile=always").code == 0
    assert _times(Path("sweep")) == before


def test_two_commands_in_one_folder_do_not_disturb_each_other(command, tiny):
    folder = Path("sweep")
    folder.mkdir()
    with RunDirectory(folder)._lock:
        outcome = command("-m", *tiny, "seed=0,1", "hydra.sweep.dir=sweep")
    assert outcome.code == 2
    line = "hydra.sweep.dir=sweep: another process is at work in it"
    assert outcome.err == f"dqn-train: error: {line}\n"
    assert [path.name for path in folder.iterdir() if path.name != ".lock"] == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["seed=range(0,0)"], "seed=range(0,0): holds no value"),
        (["seed=range(3,0)"], "seed=range(3,0): holds no value"),
        (["seed=range(0,5,0)"], "seed=range(0,5,0): "),
        (["seed=range(a,b)"], "seed=range(a,b): "),
        (["seed=range(0"], "seed=range(0: "),
        (["seed=range(-2,1)"], "seed=-2: "),
        (["epsilon=glob(z*)"], "epsilon=glob(z*): holds no value"),
        (["agent.lr=interval(0.1,0.2)"], "agent.lr=interval(0.1,0.2): a range without steps"),
        (["agent.lrr=1,2"], "agent.lrr="),
        (["hydra/launcher=nosuch"], "hydra/launcher=nosuch: must be one of "),
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=0"], "hydra.launcher.n_jobs=0: "),
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=x"], "hydra.launcher.n_jobs=x: "),
        (["hydra/launcher=joblib", "+hydra.launcher.jobs=2"], "hydra.launcher.jobs=2: no such key"),
    ],
)
def test_bad_sweeps_are_refused_in_a_line(command, tiny, arguments, line):
    outcome = command("-m", *tiny, *arguments)
    assert outcome.code == 2
    assert outcome.err.startswith(f"dqn-train: error: {line}")
    assert len(outcome.err.splitlines()) == 1
    assert list(Path.cwd().iterdir()) == []


def test_a_missing_extra_is_named(command, tiny, monkeypatch):
    ray = ("nosuch:x", "no_such_package")
    monkeypatch.setattr("dqn_runner.sweeps.launchers.OURS", {"ray": ray})
    outcome = command("-m", *tiny, "hydra/launcher=ray", "seed=0,1")
    assert outcome.code == 2
    assert outcome.err == (
        "dqn-train: error: hydra/launcher=ray: needs pip install 'dqn_runner[ray]'\n"
    )
    assert list(Path.cwd().iterdir()) == []


def test_all_cores_need_no_extra():
    """README's install is enough for README's line with hydra/launcher=joblib."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert any(re.match(r"joblib\b", needed) for needed in project["dependencies"])
    assert project["optional-dependencies"]["joblib"] == []  # which was typed once


@pytest.fixture
def repaid_by_three(monkeypatch):
    """What one or two runs of `tiny` do not repay compiling, but three do; nothing is compiled."""
    monkeypatch.setattr("dqn_runner.config.budget.WORTH_LOADING", 10)
    monkeypatch.setattr("dqn_runner.config.budget.WORTH_COMPILING", 3 * (120 - 10) + 10)
    monkeypatch.setattr("dqn_runner.learning.learner.Learner.compile", lambda *_: None)


def _setting(run: Path, key: str) -> object:
    value = yaml.safe_load((run / "config.yaml").read_text())
    for part in key.split("."):
        value = value[part]
    return value


@pytest.mark.usefixtures("repaid_by_three")
@pytest.mark.parametrize(
    ("swept", "decided"),
    [
        (["seed=0"], "never"),
        (["seed=0,1"], "never"),
        (["seed=0,1,2"], "always"),
        (["agent.lr=1e-3,1e-4,1e-5"], "always"),
        (["batch_size=8,16,32"], "never"),  # each has an update of its own
        (["batch_size=8,16", "seed=0,1,2"], "always"),
    ],
)
def test_auto_compiles_what_the_whole_sweep_repays(command, tiny, swept, decided):
    arguments = ["-m", *tiny, "compile=auto", *swept, "hydra.sweep.dir=sweep"]
    assert command(*arguments).code == 0
    runs = sorted(Path("sweep").glob("*/"))
    assert {_setting(run, "compile") for run in runs} == {decided}
    # What was decided is in no name.
    assert not [run for run in runs if decided in f"{run.name} {_setting(run, 'tracker.name')}"]


@pytest.mark.usefixtures("repaid_by_three")
def test_a_sweep_that_goes_on_decides_as_it_did(command, tiny):
    """Of three jobs one is left to do: one alone would not repay it."""
    arguments = ["-m", *tiny, "compile=auto", "seed=0,1,2", "hydra.sweep.dir=sweep"]
    assert command(*arguments).code == 0
    rows = rows_without_clock(Path("sweep/seed=1"))
    for was_begun in (True, False):
        if was_begun:
            Path("sweep/seed=1/result.json").unlink()
        else:
            shutil.rmtree("sweep/seed=1")
        assert command(*arguments).code == 0
        assert _setting(Path("sweep/seed=1"), "compile") == "always"
        assert rows_without_clock(Path("sweep/seed=1")) == rows
    # Another sweep in the folder decides otherwise; an interrupted run stays what it was.
    Path("sweep/seed=2/result.json").unlink()
    assert command(*arguments[:-2], "seed=2,3", "hydra.sweep.dir=sweep").code == 0
    assert _setting(Path("sweep/seed=2"), "compile") == "always"
    assert _setting(Path("sweep/seed=3"), "compile") == "never"


def test_a_sweep_goes_on_with_the_range_of_returns_that_a_run_has_found(command, tiny):
    """Its config.yaml holds numbers where the sweep says auto."""
    kept = [o for o in tiny if not o.startswith("agent=")]
    arguments = ["-m", *kept, "agent=c51,hl_gauss", "hydra.sweep.dir=sweep"]
    assert command(*arguments).code == 0
    run = Path("sweep/agent=c51")
    assert (_setting(run, "agent.v_min"), _setting(run, "agent.v_max")) == (0.0, pytest.approx(100))
    (run / "result.json").unlink()
    outcome = command(*arguments)
    assert outcome.code == 0, outcome.err
    assert (run / "result.json").exists()
    refused = command(*arguments, "agent.v_max=50")
    assert refused.code == 2
    assert "agent.v_max=99.9" in refused.err


NUMBERS = (
    "seed=3", "agent.lr=0.5", "agent.gamma=0.5", "agent.n_step=1", "target_update.tau=0.5",
    "agent.max_grad_norm=3", "agent.optimizer.eps=0.1", "agent.optimizer.betas=[0.5,0.6]",
    "epsilon=linear", "total_timesteps=7", "agent.lr_schedule=cosine", "agent.lr_decay_steps=9",
    "buffer=prioritized",
    "agent.reward_clip=1", "agent.reward_scale=0.5", "env.return_range=null",
    "agent.munchausen.alpha=0.5",
)  # fmt: skip
FUNCTIONS = (
    "batch_size=8", "buffer.capacity=50", "network.hidden_sizes=[8]", "env=acrobot",
    "agent.double=false", "agent.loss=mse", "agent.max_grad_norm=null", "agent.optimizer.name=sgd",
    "target_update=hard", "agent.clip_target=false", "network.norm=none",
    "agent=qr_dqn", "network.dueling=true", "network.noisy=0.5", "agent.reset_interval=7",
)  # fmt: skip
MUNCHAUSEN = ("agent.td_target=munchausen", "agent.double=false")
SHARING = {
    # what the runs have in common, what some of them may differ in, and what they may not
    "defaults": ((), NUMBERS, FUNCTIONS),
    "c51": (
        ("agent=c51",),
        ("agent.v_min=-7", "agent.v_max=300", "env.return_range=null", "agent.gamma=0.9"),
        ("agent.num_atoms=21", "agent=hl_gauss"),
    ),
    "hl_gauss": (
        ("agent=hl_gauss", "network.noisy=0.5"),
        ("agent.v_min=-7", "agent.v_max=300", "network.noisy=0.1"),
        ("agent.num_bins=21", "agent.sigma=0.5", "network.noisy=null"),
    ),
    "qr_dqn": (("agent=qr_dqn",), (), ("agent.num_quantiles=21", "agent.kappa=0.5")),
    "munchausen": (
        MUNCHAUSEN,
        (
            "agent.munchausen.alpha=0.5",
            "agent.munchausen.temperature=1",
            "agent.munchausen.clip=-9",
        ),
        ("agent.td_target=max",),
    ),
    "resets": (("agent.reset_interval=7",), ("agent.reset_interval=9",), ("buffer.capacity=50",)),
}


@pytest.mark.parametrize("case", SHARING)
def test_runs_share_what_is_the_same_to_the_compiler(compose, tmp_path, monkeypatch, case):
    """Runs that are said to share an update find it under one name in the cache; others do not."""
    from dqn_runner.learning import compilation
    from dqn_runner.sweeps.sharing import update_function

    names = []

    def note(graph, example, library):
        names.append(library.name)
        raise RuntimeError("not compiled in this test")

    monkeypatch.setattr(compilation, "_load_or_compile", note)

    def both(*overrides: str) -> tuple[str, str]:
        config = compose("compile=always", *common, *overrides)
        build(config, RunDirectory(tmp_path))
        return update_function(config.plain()), names[-1]

    common, numbers, functions = SHARING[case]
    plain = both()
    for override in numbers:
        assert both(override) == plain, override
    for override in functions:
        function, name = both(override)
        assert function != plain[0], override
        assert name != plain[1], override
    assert both("network.noisy=0.5") == both("network.noisy=0.1")


@pytest.mark.parametrize(
    ("arguments", "cores", "device", "says"),
    [
        (["seed=0,1"], 2, "cpu", True),
        (["seed=0,1"], 1, "cpu", False),
        (["seed=0"], 2, "cpu", False),
        (["seed=0,1"], 2, "cuda", False),  # which one job has to itself
        (["hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "seed=0,1"], 2, "cpu", True),
    ],
)
def test_one_after_another_says_once_how_to_use_all_cores(
    command, tiny, monkeypatch, arguments, cores, device, says
):
    if "hydra/sweeper=optuna" in arguments:
        pytest.importorskip("optuna", reason="needs dqn_runner[optuna]")
    monkeypatch.setattr("joblib.cpu_count", lambda: cores)
    monkeypatch.setattr("dqn_runner.sweeps.grid.resolve_device", lambda _: torch.device(device))
    outcome = command("-m", *tiny, *arguments, "hydra.sweep.dir=sweep")
    assert outcome.code == 0, outcome.err
    line = "jobs run one after another; hydra/launcher=joblib runs them on all 2 cores\n"
    assert outcome.out.count(line) == outcome.out.count("on all") == says
    assert "seed 0" not in outcome.out.partition(line)[0] or not says  # before the first job


def test_a_worker_that_grows_stays_the_process_that_signals_reach():
    """Compiling takes some hundred megabytes, which loky takes for a leak."""
    worker = _Worker()
    try:
        before = worker._pool.submit(os.getpid).result()
        grow = "import builtins, time; builtins.kept = b'x' * 400_000_000; time.sleep(1.1)"
        worker._pool.submit(exec, grow).result()
        assert worker._pool.submit(os.getpid).result() == before
    finally:
        worker.close()


def test_folders_that_would_share_a_name_are_told_apart(command, tiny):
    long = ["a" * 150 + "/x", "a" * 150 + ":x"]
    swept = f"tracker.description={','.join(repr(name) for name in long)}"
    outcome = command("-m", *tiny, swept, "hydra.sweep.dir=sweep")
    assert outcome.code == 0, outcome.err
    assert len(_times(Path("sweep"))) == 2


def test_jobs_side_by_side_fail_alone(process, tiny, failing, tmp_path):
    swept = ["+env.kwargs.how=null,raise,die", "seed=0,1"]
    arguments = ["-m", "hydra/launcher=joblib", *tiny, failing, *swept, "hydra.launcher.n_jobs=2"]
    with process(*arguments, "hydra.sweep.dir=sweep") as child:
        code, out, err = _finish(child)
    assert code == 1
    assert "Traceback" not in out
    assert "one after another" not in out
    for seed in (0, 1):
        done, raised, died = (
            tmp_path / "sweep" / f"+env.kwargs.how={how},seed={seed}"
            for how in ("null", "raise", "die")
        )
        assert (done / "result.json").exists()
        log = (done / "train.log").read_text()
        assert f"Failing-v0, seed {seed}, " in log
        assert log.count("final return") == 1
        (start,) = RunDirectory(done).read_starts()
        assert "seed=0,1" in start["command"]
        config = yaml.safe_load((done / "config.yaml").read_text())
        assert config["torch_threads"] == 1
        assert f"sweep/{raised.name}: " in err
        end = RunDirectory(raised).read_end()
        assert end is not None
        assert "the pole has broken" in end.reason
        assert f"sweep/{died.name}: its process was killed" in err
        for failed in (raised, died):
            assert not (failed / "result.json").exists()
            assert re.search(rf"{re.escape(failed.name)} +failed", out)
    assert err.count("the pole has broken") == 2


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_a_signal_ends_jobs_side_by_side_in_order(process, quick, tmp_path, number, code):
    arguments = ["-m", *quick, "total_timesteps=100_000_000", "seed=1,2,3"]
    two = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=sweep"]
    with process(*arguments, *two) as child:
        runs = [tmp_path / "sweep" / f"seed={seed}" for seed in (1, 2)]
        wait_for(lambda: all((run / "metrics.jsonl").exists() for run in runs), child)
        time.sleep(0.5)
        child.send_signal(number)
        returned, out, err = _finish(child)
    assert returned == code
    assert err == ""
    for run in runs:
        state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert state["env_steps"] >= rows[-1]["env_steps"] > 0
        assert not RunDirectory(run).is_locked()
        assert re.search(rf"{run.name} +not finished", out)
    assert out.endswith("stopped; the same command with hydra.sweep.dir=sweep goes on\n")
    assert not (tmp_path / "sweep" / "seed=3").exists()


@pytest.mark.parametrize("columns", [None, 60])
def test_the_name_of_a_run_is_printed_whole(tmp_path, capsys, monkeypatch, columns):
    """In one line of a pipe; on a narrow terminal in several."""
    name = "agent.lr=0.001,env=minatar_breakout,experiment=minatar_combined,network.hidden_size=64"
    write_run(tmp_path / name, [1.0], 1.0)
    if columns:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", str(columns))
    print_results(tmp_path)
    _, *rows = capsys.readouterr().out.splitlines()
    assert "".join(row.split()[0] for row in rows) == name
    assert (len(rows) == 1) == (columns is None)


def test_a_preset_of_ones_own_is_found(command, tiny, tmp_path):
    preset = tmp_path / "own" / "hydra" / "launcher" / "two.yaml"
    preset.parent.mkdir(parents=True)
    preset.write_text("defaults: [joblib, _self_]\nn_jobs: 0\n")
    outcome = command("--config-dir", str(tmp_path / "own"), "-m", *tiny, "hydra/launcher=two")
    assert outcome.err == (
        "dqn-train: error: hydra.launcher.n_jobs=0: must be -1 or greater than 0\n"
    )


def test_the_display_counts_what_directories_say(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("dqn_runner.sweeps.display.SECONDS_BETWEEN_LINES", 0.0)
    paths = [tmp_path / f"seed={seed}" for seed in range(6)]
    display = SweepDisplay(paths)
    for path in paths[:5]:
        path.mkdir()
    for path, mean in zip(paths[:2], (3.5, 12.25), strict=True):
        score = {"mean": mean, "std": 0.0}
        times = {"env_steps": 400, "wall_time_seconds": 1.0}
        RunDirectory(path).finish({**times, "final": score, "best": score})
    RunDirectory(paths[2]).end(End("failed", "the pole has broken"))
    RunDirectory(paths[3]).end(End("pruned", "no hope"))
    going_on = RunDirectory(paths[4])
    going_on.claim_new()
    going_on.start({"total_timesteps": 400, "total_episodes": None})
    row = {"env_steps": 100, "episodes": 3, "time/env_steps_per_second": 2500.4}
    going_on.metrics.write_text(json.dumps(row) + '\n{"env_steps": 20')
    display._started = time.monotonic() - 170  # for 4.25 of 6 jobs
    display.look()
    going_on.close()
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == (
        " 71%  2 of 6 done  1 running  1 failed  1 pruned  mean 7.9  2,500 steps/s  0:01:10 left"
    )
    assert err == f"dqn-train: error: {paths[2]}: the pole has broken\n"


def test_what_was_done_before_took_no_time_of_this_sweep(tmp_path, capsys, monkeypatch):
    """One run goes on where it stood, one has lost its rows, one waits, and one is damaged."""
    monkeypatch.setattr("dqn_runner.sweeps.display.SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr("dqn_runner.sweeps.display.time", clock := Clock())
    runs = [RunDirectory(tmp_path / f"seed={seed}") for seed in range(4)]
    for run in runs[:3]:
        run.claim_new()
        run.start({"total_timesteps": 400, "total_episodes": None})
        run.metrics.write_text('{"env_steps": 200}\n')
    runs[2].close()
    runs[3].path.mkdir()
    runs[3].metrics.write_text('{"env_steps": 200}\n')
    display = SweepDisplay([run.path for run in runs])
    runs[1].metrics.unlink()
    display.look()
    clock.now = 10.0  # for a quarter of a run and a half of one
    runs[0].metrics.write_text('{"env_steps": 300}\n')
    runs[1].metrics.write_text('{"env_steps": 200}\n')
    display.look()
    for run in runs[:2]:
        run.close()
    before, after = capsys.readouterr().out.splitlines()
    assert before == " 25%  0 of 4 done  2 running  0 failed  "
    assert after == " 44%  0 of 4 done  2 running  0 failed  0:00:30 left"  # 2.25 are left


class Clock:
    """Stands in for the module time."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_the_display_names_the_best_settings_so_far(tmp_path, capsys, monkeypatch):
    """By the mean over their seeds: final returns, and last evaluations of what still runs."""
    monkeypatch.setattr("dqn_runner.sweeps.display.SECONDS_BETWEEN_LINES", 0.0)
    finals = {("0.1", 1): 10.0, ("0.1", 2): 30.0, ("0.01", 1): 25.0}
    paths = [tmp_path / f"agent.lr={lr},seed={seed}" for lr, seed in (*finals, ("0.01", 2))]
    for path, mean in zip(paths, finals.values(), strict=False):
        path.mkdir()
        score = {"mean": mean, "std": 0.0}
        times = {"env_steps": 400, "wall_time_seconds": 1.0}
        RunDirectory(path).finish({**times, "final": score, "best": score})
    going_on = RunDirectory(paths[3])
    going_on.claim_new()
    going_on.start({"total_timesteps": 400, "total_episodes": None})
    display = SweepDisplay(paths)
    for evaluated in ({}, {"eval/episode_return_mean": 14.0}, {"eval/episode_return_mean": 16.0}):
        going_on.metrics.write_text(json.dumps({"env_steps": 100, **evaluated}) + "\n")
        display.look()
    going_on.close()
    lines = capsys.readouterr().out.splitlines()
    best = ["best 25.0 (agent.lr=0.01)", "best 20.0 (agent.lr=0.1)", "best 20.5 (agent.lr=0.01)"]
    assert [text in line for text, line in zip(best, lines, strict=True)] == [True] * 3


def test_the_display_says_why_nothing_goes_on_yet(tmp_path, capsys, monkeypatch):
    """Until a run has built what it trains with there is no config.yaml."""
    monkeypatch.setattr("dqn_runner.sweeps.display.SECONDS_BETWEEN_LINES", 0.0)
    run = RunDirectory(tmp_path / "seed=0")
    run.claim_new()
    display = SweepDisplay([run.path, tmp_path / "seed=1"])
    display.look()
    run.start({"total_timesteps": 400, "total_episodes": None})
    display.look()
    run.close()
    before, after = capsys.readouterr().out.splitlines()
    assert "  1 running  0 failed  starting; a first compilation takes half a minute" in before
    assert "compilation" not in after


def test_the_display_takes_no_damaged_file_for_a_result(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("dqn_runner.sweeps.display.SECONDS_BETWEEN_LINES", 0.0)
    paths = [tmp_path / f"seed={seed}" for seed in range(2)]
    for path, name in zip(paths, ("result.json", "ended.json"), strict=True):
        path.mkdir()
        (path / name).write_bytes(b"\xff")
    SweepDisplay(paths).look()
    out, err = capsys.readouterr()
    assert "0 of 2 done  0 running  1 failed" in out
    assert err.startswith(f"dqn-train: error: {paths[1]}: ended.json is damaged")
    assert err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")
def test_many_jobs_leave_nothing_behind(command, quick, monkeypatch, capsys):
    """In one process; composing and SwanLab included, figures and closing evaluation aside.

    What a job costs is printed, for docs/sweeps.md.
    """
    from dqn_runner.tracking.tracker import SwanLabTracker

    monkeypatch.setattr("dqn_runner.runs.lifecycle.draw_curve", lambda *_: None)
    monkeypatch.setattr(SwanLabTracker, "log_media", lambda *_: None)
    seen: list[tuple[int, int]] = []

    def run_job(config: DictConfig, quiet: bool = False) -> float | None:
        score = job.run_job(config, quiet)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        seen.append((pages * 4096, len(list(Path("/proc/self/fd").iterdir()))))
        return score

    monkeypatch.setattr("dqn_runner.sweeps.launchers.run_job", run_job)
    tiny = ["total_timesteps=20", "learning_starts=10", "eval.interval=null"]
    started, began = time.process_time(), time.perf_counter()
    outcome = command(
        "-m", *quick, *tiny, "eval.final_episodes=1", "tracker.mode=offline", "seed=range(400)",
        "hydra.sweep.dir=sweep",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    cpu, wall = time.process_time() - started, time.perf_counter() - began
    with capsys.disabled():
        print(f"\na job takes {wall / 400:.2f} s, {cpu / 400:.2f} s of them CPU time")
        for number in (100, 399):
            size, num_files = seen[number]
            print(f"after {number} jobs: {size / 1e6:.0f} MB, {num_files} open files")
    sizes, files = zip(*seen, strict=True)
    # The least of fifty jobs: what the allocator holds for a moment goes up and down by a MB.
    assert min(sizes[350:]) - min(sizes[200:250]) < 1e6
    assert len(set(files[200:])) == 1
