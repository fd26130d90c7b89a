"""dqn-eval and load_policy: what a finished run's policy does, told and filmed."""

from __future__ import annotations

import json
import re
import shutil
import signal
import statistics
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from scipy import stats
from torch import nn

import dqn_runner
from dqn_runner.errors import RunError
from dqn_runner.evaluate import command_line
from dqn_runner.program import guarded
from dqn_runner.runs import lifecycle as training
from dqn_runner.seeding import draw_seed, evaluation_stream
from dqn_runner.training import checkpoint

HIDDEN = 16


@pytest.fixture(scope="module")
def trained(tmp_path_factory, compose) -> Path:
    settings = ("agent.lr=0.02", "agent.lr_schedule=constant", "agent.clip_target=false", "seed=4",
                "total_timesteps=400", "network.norm=none")  # fmt: skip
    path = tmp_path_factory.mktemp("trained")
    config = compose(f"network.hidden_sizes=[{HIDDEN}]", *settings)
    training.run(config, path, Console(quiet=True))
    # A best policy that differs from the final one for certain: it prefers what that dislikes.
    state = torch.load(path / "checkpoints" / "last.pt", weights_only=True)
    state["agent"]["params"][-(HIDDEN * 2 + 2) :] *= -1
    checkpoint.save({**state, "env_steps": 300}, path / "checkpoints" / "best.pt")
    return path


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A run directory of the test's own."""
    return shutil.copytree(trained, tmp_path / "run")


def open_film(path: Path) -> Any:
    return imageio.get_reader(path)


def number_after(name: str, text: str) -> float:
    (number,) = re.findall(rf"{name} ([\d.]+)", text)
    return float(number)


