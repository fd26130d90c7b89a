"""hydra/launcher=batched as a command: groups of runs in several processes."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import psutil
import pytest
import torch
from resuming import assert_same_runs
from watching import wait_for

from dqn_runner.composing.command import Command
from dqn_runner.errors import ConfigError
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.seeding import draw_seed, random_streams
from dqn_runner.sweeps.launchers import batched
from dqn_runner.sweeps.launchers.worker import Shared

OWN_NETWORK = """
import torch


class Own(torch.nn.Linear):
    def __init__(self, obs_shape, num_actions):
        super().__init__(*obs_shape, num_actions)
"""
BATCHED = ("-m", "hydra/launcher=batched", "hydra.sweep.dir=sweep")


def groups(sweep: Path) -> list[list[str | None]]:
    loaded: list[list[str | None]] = json.loads((sweep / batched.GROUPS).read_text())["groups"]
    return loaded


def trained_together(run: Path) -> int:
    result = RunDirectory(run).read_result()
    assert result is not None
    return int(result.get("trained_together", 1))


def planned(*settings: str, group_size: int | str = 8) -> list[list[str | None]]:
    """The groups of these jobs, as the launcher plans them for one process."""
    command = Command([*BATCHED, "compile=never", "device=cpu", *settings])
    context, config = command.context()
    command.directory.mkdir(exist_ok=True)
    launcher = batched.BatchedLauncher(
        {"group_size": group_size, "processes": 1}, Shared(context, config, None, [])
    )
    launcher.plan({job.path: job.config for job in command.jobs})
    return groups(command.directory)


def test_jobs_of_a_grid_are_trained_in_groups(command, quick):
    """Those that fit no group run by themselves, and all end as runs do."""
    swept = ["agent.lr=1e-3,3e-4", "seed=range(0,2)"]
    outcome = command(*BATCHED, *quick, *swept, "hydra.launcher.processes=1")
    assert outcome.code == 0, outcome.err
    assert "4 runs in one group, 1 at a time; they take up to " in outcome.out
    runs = sorted(Path("sweep").glob("*/result.json"))
    assert len(runs) == 4
    assert all(trained_together(path.parent) == 4 for path in runs)
    (group,) = groups(Path("sweep"))
    assert sorted(filter(None, group)) == [path.parent.name for path in runs]
    # More of the grid: what is there keeps its group.
    outcome = command(*BATCHED, *quick, "agent.lr=1e-3,3e-4", "seed=range(0,3)")
    assert outcome.code == 0, outcome.err
    assert groups(Path("sweep"))[0] == group
    assert len(list(Path("sweep").glob("*/result.json"))) == 6


def test_what_differs_in_shape_is_trained_apart(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = planned("batch_size=8,16", "seed=range(0,2)")
    assert "4 runs in 2 groups of 2, 1 at a time; they take up to " in capsys.readouterr().out
    assert [len({str(name).split(",seed")[0] for name in group}) for group in found] == [1, 1]


def test_runs_that_end_together_are_trained_together(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = planned("seed=range(0,4)", "total_timesteps=1000,300,2000", group_size=5)
    budgets = [[str(name).split("total_timesteps=")[-1] for name in group] for group in found]
    assert budgets == [["2000"] * 4, ["1000"] * 4, ["300"] * 4]  # the longest first
    found = planned("seed=range(0,3)", "total_timesteps=300,2000", group_size=2)
    budgets = [[str(name).split("total_timesteps=")[-1] for name in group] for group in found]
    assert budgets == [["2000", "2000"], ["2000", "300"], ["300", "300"]]


def begin(name: str) -> None:
    """As if that run had begun."""
    path = Path("sweep") / name
    path.mkdir(parents=True)
    (path / "config.yaml").touch()


def test_the_same_command_makes_the_same_groups_however_far_it_came(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = planned("seed=range(0,7)", group_size=3)
    assert [len(group) for group in first] == [3, 3, 3]
    begin("seed=0")
    assert planned("seed=range(0,7)", group_size=3) == first
    more = planned("seed=range(0,9)", group_size=3)
    assert more[:3] == first
    assert sorted(filter(None, more[3])) == ["seed=7", "seed=8"]
    # Other settings count for groups of which no run has begun.
    other = planned("seed=range(0,7)", group_size=2)
    assert other == [first[0], ["seed=3", "seed=4"], ["seed=5", "seed=6"]]


def test_a_group_that_has_not_begun_is_kept_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert planned("seed=range(0,4)") == [["seed=0", "seed=1", "seed=2", "seed=3"]]
    assert planned("seed=3,4") == [["seed=3", "seed=4"]]


def test_groups_that_an_older_version_kept_go_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    begin("seed=2")
    older = [["seed=2", "seed=1", None], ["seed=0", "seed=3", None]]
    (Path("sweep") / batched.GROUPS).write_text(json.dumps(older))
    assert planned("seed=range(0,4)", group_size=4) == [older[0], ["seed=0", "seed=3"]]


def test_jobs_that_no_longer_agree_are_grouped_anew(tmp_path, monkeypatch):
    """Such as after another network was typed for some that had not begun."""
    monkeypatch.chdir(tmp_path)
    assert planned("seed=0,1") == [["seed=0", "seed=1"]]
    monkeypatch.setattr(batched.BatchedLauncher, "_key", lambda _, job: str(job["seed"]))
    assert planned("seed=0,1") == [["seed=0"], ["seed=1"]]


@pytest.mark.parametrize(
    "settings",
    [
        ["phase.episodes=2", "phase.epochs=1", "learning_starts=0"],
        ["hydra.job.chdir=true"],
        ["network.hidden_sizes=[2048,2048]"],
        ["+hydra.job.env_set.WHERE=here"],
    ],
)
def test_runs_that_would_not_go_in_step_are_trained_by_themselves(tmp_path, monkeypatch, settings):
    monkeypatch.chdir(tmp_path)
    small = ["agent=dqn", "network.norm=none", "network.hidden_sizes=[16]"]
    assert len(planned(*small, "seed=0,1", group_size="auto")) == 1
    # What the folder keeps of before is of no use to these.
    found = planned(*small, *settings, "seed=0,1", group_size="auto")
    assert [len(group) for group in found] == [1, 1]


@pytest.mark.parametrize("order", ["uniform,prioritized", "prioritized,uniform"])
def test_memory_is_counted_for_the_largest_of_a_group(tmp_path, monkeypatch, capsys, order):
    monkeypatch.chdir(tmp_path)
    planned(f"buffer={order}", "agent.n_step=1")
    both = capsys.readouterr().out
    shutil.rmtree("sweep")
    planned("buffer=prioritized", "agent.n_step=1", "seed=0,1")
    assert both == capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        (["network.hidden_sizes=[64,64]"], [4]),
        (["network.hidden_sizes=[512,512]"], [1] * 4),  # whose products fill a core by themselves
    ],
)
def test_large_networks_gain_nothing_and_run_by_themselves(
    tmp_path, monkeypatch, capsys, settings, sizes
):
    monkeypatch.chdir(tmp_path)
    small = ["agent=dqn", "network.norm=none", "batch_size=64"]
    found = planned(*small, *settings, "seed=range(0,4)", group_size="auto")
    assert [len(group) for group in found] == sizes
    assert ("4 runs, each by itself" in capsys.readouterr().out) == (len(sizes) == 4)


def started(sweep: Path, seeds: range) -> bool:
    return all((sweep / f"seed={seed}" / "checkpoints" / "last.pt").exists() for seed in seeds)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["Ctrl-C", "kill -9", "kill -9 of a worker"])
def test_an_interrupted_grid_ends_bit_for_bit_as_undisturbed(
    process, command, quick, tmp_path, way
):
    arguments = [
        *BATCHED,
        *quick,
        "seed=range(0,3)",
        "total_timesteps=800",
        "checkpoint.interval=100",
    ]
    one = "hydra.launcher.processes=1"
    assert command(*arguments, one, "hydra.sweep.dir=undisturbed").code == 0
    sweep, seeds = tmp_path / "sweep", range(3)
    with process(*arguments, one, f"hydra.sweep.dir={sweep}") as child:
        wait_for(lambda: started(sweep, seeds), child)
        if way == "Ctrl-C":
            child.send_signal(signal.SIGINT)
        else:
            family = psutil.Process(child.pid).children(recursive=True)
            workers = [p for p in family if "loky" in " ".join(p.cmdline())]
            for member in workers if "worker" in way else [*family, psutil.Process(child.pid)]:
                member.kill()
        told = child.communicate(timeout=120)[1]
    # What a worker that was killed had to do goes on in two others.
    assert child.returncode == {"Ctrl-C": 130, "kill -9": -9, "kill -9 of a worker": 0}[way]
    done = [(sweep / f"seed={seed}" / "result.json").exists() for seed in seeds]
    assert done == [way == "kill -9 of a worker"] * 3
    if way == "kill -9 of a worker":
        assert "trained 3 runs was killed; they go on in two halves" in told
    if way == "Ctrl-C":
        checkpoints = [sweep / f"seed={seed}" / "checkpoints" / "last.pt" for seed in seeds]
        steps = [torch.load(path, weights_only=True)["env_steps"] for path in checkpoints]
        assert max(steps) - min(steps) <= 1
    outcome = command(*arguments, one, f"hydra.sweep.dir={sweep}")
    assert outcome.code == 0, outcome.err
    for seed in seeds:
        assert_same_runs(sweep / f"seed={seed}", Path("undisturbed") / f"seed={seed}")


DEADLY = """
import os

