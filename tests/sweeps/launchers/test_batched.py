"""hydra/launcher=batched as a command: groups of runs in several processes."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import psutil
import pytest
import torch
from resuming import assert_same_runs
from watching import wait_for

from dqn_runner.composing.command import Command
from dqn_runner.runs.directory import RunDirectory
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
    loaded: list[list[str | None]] = json.loads((sweep / batched.GROUPS).read_text())
    return loaded


def trained_together(run: Path) -> int:
    result = RunDirectory(run).read_result()
    assert result is not None
    return int(result.get("trained_together", 1))


def test_jobs_of_a_grid_are_trained_in_groups(command, quick):
    """Those that fit no group run by themselves, and all end as runs do."""
    swept = ["agent.lr=1e-3,3e-4", "seed=range(0,3)"]
    outcome = command(*BATCHED, *quick, *swept, "hydra.launcher.processes=1")
    assert outcome.code == 0, outcome.err
    assert "6 runs in one group, 1 at a time; they take up to " in outcome.out
    runs = sorted(Path("sweep").glob("*/result.json"))
    assert len(runs) == 6
    assert all(trained_together(path.parent) == 6 for path in runs)
    (group,) = groups(Path("sweep"))
    assert sorted(filter(None, group)) == [path.parent.name for path in runs]
    # More of the grid: what is there keeps its group.
    outcome = command(*BATCHED, *quick, "agent.lr=1e-3,3e-4", "seed=range(0,4)")
    assert outcome.code == 0, outcome.err
    assert groups(Path("sweep"))[0] == group
    assert len(list(Path("sweep").glob("*/result.json"))) == 8


def test_what_differs_in_shape_is_trained_apart(command, quick):
    swept = ["batch_size=8,16", "seed=range(0,2)", "hydra.launcher.processes=1"]
    outcome = command(*BATCHED, *quick, *swept)
    assert outcome.code == 0, outcome.err
    assert "4 runs in 2 groups of 2," in outcome.out
    for group in groups(Path("sweep")):
        assert len({str(name).split("seed")[0] for name in group}) == 1


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (["network.hidden_sizes=[512,512]"], "large products fill a core by themselves"),
        (["hydra.launcher.group_size=1"], "as asked"),
        (["hydra.launcher.processes=4"], "a core for each is better than a core for all"),
    ],
)
def test_jobs_that_gain_nothing_run_by_themselves(command, quick, settings, why):
    quick = [*quick, "total_timesteps=120", "batch_size=64", "hydra.launcher.processes=1"]
    outcome = command(*BATCHED, *quick, *settings, "seed=0,1")
    assert outcome.code == 0, outcome.err
    assert [len(group) for group in groups(Path("sweep"))] == [1, 1], why
    runs = [path.parent for path in Path("sweep").glob("*/result.json")]
    assert [trained_together(run) for run in runs] == [1, 1]


def started(sweep: Path, seeds: range) -> bool:
    return all((sweep / f"seed={seed}" / "checkpoints" / "last.pt").exists() for seed in seeds)


@pytest.mark.parametrize("way", ["Ctrl-C", "kill -9", "kill -9 of a worker"])
def test_an_interrupted_grid_ends_bit_for_bit_as_undisturbed(
    process, command, quick, tmp_path, way
):
    arguments = [
        *BATCHED,
        *quick,
        "seed=range(0,3)",
        "total_timesteps=3000",
        "checkpoint.interval=400",
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
        code = child.wait(timeout=60)
    assert code == {"Ctrl-C": 130, "kill -9": -9, "kill -9 of a worker": 1}[way]
    assert not any((sweep / f"seed={seed}" / "result.json").exists() for seed in seeds)
    if way == "Ctrl-C":
        checkpoints = [sweep / f"seed={seed}" / "checkpoints" / "last.pt" for seed in seeds]
        steps = [torch.load(path, weights_only=True)["env_steps"] for path in checkpoints]
        assert max(steps) - min(steps) <= 1
    outcome = command(*arguments, one, f"hydra.sweep.dir={sweep}")
    assert outcome.code == 0, outcome.err
    for seed in seeds:
        assert_same_runs(sweep / f"seed={seed}", Path("undisturbed") / f"seed={seed}")


def test_memory_that_is_not_there_is_refused_in_a_line(command, quick, monkeypatch):
    monkeypatch.setattr(batched._Costs, "free", 10_000)
    outcome = command(*BATCHED, *quick, "seed=range(0,4)", "hydra.launcher.processes=1")
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert "4 runs in one group" in line
    assert "10.0 kB are free; set a smaller buffer.capacity" in line
    monkeypatch.undo()  # nothing was decided by that
    outcome = command(*BATCHED, *quick, "seed=range(0,4)", "hydra.launcher.group_size=2")
    assert outcome.code == 0, outcome.err
    assert "4 runs in 2 groups of 2, 2 at a time" in outcome.out


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
    trials = ["hydra.sweeper.n_trials=4", "hydra.sweeper.trials_at_a_time=2"]
    outcome = command(*BATCHED, *quick, *search, *trials, "hydra.launcher.processes=1")
    assert outcome.code == 0, outcome.err
    runs = [path.parent for path in Path("sweep").glob("*/result.json")]
    assert [trained_together(run) for run in runs] == [4] * 8
    assert "best of 4 trials" in outcome.out


def planned(*settings: str) -> list[list[str | None]]:
    """The groups of these jobs, as the launcher plans them."""
    command = Command([*BATCHED, "compile=never", "device=cpu", *settings])
    context, config = command.context()
    command.directory.mkdir(exist_ok=True)
    launcher = batched.BatchedLauncher(
        {"group_size": 8, "processes": 1}, Shared(context, config, None, [])
    )
    launcher.plan({job.path: job.config for job in command.jobs})
    return groups(command.directory)


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