@pytest.fixture
def evaluate(capsys):
    """dqn-eval in process: exit code, stdout, stderr."""

    def evaluate(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = guarded("dqn-eval", command_line, [str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return evaluate


def network(checkpoint: Path, num_inputs: int = 4, num_actions: int = 2) -> nn.Module:
    """The network of a checkpoint, its layers filled by hand from the one flat vector."""
    params = torch.load(checkpoint, weights_only=True)["agent"]["params"]
    module = nn.Sequential(nn.Linear(num_inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, num_actions))
    start = 0
    with torch.no_grad():
        for parameter in module.parameters():
            piece = params[start : start + parameter.numel()]
            parameter.copy_(piece.reshape(parameter.shape))
            start += parameter.numel()
    assert start == len(params)
    return module


@torch.no_grad()
def play(module: nn.Module, seed: int) -> tuple[float, int]:
    """Return and length of one greedy episode."""
    env = gym.make("CartPole-v1")
    obs, _ = env.reset(seed=seed)
    total, length, ended = 0.0, 0, False
    while not ended:
        action = int(module(torch.from_numpy(np.float32(obs))).argmax())
        obs, reward, terminated, truncated, _ = env.step(action)
        total, length, ended = total + float(reward), length + 1, terminated or truncated
    env.close()
    return total, length


def seeds(seed: int, count: int) -> list[int]:
    stream = evaluation_stream(seed)
    return [draw_seed(stream) for _ in range(count)]


@pytest.mark.parametrize(
    ("arguments", "name", "seed"),
    [
        ([""], "last", 0),
        (["", "--checkpoint", "best"], "best", 0),
        (["checkpoints/previous.pt", "--seed", "5"], "previous", 5),
    ],
)
def test_scores_are_those_of_a_plain_loop(run, evaluate, arguments, name, seed):
    target, *options = arguments
    code, out, err = evaluate(run / target, "--episodes", 7, "--videos", 0, *options)
    assert (code, err) == (0, "")
    path = run / "checkpoints" / f"{name}.pt"
    returns = [play(network(path), s)[0] for s in seeds(seed, 7)]
    steps = torch.load(path, weights_only=True)["env_steps"]
    assert out.splitlines()[0] == (
        f"CartPole-v1, policy of env step {steps:,}: return mean {statistics.fmean(returns):.2f}, "
        f"std {statistics.pstdev(returns):.2f}, min {min(returns):.2f}, max {max(returns):.2f} "
        "over 7 episodes"
    )
    assert not (run / "videos").exists()


def test_final_and_best_are_different_policies(run):
    """Else the tests above could not tell one checkpoint from the other."""
    scores = {
        name: tuple(play(network(run / "checkpoints" / f"{name}.pt"), s)[0] for s in seeds(0, 7))
        for name in ("last", "best")
    }
    assert scores["last"] != scores["best"]


def test_films_show_the_first_episodes_in_full(run, evaluate):
    code, out, _ = evaluate(run, "--episodes", 3, "--videos", 2)
    assert code == 0
    policy = network(run / "checkpoints" / "last.pt")
    assert {path.name for path in (run / "videos").iterdir()} == {
        f"last_episode_{i}.{kind}" for i in range(2) for kind in ("mp4", "gif")
    }
    for i, seed in enumerate(seeds(0, 2)):
        frames = play(policy, seed)[1] + 1  # the first observation too
        mp4 = run / "videos" / f"last_episode_{i}.mp4"
        with open_film(mp4) as film:
            assert film.count_frames() == frames
            picture = film.get_data(0)
        assert picture.shape == (400, 600, 3)
        assert picture.std() > 5  # not one colour
        small = imageio.mimread(mp4.with_suffix(".gif"))
        assert len(small) == -(-frames // 3)  # 50 frames a second, of which every third
        assert not np.array_equal(small[0], small[-1])
        assert str(mp4) in out


def test_films_can_be_cut_short(run, evaluate):
    code, _, _ = evaluate(run, "--episodes", 1, "--checkpoint", "best", "--max-steps", 5)
    assert code == 0
    with open_film(run / "videos" / "best_episode_0.mp4") as film:
        assert film.count_frames() == 6


def test_an_evaluation_is_logged_beside_the_training(train, evaluate, records):
    sizes = f"network.hidden_sizes=[{HIDDEN}]"
    run = train("run", sizes, "network.norm=none", "tracker.mode=offline")
    (training,) = (run / "swanlab").glob("run-*/*.swanlab")
    assert evaluate(run, "--episodes", 4, "--videos", 0)[0] == 0
    (path,) = set((run / "swanlab").glob("run-*/*.swanlab")) - {training}
    stored = records(path)
    (start,) = [r.start for r in stored if r.HasField("start")]
    assert start.job_type == "evaluation"
    returns = [play(network(run / "checkpoints" / "last.pt"), s)[0] for s in seeds(0, 4)]
    values = {r.scalar.key: r.scalar.value.number for r in stored if r.HasField("scalar")}
    assert values == {
        "eval/episode_return_mean": pytest.approx(statistics.fmean(returns)),
        "eval/episode_return_std": pytest.approx(statistics.pstdev(returns)),
        "eval/episode_return_min": min(returns),
        "eval/episode_return_max": max(returns),
    }


def behave(run: Path, **settings: object) -> None:
    """Give the agent of a finished run another behaviour."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["agent"] |= settings
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def test_a_softmax_policy_is_evaluated_as_it_behaves(run, evaluate):
    """Cold it is the greedy policy, hot it is a coin, and each time it plays the same."""
    _, greedy, _ = evaluate(run, "--episodes", 30, "--videos", 0)
    behave(run, behaviour="softmax", temperature=1e-9)
    assert evaluate(run, "--episodes", 30, "--videos", 0)[1] == greedy
    behave(run, temperature=1e9)
    _, hot, _ = evaluate(run, "--episodes", 30, "--videos", 0)
    assert evaluate(run, "--episodes", 30, "--videos", 0)[1] == hot != greedy
    mean, low = (number_after(name, hot) for name in ("mean", "min"))
    assert 15 < mean < 32  # random actions keep the pole up for some 22 steps
    assert low < 15
    behave(run, behaviour="greedy")  # whatever the temperature
    assert evaluate(run, "--episodes", 30, "--videos", 0)[1] == greedy


def test_a_softmax_policy_draws_in_proportion_and_films_alike_each_time(run, evaluate):
    behave(run, behaviour="softmax", temperature=2.0)
    policy, module = dqn_runner.load_policy(run), network(run / "checkpoints" / "last.pt")
    obs = np.array([0.1, 0.5, -0.05, -0.4], np.float32)
    with torch.no_grad():
        expected = 4000 * module(torch.from_numpy(obs)).double().div(2.0).softmax(dim=0).numpy()
    counts = np.bincount([policy(obs) for _ in range(4000)], minlength=2)
    assert stats.chisquare(counts, expected).pvalue > 1e-4
    films = []
    for _ in range(2):
        assert evaluate(run, "--episodes", 1, "--videos", 1, "--max-steps", 30)[0] == 0
        films.append((run / "videos" / "last_episode_0.gif").read_bytes())
    assert films[0] == films[1]


@pytest.mark.parametrize("name", ["last", "best"])
def test_load_policy_acts_greedily_on_raw_observations(run, name):
    policy = dqn_runner.load_policy(run, name)
    module = network(run / "checkpoints" / f"{name}.pt")
    observations = np.random.default_rng(0).normal(scale=0.5, size=(200, 4))
    with torch.no_grad():
        expected = module(torch.from_numpy(np.float32(observations))).argmax(dim=1).tolist()
    assert [policy(obs) for obs in observations] == expected
    assert set(expected) == {0, 1}
    assert dqn_runner.load_policy(run / "checkpoints" / f"{name}.pt")(
        observations[0]
    ) == expected[0]  # fmt: skip


def test_load_policy_takes_numbered_observations(train):
    sizes = f"network.hidden_sizes=[{HIDDEN}]"
    run = train("run", "env.id=FrozenLake-v1", sizes, "network.norm=none")
    policy, module = dqn_runner.load_policy(run), network(run / "checkpoints/last.pt", 16, 4)
    with torch.no_grad():
        expected = module(torch.eye(16)).argmax(dim=1).tolist()
    assert [policy(state) for state in range(16)] == expected


class Awkward(gym.Wrapper):
    """CartPole that never ends, and which does `what` at the twentieth call of `where`."""

    def __init__(self, env, what="", where="step"):
        super().__init__(env)
        self.what, self.where, self.calls = what, where, 0

    def _call(self, where):
        self.calls += where == self.where
        if self.calls == 20 and self.what:
            if self.what == "exit":
                sys.exit(0)
            signal.raise_signal(int(self.what))

    def step(self, action):
        self._call("step")
        obs, _, terminated, _, _ = self.env.step(action)
        return self.env.reset()[0] if terminated else obs, 1.0, False, False, {}

    def render(self):
        self._call("render")
        return self.env.render()


def make_awkward(run: Path, limit: int | None, **arguments: str) -> None:
    """Let the run's environment be one that does not end, with a limit or without."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["env"]["id"] = "CartPole-v1"
    config["env"]["kwargs"] = {"max_episode_steps": -1}
    config["env"]["wrappers"] = [{"name": f"{__name__}:Awkward", **arguments}]
    config["eval"]["max_episode_steps"] = limit
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def test_the_limit_of_the_runs_evaluations_holds(run, evaluate, caplog):
    make_awkward(run, 30)
    code, out, _ = evaluate(run, "--episodes", 3, "--trust")
    assert code == 0
    assert "return mean 30.00, std 0.00, min 30.00, max 30.00 over 3 episodes" in out
    (line,) = caplog.messages
    assert line.startswith("eval.max_episode_steps=30: an evaluation episode was still going on")
    with open_film(run / "videos" / "last_episode_0.mp4") as film:
        assert film.count_frames() == 31


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
@pytest.mark.parametrize(("where", "limit"), [("step", None), ("render", 40)])
def test_a_signal_ends_an_evaluation_or_a_film_between_two_steps(
    run, evaluate, number, code, where, limit
):
    make_awkward(run, limit, what=str(int(number)), where=where)
    exit_code, _, err = evaluate(run, "--episodes", 2, "--trust")
    assert exit_code == code
    assert "Traceback" not in err
    assert not list(run.glob("videos/*"))


@pytest.mark.parametrize("where", ["step", "render"])
def test_an_environment_that_exits_is_a_failure_in_a_line(run, evaluate, where):
    make_awkward(run, None if where == "step" else 40, what="exit", where=where)
    code, _, err = evaluate(run, "--episodes", 2, "--trust")
    assert code == 1
    line = err.splitlines()[-1]
    assert line.startswith("dqn-eval: error: ")
    assert line.endswith(f"in {where}: SystemExit: 0")
    assert not list(run.glob("videos/*"))


def refused(outcome: tuple[int, str, str], *texts: str) -> None:
    code, _, err = outcome
    assert code in (1, 2)
    (line,) = err.strip().splitlines()
    assert line.startswith("dqn-eval: error: ")
    for text in texts:
        assert text in line


def test_missing_runs_are_refused_in_a_line(run, evaluate, tmp_path):
    refused(evaluate(tmp_path / "nosuch"), "nosuch", "no such run directory")
    refused(evaluate(run / "checkpoints" / "nosuch.pt"), "nosuch.pt", "no such checkpoint")
    (tmp_path / "empty").mkdir()
    refused(evaluate(tmp_path / "empty"), "config.yaml")
    refused(evaluate(tmp_path), f"{tmp_path}: holds no run", f"the 1 runs below it: {run}")
    refused(evaluate(tmp_path / "nosuch.pt"), "nosuch.pt: no such checkpoint")
    (tmp_path / "alone.pt").touch()
    refused(evaluate(tmp_path / "alone.pt"), "alone.pt: is in no run: there is no ")
    refused(evaluate(""), "argument run: must not be empty")
    with pytest.raises(RunError, match="is empty"):
        dqn_runner.load_policy("")


def test_a_checkpoint_by_its_bare_name(run, monkeypatch):
    monkeypatch.chdir(run / "checkpoints")
    assert dqn_runner.load_policy("last.pt").env_steps == 400


def test_a_broken_config_is_refused_in_a_line(run, evaluate):
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text + "nonsense: 1\n")
    refused(evaluate(run, "--videos", 0), "nonsense=1: no such key")
    (run / "config.yaml").write_text("a: [")
    refused(evaluate(run, "--videos", 0), "config.yaml")


def damaged(kind: str, path: Path) -> None:
    content = path.read_bytes()
    match kind:
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("not a checkpoint")
        case "another file of torch":
            torch.save([1, 2], path)
        case "without the agent":
            state = torch.load(path, weights_only=True)
            torch.save({k: v for k, v in state.items() if k != "agent"}, path)
        case "another network":
            state = torch.load(path, weights_only=True)
            state["agent"]["params"] = torch.zeros(5)
            torch.save(state, path)
        case "another version":
            torch.save({**torch.load(path, weights_only=True), "format_version": 999}, path)


@pytest.mark.parametrize(
    "kind",
    [
        "cut",
        "empty",
        "text",
        "another file of torch",
        "without the agent",
        "another network",
        "another version",
    ],
)
def test_a_damaged_checkpoint_is_refused_in_a_line(run, evaluate, kind):
    damaged(kind, run / "checkpoints" / "last.pt")
    refused(evaluate(run, "--episodes", 1, "--videos", 0), "last.pt")
    assert evaluate(run, "--episodes", 1, "--videos", 0, "--checkpoint", "best")[0] == 0


@pytest.mark.parametrize(
    "option",
    [
        ["--episodes", "0"], ["--episodes", "x"], ["--episodes", "1000000000"], ["--seed", "-1"],
        ["--videos", "-1"], ["--checkpoint", "worst"], ["--nosuch"],
    ],
)  # fmt: skip
def test_bad_options_are_refused(run, evaluate, option):
    outcome = evaluate(run, *option)
    refused(outcome, option[0])
    assert outcome[0] == 2
    assert not (run / "videos").exists()


def test_the_run_is_only_added_to(run, evaluate):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert evaluate(run, "--episodes", 2)[0] == 0
    assert {path: path.read_bytes() for path in before} == before
    added = {path.parent.name for path in run.rglob("*") if path.is_file() and path not in before}
    assert added == {"videos"}


def test_version(evaluate, capsys):
    with pytest.raises(SystemExit) as stop:
        evaluate("--version")
    assert stop.value.code == 0
    assert re.fullmatch(r"dqn-eval \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_result_of_training_is_about_the_same_policy(run, evaluate):
    """dqn-eval on other seeds than training's: near its score, but not the same episodes."""
    _, out, _ = evaluate(run, "--episodes", 40, "--videos", 0)
    mean = number_after("mean", out)
    spread = number_after("std", out)
    final = json.loads((run / "result.json").read_text())["final"]
    assert abs(mean - final["mean"]) <= 4 * max(spread, 1.0)
