"""dqn-train from its arguments to exit codes, run directories and what it prints."""

from __future__ import annotations

import json
import math
import os
import re
import resource
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import gymnasium as gym
import pytest
import torch
import yaml
from watching import wait_for

import dqn_runner
from dqn_runner.config.root import parse
from dqn_runner.runs.metrics_file import read_metrics
from dqn_runner.seeding import draw_seed, random_streams

HAS_CUDA = torch.cuda.is_available()

BAD_INPUT = [
    # arguments, what the line must begin with after the program's name
    (["agent.learning_rate=1"], "agent.learning_rate=1: no such key"),
    (["+agent.extra=1"], "agent.extra=1: no such key"),
    (["agent.lr=fast"], "agent.lr=fast: "),
    (["batch_size=1.5"], "batch_size=1.5: "),
    (["agent.double=perhaps"], "agent.double=perhaps: "),
    (["network.hidden_sizes=64"], "network.hidden_sizes=64: "),
    (["agent.lr=0"], "agent.lr=0: "),
    (["agent.lr=-1e-3"], "agent.lr=-0.001: "),
    (["agent.gamma=-0.1"], "agent.gamma=-0.1: "),
    (["agent.gamma=1.1"], "agent.gamma=1.1: "),
    (["target_update.tau=0"], "target_update.tau=0: "),
    (["target_update.tau=1.5"], "target_update.tau=1.5: "),
    (["epsilon.start=1.5"], "epsilon.start=1.5: "),
    (["epsilon=fixed", "epsilon.value=-0.5"], "epsilon.value=-0.5: "),
    (["buffer.capacity=0"], "buffer.capacity=0: "),
    (["batch_size=0"], "batch_size=0: "),
    (["buffer.capacity=10", "batch_size=20"], "buffer.capacity=10: "),
    (["network.hidden_sizes=[]"], "network.hidden_sizes=[]: "),
    (["network.hidden_sizes=[8,0]"], "network.hidden_sizes[1]=0: "),
    (
        ["agent=iqn", "network.hidden_sizes=[64]"],
        "network.hidden_sizes=[64]: agent=iqn needs two layers or more",
    ),
    (["env=nosuch"], "env=nosuch: must be one of "),
    (["env.id=NoSuch-v0"], "env.id=NoSuch-v0: "),
    (["env.id=Pendulum-v1"], "env.id=Pendulum-v1: its action space is Box"),
    (["+env.kwargs.nosuch=1"], "env.id=CartPole-v1: "),
    (["env.wrappers=['no_such_module:Wrapper']"], "env.wrappers[0]=no_such_module:Wrapper: "),
    (["device=tpu"], "device=tpu: "),
    (["device=cuda:99"], "device=cuda:99: "),
    (["seed=-1"], "seed=-1: "),
    (["total_timesteps=null"], "total_timesteps=null: "),
    (["-m", "agent.lr=1e-3,0"], "agent.lr=0: "),
    (["-m", "seed=0,1", "env=nosuch"], "env=nosuch: must be one of "),
    (["-m", "env.id=CartPole-v1,NoSuch-v0"], "env.id=NoSuch-v0: "),
    (["seed=0,1"], "seed=0,1: "),
    (["agent.td_target=sarsa"], "agent.td_target=sarsa: "),
    (["agent.td_target=munchausen"], "agent.td_target=munchausen: needs agent.double=false"),
    (
        ["agent=c51", "agent.v_min=200"],
        "agent.v_min=200.0, agent.v_max=auto: env.return_range makes that 200 to 100",
    ),
    (["-m", "agent=c51", "agent.v_min=0,200"], "agent.v_min=200.0, agent.v_max=auto: "),
    (["agent.behaviour=softmax", "agent.temperature=0"], "agent.temperature=0: "),
    (["phase.episodes=10", "phase.epochs=3"], "learning_starts=1000: phase.episodes=10 needs "),
    (["phase.episodes=10"], "phase.epochs=null: "),
    (["eval.video_interval=0"], "eval.video_interval=0: must be greater than 0"),
    (["eval.video_interval=2.5"], "eval.video_interval=2.5: "),
    (["eval.video_interval=often"], "eval.video_interval=often: "),
    (
        ["eval.video_interval=9", "eval.interval=null"],
        "eval.video_interval=9: interval is null, so nothing is filmed",
    ),
    # What would end in a crash, or in all memory being taken.
    (["torch_threads=1000000"], "torch_threads=1000000: must be less than or equal to 1024"),
    (["num_envs=1000000000"], "num_envs=1000000000: must be less than or equal to 10000"),
    (["eval.num_episodes=1000000000"], "eval.num_episodes=1000000000: must be less than or equal"),
    (["eval.final_episodes=10000000"], "eval.final_episodes=10000000: must be less than or equal"),
    (
        ["network.hidden_sizes=[10000000,10000000]"],
        "network.hidden_sizes=[10000000, 10000000]: takes 4.0 PB, and ",
    ),
    (["network.hidden_sizes=[100000000000000000000]"], "network.hidden_sizes=[1000000000"),
    (["batch_size=10000000000", "buffer.capacity=10000000000"], "batch_size=10000000000: takes "),
    (["device=cuda:99999999999999999999"], "device=cuda:99999999999999999999: not on this machine"),
    (["env.max_step_seconds=1e300"], "env.max_step_seconds=1e+300: must be less than or equal to"),
    (["tracker.time_limit=1e300"], "tracker.time_limit=1e+300: must be less than or equal to"),
    (["total_timesteps=1e30"], "total_timesteps=1e+30: is too large"),
    (
        ["agent.optimizer=adam"],
        "agent.optimizer=adam: must be a mapping with a name; did you mean "
        "agent.optimizer.name=adam?",
    ),
    (["env.kwargs=3"], "env.kwargs=3: must be a mapping, such as {key: value}"),
    (["lr=1e-4"], "lr=1e-4: no such key; the configuration has "),
    (
        ["tracker.name=a:b@c#d"],
        "tracker.name=a:b@c#d: cannot be read; text with special characters "
        "is quoted: 'tracker.name=\"a:b@c#d\"'",
    ),
    (["hydra.run.dir="], "hydra.run.dir=: must name a directory"),
    (["resume="], "resume=: must name a run directory"),
    (["--nosuch"], "unrecognized arguments: --nosuch"),
    (["--help", "lr=1e-4"], "lr=1e-4: no such key; the configuration has "),
    (["--cfg", "job", "lr=1e-4"], "lr=1e-4: no such key; the configuration has "),
]

