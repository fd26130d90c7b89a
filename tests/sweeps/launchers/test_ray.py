"""hydra/launcher=ray: on a Ray of its own, and on a cluster of two nodes on this machine."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import torch
import watching
from watching import first_row, free_port, rows_without_clock

ray = pytest.importorskip("ray", reason="needs dqn_runner[ray]")

# Where a job runs, and in which process; slow, so that there is time to see it.
OBSERVED_ENV = """
import os
import time
from pathlib import Path

import gymnasium as gym
import ray
from gymnasium.envs.classic_control import CartPoleEnv


class Observed(CartPoleEnv):
    def __init__(self, seconds=0.0, **kwargs):
        super().__init__(**kwargs)
        self.seconds = seconds
        if ray.is_initialized():  # and not where settings are checked
            node = ray.get_runtime_context().get_node_id()
            with Path("seen.txt").open("a") as file:
                file.write(f"{node} {os.getpid()}\\n")

    def step(self, action):
        time.sleep(self.seconds)
        if Path("deadly.txt").exists():
            os.kill(os.getpid(), 9)
        return super().step(action)


gym.register("Observed-v0", Observed, max_episode_steps=500)
"""
wait_for = functools.partial(watching.wait_for, seconds=90)
LONG = ("total_timesteps=100_000_000", "checkpoint.interval=null")


class Cluster(NamedTuple):
    """Two nodes with one CPU each."""

    address: str
    client_address: str
    second: psutil.Popen


def _ray(*arguments: str) -> psutil.Popen:
    common = ["--block", "--num-cpus=1", "--min-worker-port=0", "--max-worker-port=0"]
    return psutil.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", *arguments, *common],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def _end(process: psutil.Popen) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in [*process.children(recursive=True), process]:
            child.kill()
    process.wait(20)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A running Ray that dqn-train has no part in."""
    environment = {
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "GRPC_ENABLE_FORK_SUPPORT": "0",  # with it 1 of 25 processes that a head forks crashes
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    host, port, client_port = ray.util.get_node_ip_address(), free_port(), free_port()
    address = f"{host}:{port}"
    first = _ray(
        "--head", f"--port={port}", f"--ray-client-server-port={client_port}",
        "--include-dashboard=false",
    )  # fmt: skip
    second = None
    try:
        wait_for(lambda: _nodes(address) == 1)
        second = _ray(f"--address={address}")
        wait_for(lambda: _nodes(address) == 2)
        yield Cluster(address, f"ray://{host}:{client_port}", second)
    finally:
        for process in (second, first):
            if process is not None:
                _end(process)


def _nodes(address: str) -> int:
    """How many nodes the cluster has."""
    code = "import sys, ray; ray.init(sys.argv[1]); print(sum(n['Alive'] for n in ray.nodes()))"
    host, _, port = address.partition(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
    except OSError:
        return 0
    command = [sys.executable, "-c", code, address]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(answer.stdout or 0)


@pytest.fixture
def observed(tmp_path: Path, quick: tuple[str, ...]) -> tuple[str, ...]:
    """Overrides for an environment of the user's own, which writes down where it is."""
    (tmp_path / "observed_env.py").write_text(OBSERVED_ENV)
    return ("-m", "hydra/launcher=ray", *quick, "env.id=observed_env:Observed-v0")


def _seen(folder: Path) -> list[list[str]]:
    path = folder / "seen.txt"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.slow
@pytest.mark.parametrize("field", ["address", "client_address"])
def test_jobs_run_on_all_nodes_into_the_same_folders(cluster, process, observed, tmp_path, field):
    at = f"hydra.launcher.address={getattr(cluster, field)}"
    arguments = [*observed, at, "+env.kwargs.seconds=0.02", "seed=0,1", "hydra.sweep.dir=sweep"]
    with process(*arguments) as child:
        out, err = child.communicate(timeout=200)
    assert (child.returncode, err) == (0, "")
    nodes = Counter(node for node, _ in _seen(tmp_path))
    assert len(nodes) == 2
    for seed in range(2):
        folder = tmp_path / "sweep" / f"seed={seed}"
        assert json.loads((folder / "result.json").read_text())["env_steps"] == 300
        assert f"seed={seed} " in out
    # What has finished is not run again.
    with process(*arguments) as child:
        child.communicate(timeout=100)
    assert child.returncode == 0
    assert Counter(node for node, _ in _seen(tmp_path)) == nodes


@pytest.mark.slow
def test_a_lost_worker_or_node_costs_no_result(cluster, process, observed, tmp_path):
    """A worker told to go, one killed, a node gone: the runs are what they would have been."""
    arguments = [*observed, "total_timesteps=800", "checkpoint.interval=50", "eval.interval=null"]
    at = f"hydra.launcher.address={cluster.address}"
    slowly = [*arguments, at, "+env.kwargs.seconds=0.02", "seed=3,4", "hydra.sweep.dir=sweep"]
    with process(*slowly) as child:
        runs = [tmp_path / "sweep" / f"seed={seed}" for seed in (3, 4)]
        wait_for(lambda: all((r / "checkpoints" / "last.pt").exists() for r in runs), child)
        wait_for(lambda: all(map(first_row, runs)), child)
        first_rows = list(map(first_row, runs))
        victim, started = int(_seen(tmp_path)[0][1]), len(_seen(tmp_path))
        os.kill(victim, signal.SIGTERM)  # it saves, and may be the one to go on
        wait_for(lambda: len(_seen(tmp_path)) > started, child)
        for pid in {pid for _, pid in _seen(tmp_path)[started:]}:
            os.kill(int(pid), signal.SIGKILL)
        started = len(_seen(tmp_path))
        wait_for(lambda: len(_seen(tmp_path)) > started, child)
        _end(cluster.second)
        _, err = child.communicate(timeout=200)
    assert (child.returncode, err) == (0, "")
    assert len({pid for _, pid in _seen(tmp_path)}) >= 3
    # They have gone on and not begun again: the times in them are still the same.
    assert list(map(first_row, runs)) == first_rows
    here = ["hydra/launcher=basic", "+env.kwargs.seconds=0", "seed=3,4", "hydra.sweep.dir=here"]
    with process(*arguments, *here) as child:
        child.communicate(timeout=200)
    for run in runs:
        undisturbed = tmp_path / "here" / run.name
        assert rows_without_clock(run) == rows_without_clock(undisturbed)
        assert _final(run) == _final(undisturbed)


def _final(run: Path) -> object:
    return json.loads((run / "result.json").read_text())["final"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_runs_save_and_cancels_the_rest(cluster, process, observed, tmp_path, number):
    arguments = [*observed, *LONG, "seed=range(0,5)", "hydra.sweep.dir=sweep"]
    with process(*arguments, f"hydra.launcher.address={cluster.address}") as child:
        wait_for(lambda: len(list(tmp_path.glob("sweep/*/metrics.jsonl"))) == 2, child)
        runs = [path.parent for path in tmp_path.glob("sweep/*/metrics.jsonl")]
        wait_for(lambda: all(map(first_row, runs)), child)
        child.send_signal(number)
        out, err = child.communicate(timeout=100)
    assert (child.returncode, err) == (128 + number, "")
    assert out.count("not finished") == 2
    for run in runs:  # the only checkpoint there is
        state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
        assert state["env_steps"] >= rows_without_clock(run)[-1]["env_steps"] > 0
    assert list(tmp_path.glob("sweep/*/ended.json")) == []


@pytest.mark.slow
def test_a_ray_of_its_own_is_gone_afterwards(process, observed, tmp_path):
    """A job whose process is killed each time is named, and the others run."""
    (tmp_path / "deadly.txt").touch()
    arguments = [*observed, "hydra.launcher.retries=1", "hydra.sweep.dir=sweep"]
    with process(*arguments, "seed=range(0,1)") as child:
        _, err = child.communicate(timeout=200)
    assert child.returncode == 1
    assert err == (
        "dqn-train: error: sweep/seed=0: its process was killed; was there enough memory?\n"
    )
    assert len({pid for _, pid in _seen(tmp_path)}) == 2
    (tmp_path / "deadly.txt").unlink()
    with process(*arguments, "seed=0,1") as child:
        wait_for(lambda: len({pid for _, pid in _seen(tmp_path)}) > 2, child)
        started = psutil.Process(child.pid).children(recursive=True)
        _, err = child.communicate(timeout=200)
    assert (child.returncode, err) == (0, "")
    assert len(list(tmp_path.glob("sweep/*/result.json"))) == 2
    assert len(started) > 2  # raylet, gcs_server, workers
    _, alive = psutil.wait_procs(started, timeout=20)
    assert alive == []


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("address=127.0.0.1:1", "address=127.0.0.1:1: no Ray answers there in 5 s"),
        ("address=ray://127.0.0.1:1", "address=ray://127.0.0.1:1: no Ray answers there in 5 s"),
        ("address=nonsense", "address=nonsense: Invalid address format: nonsense"),
        ("gpus=1.5", "gpus=1.5: must be at most 1 or a whole number"),
        ("cpus=0", "cpus=0: must be greater than 0"),
        ("gpus=-1", "gpus=-1: must be greater than or equal to 0"),
        ("options.nosuch=1", "options: Invalid option keyword nosuch"),
    ],
)
def test_bad_settings_are_told_before_anything_is_made(command, quick, monkeypatch, setting, line):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    outcome = command("-m", "hydra/launcher=ray", *quick, f"++hydra.launcher.{setting}", "seed=0,1")
    assert outcome.code == 2
    assert outcome.err.startswith(f"dqn-train: error: hydra.launcher.{line}")
    assert "RAY_AUTH_MODE" not in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("crashes", [1, 2])
def test_a_connection_whose_process_crashes_at_the_head_is_tried_once_more(
    command, quick, monkeypatch, crashes
):
    tries = []

    def init(address: str, **_: bool) -> None:
        tries.append(address)
        if len(tries) <= crashes:
            raise ConnectionAbortedError("Starting Ray client server failed.")
        raise ValueError("the next step")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr("dqn_runner.sweeps.launchers.ray._check_reachable", lambda _: None)
    address = "ray://127.0.0.1:1"
    at = f"hydra.launcher.address={address}"
    outcome = command("-m", "hydra/launcher=ray", *quick, at, "seed=0,1")
    assert tries == [address, address]
    told = "the next step" if crashes == 1 else "Starting Ray client server failed."
    assert told in outcome.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "asked"),
    [("gpus=99", "CPU=1 GPU=99"), ("memory_gb=99999", "CPU=1 memory=1.07373e+14")],
)
def test_a_job_that_no_node_has_room_for_is_told(process, quick, tmp_path, setting, asked):
    arguments = ["-m", "hydra/launcher=ray", *quick, f"hydra.launcher.{setting}", "seed=0,1"]
    with process(*arguments) as child:
        _, err = child.communicate(timeout=100)
    assert child.returncode == 2
    assert err == (f"dqn-train: error: hydra.launcher: a job asks for {asked}, which no node has\n")
    assert list(tmp_path.iterdir()) == []
