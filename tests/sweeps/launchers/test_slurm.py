"""hydra/launcher=slurm against a Slurm of its own, with one node, on the loopback address."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from watching import first_row, free_port, rows_without_clock, wait_for

pytest.importorskip("submitit", reason="needs dqn_runner[slurm]")

DAEMONS = ("munged", "slurmctld", "slurmd")
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=2
ReturnToService=2
KillWait=20
MpiDefault=none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=2000 State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=debug Nodes={host} Default=YES State=UP PriorityTier=1 GraceTime=20
PartitionName=graceless Nodes={host} State=UP PriorityTier=1
PartitionName=urgent Nodes={host} State=UP PriorityTier=2
"""
SLOW_ENV = """
import time

import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv


class Slow(CartPoleEnv):
    def __init__(self, seconds=0.0, **kwargs):
        super().__init__(**kwargs)
        self.seconds = seconds

    def step(self, action):
        time.sleep(self.seconds)
        return super().step(action)


gym.register("Slow-v0", Slow, max_episode_steps=500)
"""


def _path() -> str:
    return os.environ["PATH"] + ":/usr/sbin:/sbin"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Slurm that accepts jobs, named by SLURM_CONF."""
    missing = [name for name in DAEMONS if shutil.which(name, path=_path()) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("a Slurm of its own must be started by root")
    folder = tmp_path_factory.mktemp("slurm")
    folder.chmod(0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    ports = (free_port(), free_port())
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(host=socket.gethostname(), folder=folder, ports=ports))
    munge = [f"--{name}={folder}/munge.{name.split('-')[0]}" for name in ("key-file", "pid-file")]
    munge += [f"--socket={folder}/munge.sock", f"--log-file={folder}/munge.log"]
    munge += [f"--seed-file={folder}/munge.seed", "--force", "--foreground"]
    conf = ["-D", "-f", str(config)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", _path())
        patch.setenv("SLURM_CONF", str(config))
        daemons = []
        try:
            for command in (["munged", *munge], ["slurmctld", *conf], ["slurmd", *conf]):
                daemons.append(_start(command))
                time.sleep(1)
            _wait_for_a_node(daemons)
            yield
        finally:
            subprocess.run(["scancel", "--full", "--signal=KILL", "--state=RUNNING"], check=False)
            for daemon in reversed(daemons):
                daemon.terminate()
                daemon.wait(20)


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    nothing = subprocess.DEVNULL
    return subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing)


def _wait_for_a_node(daemons: list[subprocess.Popen[bytes]]) -> None:
    for _ in range(60):
        if any(daemon.poll() is not None for daemon in daemons):
            pytest.fail("a daemon of Slurm has ended")
        command = ["sinfo", "--noheader", "--format=%t"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.stdout.strip() == "idle":
            return
        time.sleep(0.5)
    pytest.fail("Slurm has no node")


@pytest.mark.slow
def test_jobs_run_on_the_cluster_into_the_same_folders(slurm, process, quick, tmp_path):
    arguments = ["-m", "hydra/launcher=slurm", *quick, "seed=range(0,3)", "hydra.sweep.dir=sweep"]
    with process(*arguments) as child:
        out, err = child.communicate(timeout=200)
    assert child.returncode == 0, err
    for seed in range(3):
        folder = tmp_path / "sweep" / f"seed={seed}"
        assert json.loads((folder / "result.json").read_text())["env_steps"] == 300
        assert f"seed={seed} " in out
    # What has finished is not submitted again.
    with process(*arguments) as child:
        child.communicate(timeout=100)
    assert child.returncode == 0
    assert len(list((tmp_path / "sweep" / ".submitit").glob("*_0"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("why", ["preempted", "at once", "out of time"])
def test_a_job_that_must_go_is_queued_again_and_goes_on(slurm, process, quick, tmp_path, why):
    """It saves its only checkpoint, goes on, and is the run that it would have been."""
    # Slurm promises to warn 30 to 90 s after the start; this takes 100 s and more.
    steps, pause = (5000, 0.02) if why == "out of time" else (3000, 0.003)
    seeds = range(1, 2 if why == "out of time" else 3)
    runs = [tmp_path / "sweep" / f"seed={seed}" for seed in seeds]
    arguments = ["-m", *quick, f"total_timesteps={steps}", "checkpoint.interval=null"]
    arguments += ["eval.interval=null", f"seed={seeds}", "env.id=slow_env:Slow-v0"]
    limits = {
        "at once": ["hydra.launcher.partition=graceless"],
        "out of time": ["hydra.launcher.time=2", "hydra.launcher.warning=30"],
    }.get(why, [])
    (tmp_path / "slow_env.py").write_text(SLOW_ENV)
    there = ["hydra/launcher=slurm", *limits, f"+env.kwargs.seconds={pause}"]
    there += ["hydra.sweep.dir=sweep"]
    with process(*arguments, *there) as child:
        wait_for(lambda: all(map(first_row, runs)), child)
        first_rows, job = list(map(first_row, runs)), _squeue("%F")[0]
        if why != "out of time":
            urgent = ["sbatch", "--partition=urgent", "--ntasks=2", "--wrap=sleep 1"]
            subprocess.run(urgent, check=True, cwd=tmp_path)
        wait_for(lambda: _restarts(job) >= 1, child, 150)
        _, err = child.communicate(timeout=200)
    assert (child.returncode, err) == (0, "")
    assert list(map(first_row, runs)) == first_rows
    with process(*arguments, "+env.kwargs.seconds=0", "hydra.sweep.dir=here") as child:
        child.communicate(timeout=200)
    for run in runs:
        assert rows_without_clock(run) == rows_without_clock(tmp_path / "here" / run.name)


@pytest.mark.slow
def test_to_stop_cancels_what_is_left(slurm, process, quick, tmp_path):
    run = tmp_path / "sweep" / "seed=1"
    arguments = ["-m", "hydra/launcher=slurm", *quick, "total_timesteps=100_000_000"]
    arguments += ["checkpoint.interval=null"]
    with process(*arguments, "seed=range(1,2)", "hydra.sweep.dir=sweep") as child:
        wait_for((run / "metrics.jsonl").exists, child)
        child.terminate()
        child.communicate(timeout=100)
    assert child.returncode == 143
    assert _squeue("%T") == []
    assert (run / "checkpoints" / "last.pt").exists()
    assert not (run / "result.json").exists()


@pytest.mark.slow
def test_a_job_that_is_killed_is_named(slurm, process, quick, tmp_path):
    run = tmp_path / "sweep" / "seed=1"
    arguments = ["-m", "hydra/launcher=slurm", *quick, "total_timesteps=100_000_000"]
    with process(*arguments, "seed=range(1,2)", "hydra.sweep.dir=sweep") as child:
        wait_for((run / "metrics.jsonl").exists, child)
        subprocess.run(["scancel", "--signal=KILL", _squeue("%A")[0]], check=True)
        out, err = child.communicate(timeout=100)
    assert child.returncode == 1
    assert "dqn-train: error: " in err
    assert "its Slurm job " in err
    assert "failed" in out


@pytest.mark.slow
def test_what_slurm_refuses_is_told_in_a_line(slurm, process, quick, tmp_path):
    arguments = ["-m", "hydra/launcher=slurm", *quick, "hydra.launcher.partition=nosuch"]
    with process(*arguments, "seed=0,1", "hydra.sweep.dir=sweep") as child:
        out, err = child.communicate(timeout=100)
    assert (child.returncode, out) == (2, "")
    assert err.startswith("dqn-train: error: hydra/launcher=slurm: ")
    assert "partition" in err
    assert len(err.splitlines()) == 1


def test_a_warning_that_may_come_at_once_is_refused(command, quick):
    limits = ("hydra.launcher.time=2", "hydra.launcher.warning=31")
    outcome = command("-m", "hydra/launcher=slurm", *quick, *limits, "seed=0,1")
    assert outcome.code == 2
    assert outcome.err == (
        "dqn-train: error: hydra.launcher.time=2: must be at least 3 with "
        "hydra.launcher.warning=31, for Slurm may warn 60 s early\n"
    )
    assert list(Path.cwd().iterdir()) == []


def test_no_sbatch_is_told_before_anything_is_made(command, quick, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = command("-m", "hydra/launcher=slurm", *quick, "seed=0,1")
    assert outcome.code == 2
    assert outcome.err == (
        "dqn-train: error: hydra/launcher=slurm: there is no sbatch on this machine\n"
    )
    assert list(Path.cwd().iterdir()) == []


def _squeue(what: str) -> list[str]:
    command = ["squeue", "--noheader", "--array", f"--format={what}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def _restarts(job: str) -> int:
    command = ["scontrol", "show", "job", job]
    shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return min((int(number) for number in re.findall(r"Restarts=(\d+)", shown)), default=0)