CONF = Path(__file__).resolve().parents[1] / "conf"


@pytest.mark.parametrize(("arguments", "line"), BAD_INPUT)
def test_bad_input_is_refused_in_one_line_and_leaves_nothing(command, arguments, line):
    outcome = command(*arguments)
    assert outcome.code == 2
    assert len(outcome.err.strip().splitlines()) == 1
    assert outcome.err.startswith(f"dqn-train: error: {line}")
    assert outcome.out == ""
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("agent", "setting", "owners"),
    [
        ("c51", "loss=mse", "agent=dqn"),
        ("hl_gauss", "loss=huber", "agent=dqn"),
        ("qr_dqn", "clip_target=true", "agent=dqn"),
        ("iqn", "clip_target=false", "agent=dqn"),
        ("dqn", "v_min=0", "agent=c51 or agent=hl_gauss"),
        ("qr_dqn", "v_max=1", "agent=c51 or agent=hl_gauss"),
        ("dqn", "num_atoms=51", "agent=c51"),
        ("c51", "num_bins=51", "agent=hl_gauss"),
        ("hl_gauss", "kappa=1", "agent=iqn or agent=qr_dqn"),
        ("qr_dqn", "num_tau=8", "agent=iqn"),
    ],
)
def test_a_setting_of_another_representation_says_where_it_belongs(command, agent, setting, owners):
    outcome = command(f"agent={agent}", f"agent.{setting}")
    assert outcome.code == 2
    assert outcome.err.startswith(f"dqn-train: error: agent.{setting}: no such key; agent has name")
    assert outcome.err.endswith(f"; it goes with {owners}\n")
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.skipif(HAS_CUDA, reason="there is a CUDA device")
def test_a_missing_device_is_named_with_those_there_are(command):
    outcome = command("device=cuda")
    assert outcome.code == 2
    assert outcome.err == "dqn-train: error: device=cuda: not on this machine, which has cpu\n"
    assert list(Path.cwd().iterdir()) == []