import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv


class Deadly(CartPoleEnv):
    def reset(self, *, seed=None, options=None):
        if seed == int(os.environ["DEADLY_SEED"]):
            os._exit(1)
        return super().reset(seed=seed, options=options)


gymnasium.register("Deadly-v0", Deadly, max_episode_steps=50)
"""


@pytest.mark.slow
def test_a_run_that_kills_its_process_fails_alone(command, quick, tmp_path, monkeypatch):
    (tmp_path / "cwd" / "deadly.py").write_text(DEADLY)
    stream = random_streams(2).env
    draw_seed(stream)
    monkeypatch.setenv("DEADLY_SEED", str(draw_seed(stream)))  # of the run's second episode
    arguments = [*BATCHED, *quick, "env.id=deadly:Deadly-v0", "seed=range(0,5)"]
    outcome = command(*arguments, "hydra.launcher.processes=1")
    assert outcome.code == 1
    failed = [path.parent.name for path in Path("sweep").glob("*/ended.json")]
    assert failed == ["seed=2"]
    assert len(list(Path("sweep").glob("*/result.json"))) == 4


def test_memory_that_is_not_there_is_refused_in_a_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(batched._Costs, "free", 10_000)
        with pytest.raises(ConfigError, match=r"4 runs in one group.* 10.0 kB are free; set a"):
            planned("seed=range(0,4)")
    # What was refused is not kept.
    assert [len(group) for group in planned("seed=range(0,4)", group_size=2)] == [2, 2]


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("hydra.launcher.group_size=0", "hydra.launcher.group_size=0: must be greater than 0"),
        ("hydra.launcher.processes=some", "hydra.launcher.processes=some: must be "),
        ("+hydra.launcher.n_jobs=2", "hydra.launcher.n_jobs=2: no such key"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_a_line(command, quick, setting, complaint):
    outcome = command(*BATCHED, *quick, "seed=0,1", setting)
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert complaint in line


def test_a_damaged_record_of_the_groups_is_told(command, quick):
    Path("sweep").mkdir()
    (Path("sweep") / batched.GROUPS).write_text("[[1]]")
    outcome = command(*BATCHED, *quick, "seed=0,1")
    assert outcome.code == 2
    assert f"{batched.GROUPS}: damaged; remove it" in outcome.err


def test_a_search_trains_the_seeds_of_its_trials_together(command, quick):
    search = [
        "hydra/sweeper=optuna",
        "hydra/sweeper/space=none",
        "agent.lr=tag(log,interval(1e-4,1e-2))",
        "seed=0,1",
    ]
    trials = ["hydra.sweeper.n_trials=2", "hydra.sweeper.trials_at_a_time=2"]
    outcome = command(*BATCHED, *quick, *search, *trials, "hydra.launcher.processes=1")
    assert outcome.code == 0, outcome.err
    runs = [path.parent for path in Path("sweep").glob("*/result.json")]
    assert [trained_together(run) for run in runs] == [4] * 4
    assert "best of 2 trials" in outcome.out


def test_games_are_planned_by_how_their_frames_are_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pong = ["env=atari", "env.game=pong", "buffer.capacity=500", "seed=0,1"]
    assert [len(group) for group in planned(*pong, "agent.n_step=1,3")] == [2, 2]


def test_a_network_of_ones_own_is_trained_by_itself(tmp_path, monkeypatch):
    """It may hold what differs between runs, which a group would take from one of them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_network.py").write_text(OWN_NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    assert [len(group) for group in planned("network.name=own_network:Own", "seed=0,1")] == [1, 1]