def test_an_unwritable_run_directory_is_refused_in_one_line(command, quick):
    Path("occupied").write_text("a file")
    outcome = command(*quick, "hydra.run.dir=occupied/run")
    assert outcome.code != 0
    assert len(outcome.err.strip().splitlines()) == 1
    assert "occupied" in outcome.err


@pytest.fixture
def finished(command, quick):
    """A finished run in run/, logged offline."""
    outcome = command(*quick, "tracker.mode=offline", "log.interval=70", "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    return Path("run"), outcome


def test_a_run_directory_holds_what_the_design_says(finished):
    run, outcome = finished
    assert {path.name for path in run.iterdir()} == {
        ".hydra", ".lock", "config.yaml", "metrics.jsonl", "checkpoints", "curve.png", "swanlab",
        "train.log", "result.json", "started.jsonl",
    }  # fmt: skip
    # Every file that follows is there for a reader; what it holds is checked where it is made.
    checkpoints = {path.name for path in (run / "checkpoints").iterdir()}
    assert {"last.pt", "previous.pt", "best.pt"} <= checkpoints
    assert not list(run.rglob("*.partial"))
    assert (run / "curve.png").read_bytes().startswith(b"\x89PNG")

    config = parse(yaml.safe_load((run / "config.yaml").read_text()))
    assert (config.device, config.compile, config.torch_threads) == ("cpu", "never", 1)
    assert (config.log.interval, config.batch_size) == (70, 16)
    assert config.tracker.group == "cartpole"
    assert str(config.tracker.name).startswith("cartpole total_timesteps=300 ")

    _check_metrics(run)
    _check_result(run, outcome.out)


def _check_metrics(run: Path) -> None:
    text = (run / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    rows = [json.loads(line) for line in text.splitlines()]
    ended = [row for row in rows if "rollout/episode_return" in row]
    assert [row["episodes"] for row in ended] == list(range(1, len(ended) + 1))
    for row in ended:
        assert set(row) == {
            "env_steps", "episodes", "rollout/episode_return", "rollout/episode_length",
        }  # fmt: skip
    rows = [row for row in rows if row not in ended]
    steps = [row["env_steps"] for row in rows]
    assert steps == [70, 100, 140, 200, 210, 280, 300]  # of the log, of the evaluation, the last
    episodes = [row["episodes"] for row in rows]
    assert episodes == sorted(episodes)
    evaluation = {f"eval/episode_return_{n}" for n in ("mean", "std", "min", "max")}
    evaluation.add("eval/best_return_mean")
    always = {"env_steps", "episodes"}
    clock = {"time/env_steps_per_second", "time/elapsed_seconds"}
    logged = {"train/epsilon", "train/lr"} | clock
    learned = {"train/td_loss", "train/q_mean", "train/q_min", "train/q_max", "train/grad_norm"}
    for row in rows:
        expected = set(always)
        if row["env_steps"] % 100 == 0:
            expected |= evaluation
        if row["env_steps"] % 70 == 0 or row["env_steps"] == 300:
            expected |= logged | learned
        assert set(row) == expected
    assert [row["eval/best_return_mean"] for row in rows if "eval/best_return_mean" in row] == [
        max(r["eval/episode_return_mean"] for r in rows[: i + 1] if "eval/best_return_mean" in r)
        for i, row in enumerate(rows)
        if "eval/best_return_mean" in row
    ]
    # ε of the last action before the row: env step 69 is the 70th.
    assert rows[0]["train/epsilon"] == pytest.approx(0.05 + 0.95 * math.exp(-69 / 2000))
    clocks = [row["time/elapsed_seconds"] for row in rows if "time/elapsed_seconds" in row]
    assert clocks == sorted(clocks)


def _check_result(run: Path, out: str) -> None:
    result = json.loads((run / "result.json").read_text())
    wanted = {"status", "env_steps", "episodes", "wall_time_seconds", "final", "best"}
    assert set(result) - {"git_commit"} == wanted | {"command", "versions"}
    assert result["status"] == "finished"
    assert result["env_steps"] == 300
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert result["episodes"] == rows[-1]["episodes"]
    assert result["command"].startswith("dqn-train total_timesteps=300 ")
    assert result["versions"]["torch"] == torch.__version__
    assert result["wall_time_seconds"] > 0
    # The same episodes, played one after the other by the policies as they were saved; of one
    # policy under both names once.
    config = parse(yaml.safe_load((run / "config.yaml").read_text()))
    stream = random_streams(config.seed).evaluation
    for _ in range(3 * config.eval.num_episodes):
        draw_seed(stream)
    params = [
        torch.load(run / "checkpoints" / f"{name}.pt", weights_only=True)["agent"]["params"]
        for name in ("last", "best")
    ]
    seeds = [draw_seed(stream) for _ in range(3)]
    scored: list[tuple[str, Literal["last", "best"]]] = [("final", "last"), ("best", "best")]
    for name, checkpoint in scored:
        if checkpoint == "best" and not torch.equal(*params):
            seeds = [draw_seed(stream) for _ in range(3)]
        returns = _play(run, checkpoint, seeds)
        scores = result[name]
        assert scores["episodes"] == 3
        assert scores["mean"] == pytest.approx(statistics.fmean(returns))
        assert scores["std"] == pytest.approx(statistics.pstdev(returns))
        assert (scores["min"], scores["max"]) == (min(returns), max(returns))
        assert f"{name:5} return {scores['mean']:.1f} ± {scores['std']:.1f}" in out
    best = torch.load(run / "checkpoints" / "best.pt", weights_only=True)
    assert result["best"]["env_steps"] == best["env_steps"]
    means = {r["env_steps"]: r.get("eval/episode_return_mean", -math.inf) for r in rows}
    assert means[best["env_steps"]] == max(means.values())


def _play(run: Path, checkpoint: Literal["last", "best"], seeds: list[int]) -> list[float]:
    policy, env = dqn_runner.load_policy(run, checkpoint), gym.make("CartPole-v1")
    returns = []
    for seed in seeds:
        obs, _ = env.reset(seed=seed)
        total, ended = 0.0, False
        while not ended:
            obs, reward, terminated, truncated, _ = env.step(policy(obs))
            total, ended = total + float(reward), terminated or truncated
        returns.append(total)
    env.close()
    return returns


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [(["env=acrobot"], "acrobot"), (["experiment=plain_dqn"], "plain_dqn")],
)
def test_a_run_goes_under_the_working_directory_by_its_name(command, quick, arguments, folder):
    outcome = command(*quick, *arguments, "total_timesteps=60", "eval.interval=null",
                      "eval.final_episodes=1")  # fmt: skip
    assert outcome.code == 0, outcome.err
    (result,) = Path.cwd().rglob("result.json")
    place = result.parent.relative_to(Path.cwd())
    assert place.parts[:2] == ("outputs", folder)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", place.parts[2])
    assert [path.name for path in Path.cwd().iterdir()] == ["outputs"]
    assert f"run    {place}" in outcome.out
    # Without an evaluation on the way the final policy is the best one.
    assert json.loads(result.read_text())["best"]["env_steps"] == 60


def _table_lines(out: str, name: str) -> list[str]:
    return [line for line in out.splitlines() if line.lstrip().startswith(f"{name} ")]


FAILING_ENV = """
import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv


class Failing(CartPoleEnv):
    def __init__(self, fail_at=None, **kwargs):
        super().__init__(**kwargs)
        self.fail_at, self.steps = fail_at, 0

    def step(self, action):
        self.steps += 1
        if self.steps == self.fail_at:
            raise RuntimeError("the pole has broken")
        return super().step(action)


gym.register("Failing-v0", Failing, max_episode_steps=500)
"""


def test_a_failing_job_does_not_stop_the_others(command, quick, monkeypatch, tmp_path):
    (tmp_path / "failing_env.py").write_text(FAILING_ENV)
    monkeypatch.syspath_prepend(tmp_path)
    outcome = command(
        "-m", *quick, "env.id=failing_env:Failing-v0", "+env.kwargs.fail_at=100,100000",
        "seed=1,2", "checkpoint.interval=30", "hydra.sweep.dir=sweep",
    )  # fmt: skip
    assert outcome.code == 1
    names = {f"{fail_at},seed={seed}" for fail_at in ("100", "100000") for seed in (1, 2)}
    folders = {path.name.rpartition("fail_at=")[2]: path for path in Path("sweep").glob("*seed*")}
    assert set(folders) == names
    for name, folder in folders.items():
        fails = name.startswith("100,")
        assert (folder / "result.json").exists() != fails
        (line,) = _table_lines(outcome.out, folder.name)
        assert ("failed" in line) == fails
        if fails:
            # Its last checkpoint stays, and its log tells why it ended.
            state = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
            assert state["env_steps"] == 90
            assert "the pole has broken" in (folder / "train.log").read_text()
        else:
            result = json.loads((folder / "result.json").read_text())
            assert f"{result['final']['mean']:.1f} ± {result['final']['std']:.1f}" in line
    assert "the pole has broken" in outcome.err


def test_names_with_brackets_are_printed_as_they_are(command, quick):
    swept = "tracker.tags=[a],[b]"
    outcome = command("-m", *quick, "total_timesteps=20", swept, "hydra.sweep.dir=sweep")
    assert outcome.code == 0, outcome.err
    for name in ("tracker.tags=[a]", "tracker.tags=[b]"):
        assert Path("sweep", name, "result.json").exists()
        assert len(_table_lines(outcome.out, name)) == 1
        assert f"run    sweep/{name}\n" in outcome.out


def test_a_failing_run_exits_with_1(command, quick, monkeypatch, tmp_path):
    (tmp_path / "failing_env.py").write_text(FAILING_ENV)
    monkeypatch.syspath_prepend(tmp_path)
    outcome = command(*quick, "env.id=failing_env:Failing-v0", "+env.kwargs.fail_at=80",
                      "hydra.run.dir=run")  # fmt: skip
    assert outcome.code == 1
    assert not Path("run/result.json").exists()
    assert "the pole has broken" in outcome.err


def _wait_for_rows(run: Path, child: subprocess.Popen[str]) -> None:
    path = run / "metrics.jsonl"
    wait_for(lambda: path.exists() and path.stat().st_size >= 1000, child, seconds=90)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_a_signal_ends_a_run_in_order(process, quick, tmp_path, number, code):
    run = tmp_path / "run"
    arguments = [*quick, "total_timesteps=100_000_000", "tracker.mode=offline"]
    with process(*arguments, "hydra.run.dir=run") as child:
        _wait_for_rows(run, child)
        child.send_signal(number)
        out, err = child.communicate(timeout=60)
    assert child.returncode == code
    assert "Traceback" not in err
    assert not (run / "result.json").exists()
    state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert state["env_steps"] >= rows[-1]["env_steps"] > 0
    episodes = state["progress"]["episodes"]
    assert f"stopped at env step {state['env_steps']:,}, episode {episodes:,}" in out
    assert "dqn-train resume=run goes on" in out
    assert dqn_runner.load_policy(run).env_steps == state["env_steps"]


def test_a_signal_ends_a_sweep(process, quick, tmp_path):
    arguments = ["-m", *quick, "total_timesteps=100_000_000", "seed=1,2"]
    with process(*arguments, "hydra.sweep.dir=sweep") as child:
        _wait_for_rows(tmp_path / "sweep" / "seed=1", child)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "Traceback" not in err
    assert not list((tmp_path / "sweep").glob("seed=2/metrics.jsonl"))
    assert re.search(r"seed=1 +not finished", out)


def test_a_directory_with_a_run_is_left_as_it_is(command, quick):
    assert command(*quick, "hydra.run.dir=run").code == 0
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    outcome = command(*quick, "seed=1", "hydra.run.dir=run")
    assert outcome.code in (1, 2)
    assert len(outcome.err.strip().splitlines()) == 1
    assert "run: holds a run already" in outcome.err
    after = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    assert {path.name for path in before if before[path] != after.get(path)} == set()
    assert set(after) == set(before)


MAIN = """
import sys
sys.argv[0] = 'dqn-train'
from dqn_runner.train import main
try:
    main()
finally:
    print('heavy:', *({'torch', 'gymnasium', 'swanlab'} & set(sys.modules)))
"""


def _main(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """dqn-train in a process, which prints at its end which heavy packages it has imported."""
    return subprocess.run(
        [sys.executable, "-c", MAIN, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
        timeout=60,
    )


def test_version_costs_nothing():
    done = _main("--version")
    assert done.returncode == 0
    assert done.stdout == f"dqn-train {dqn_runner.__version__}\nheavy:\n"


@pytest.mark.parametrize("arguments", [["--help"], ["-h"]])
def test_help_imports_nothing_heavy_and_shows_groups_options_and_examples(
    arguments, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    done = _main(*arguments)
    assert done.returncode == 0
    assert done.stdout.endswith("heavy:\n")
    for text in (
        "dqn-train env=cartpole agent.lr=1e-4",
        "dqn-train -m ",
        "hydra/launcher basic batched joblib ray slurm slurm_gpu\n",
        "hydra/sweeper  basic optuna\n",
        "learning_starts=1000 ",
        "Env steps before the first update. (integer >= 0)\n",
    ):
        assert text in done.stdout
    unwrapped = " ".join(done.stdout.split())
    for group in ("env", "epsilon", "agent", "network", "experiment"):
        paths = [path.relative_to(CONF / group) for path in (CONF / group).rglob("[!_]*.yaml")]
        options = sorted(path.with_suffix("").as_posix() for path in paths)
        assert f" {group} {' '.join(options)} " in unwrapped
    assert list(tmp_path.iterdir()) == []


def test_help_that_is_read_in_part_ends_quietly():
    shown = subprocess.Popen(
        [sys.executable, "-c", MAIN, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert shown.stdout
    shown.stdout.close()
    assert shown.communicate()[1] == b""


def test_a_configuration_is_shown_as_it_would_be_run():
    done = _main("--cfg", "job", "-p", "env", "env.kwargs.max_episode_steps=50", "tracker.name=一")
    assert (done.returncode, done.stderr) == (0, "")
    assert "kwargs:\n  max_episode_steps: 50\n" in done.stdout


def test_help_shows_the_settings_of_a_launcher_and_a_sweeper_that_are_chosen():
    shown = _main("--help").stdout
    assert "n_jobs" not in shown
    shown = _main("--help", "-m", "hydra/launcher=joblib", "hydra/sweeper=optuna").stdout
    assert "\n  hydra.launcher.name=joblib\n  hydra.launcher.n_jobs=-1\n" in shown
    assert "\n  hydra.sweeper.n_trials=50 " in shown


def test_shell_completion(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = _main("-sc", "install=bash")
    assert done.returncode == 0
    assert "hydra_bash_completion()" in done.stdout
    assert "complete -o nospace -o default -F hydra_bash_completion dqn-train" in done.stdout
    done = _main("-sc", "query=bash", COMP_LINE="dqn-train epsilon=", COMP_POINT="18")
    options = {f"epsilon={name}" for name in ("exponential", "fixed", "linear", "multiplicative")}
    assert options <= set(done.stdout.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_memory_is_flat_over_a_quarter_of_a_million_steps(process, tmp_path):
    metrics, pages_at = tmp_path / "run" / "metrics.jsonl", {}
    settings = ["total_timesteps=250000", "batch_size=32", "compile=always", "torch_threads=1"]
    with process(*settings, "hydra.run.dir=run") as child:
        while child.poll() is None:
            time.sleep(0.3)
            if metrics.exists() and (rows := read_metrics(metrics)):
                pages = int(Path(f"/proc/{child.pid}/statm").read_text().split()[1])
                pages_at[rows[-1]["env_steps"]] = pages * resource.getpagesize()
    # The replay buffer is full after 50,000; the closing scores come after the last row.
    training = [size for steps, size in pages_at.items() if 60_000 <= steps < 240_000]
    assert len(training) > 20
    assert max(training) - training[0] < 4e6
