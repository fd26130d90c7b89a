"""How fast we are, beside peers doing the same work on one thread.

    python tests/benchmarks/speed.py [--env CartPole-v1] [--steps 20000] [--repeats 5]

The work: MLP 64-64, batch 64, Adam, Huber, norm clip 10, replay of 10,000, one update per env
step, ε 0.05. The first run sets up a virtual environment for the peers from PyPI. All take turns,
round after round, so that a machine whose speed drifts drifts for all of them; the table shows
the median of the rounds and the median of the ratios within each round. Ours is the command
itself, with its tracker, read off the metrics.jsonl it wrote.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

PEERS = Path(__file__).parent / "peers"
TORCH_PEERS = ["torch==2.13.0", "stable-baselines3==2.9.2", "tianshou==2.0.1", "gymnasium[box2d]"]
JAX_PEERS = ["jax==0.10.2", "jaxlib==0.10.2"]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
WARMUP = 1500

WORK = [
    "batch_size=64",
    "agent.n_step=1",
    "agent.double=false",
    "buffer.capacity=10000",
    "learning_starts=100",
    "epsilon=fixed",
    "epsilon.value=0.05",
    "target_update=hard",
    "target_update.interval=500",
    "eval.interval=null",
    "eval.final_episodes=1",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--steps", type=int, default=20_000, help="timed env steps of ours and JAX")
    parser.add_argument("--peer-steps", type=int, default=3_000, help="timed env steps of others")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-peers", action="store_true", help="time ours alone")
    options = parser.parse_args()

    contestants: dict[str, Callable[[], float]] = {
        "dqn_runner": lambda: ours(options.env, options.steps),
        "dqn_runner, num_envs=8": lambda: ours(options.env, options.steps, "num_envs=8"),
        "dqn_runner, compile=never": lambda: ours(options.env, options.peer_steps, "compile=never"),
    }
    if not options.no_peers:
        torch_python = environment("torch_peers", TORCH_PEERS)
        for name, script in (
            ("Stable-Baselines3 2.9.2", "sb3"),
            ("eager loop of the tutorials", "eager"),
            ("Tianshou 2.0.1", "tianshou_dqn"),
        ):
            contestants[name] = peer(torch_python, script, options.env, options.peer_steps)
        if options.env == "CartPole-v1":
            jax_python = environment("jax_peers", JAX_PEERS)
            contestants["one jitted JAX loop"] = peer(
                jax_python, "jax_loop", options.env, options.steps
            )

    rounds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in track(range(options.repeats), "rounds", console=Console(stderr=True)):
        for name, measure in contestants.items():
            rounds[name].append(measure())
    report(options.env, rounds)


def ours(env: str, steps: int, *overrides: str) -> float:
    """Env steps per second of the command after its warm-up, from the rows it logged."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", "from dqn_runner.train import main; main()"]
        settings = [f"env.id={env}", f"total_timesteps={WARMUP + steps}", "compile=always"]
        where = f"hydra.run.dir={folder}/run"
        finished = subprocess.run(
            [*command, *WORK, *settings, *overrides, where],
            env=ONE_THREAD,
            capture_output=True,
            text=True,
            check=False,
        )
        if finished.returncode:
            sys.exit(finished.stderr)
        lines = Path(folder, "run", "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["env_steps"] >= WARMUP]
    seconds = rows[-1]["time/elapsed_seconds"] - rows[0]["time/elapsed_seconds"]
    return float(rows[-1]["env_steps"] - rows[0]["env_steps"]) / seconds


def peer(python: Path, script: str, env: str, steps: int) -> Callable[[], float]:
    """A measurement of a peer's env steps per second."""

    def measure() -> float:
        command = [str(python), str(PEERS / f"{script}.py"), env, str(WARMUP), str(steps)]
        finished = subprocess.run(
            command, env=ONE_THREAD, capture_output=True, text=True, check=False
        )
        if finished.returncode:
            sys.exit(finished.stderr)
        return float(finished.stdout.split()[-1])

    return measure


def environment(name: str, packages: list[str]) -> Path:
    """The Python of a virtual environment with `packages`, made at first use."""
    from dqn_runner.compilation import cache_dir

    folder = cache_dir() / "benchmarks" / name
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        print(f"setting up {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True)
        (folder / "complete").touch()
    return python


def report(env: str, rounds: dict[str, list[float]]) -> None:
    """Print the tables."""
    console = Console(width=100)
    console.print(f"{env} on {processor()}, {os.cpu_count()} cores, one thread each\n")
    table = Table("", "env steps/s (median)", "min", "max", "ours is faster by")
    for name, speeds in sorted(rounds.items(), key=lambda item: -statistics.median(item[1])):
        pairs = zip(rounds["dqn_runner"], speeds, strict=True)
        ratio = statistics.median(ours / theirs for ours, theirs in pairs)
        median, least, most = statistics.median(speeds), min(speeds), max(speeds)
        table.add_row(name, f"{median:,.0f}", f"{least:,.0f}", f"{most:,.0f}", f"{ratio:.2f}")
    console.print(table)
    step = breakdown(env)
    table = Table("one env step of ours", "µs")
    for name, seconds in step.items():
        table.add_row(name, f"{1e6 * seconds:.1f}")
    console.print(table)


def processor() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(": ")[1] for x in lines if x.startswith("model name")), "unknown")


def breakdown(env: str) -> dict[str, float]:
    """Seconds for each part of a step, and for the floor under them, each timed alone."""
    import torch

    from dqn_runner.build import build
    from dqn_runner.composition import Command
    from dqn_runner.config import parse
    from dqn_runner.run_directory import RunDirectory
    from dqn_runner.tracking import MetricsFile, SwanLabTracker

    with tempfile.TemporaryDirectory() as folder:
        arguments = [*WORK, f"env.id={env}", "compile=always", f"hydra.run.dir={folder}"]
        config, parts = build(parse(Command(arguments).jobs[0].config), RunDirectory(Path(folder)))
        agent, envs, buffer = parts.agent, parts.envs, parts.buffer

        def interact() -> None:
            for transition in parts.assembler.transitions(envs.step(agent.act(envs.obs, 0.05))):
                buffer.add(transition)

        for _ in range(2000):
            interact()
        indices = buffer.sample(64, parts.replay_rng)
        action = agent.act(envs.obs, 0.05)
        row = {"env_steps": 500, "episodes": 1, **{f"train/{i}": 1.0 for i in range(10)}}
        metrics_file = MetricsFile(Path(folder, "metrics.jsonl"))
        tracker = SwanLabTracker(config.tracker, Path(folder), {})

        def log() -> None:
            metrics_file.log(row)
            tracker.log(row)

        step = envs.step(action)
        parts_of_step = {
            "act": timed(lambda: agent.act(envs.obs, 0.05)),
            "env": timed(lambda: envs.step(action)),
            "store": timed(lambda: [buffer.add(t) for t in parts.assembler.transitions(step)]),
            "sample": timed(lambda: buffer.sample(64, parts.replay_rng)),
            "update": timed(lambda: agent.learn(buffer.storage, indices)),
            f"log (a row every {config.log.interval})": timed(log, 200) / config.log.interval,
        }
        tracker.close("success")
        floor = floor_of(env, parts.replay_rng, buffer.storage.obs.shape[1], agent)
    torch.set_num_threads(1)
    total = sum(parts_of_step.values())
    return {**parts_of_step, "sum": total, **floor, "sum / floor": total / floor["floor"] / 1e6}


def floor_of(env_id: str, rng: np.random.Generator, width: int, agent: object) -> dict[str, float]:
    """What any such loop must do: the update's products, the environment's step, the indices."""
    import gymnasium as gym

    env = gym.make(env_id, disable_env_checker=True)
    env.reset(seed=0)
    num_actions = env.action_space.n  # type: ignore[attr-defined]
    sizes = (width, 64, 64, int(num_actions))
    weights = [rng.standard_normal((m, n), np.float32) for m, n in pairwise(sizes)]
    batch = rng.standard_normal((64, width), np.float32)

    def products() -> None:
        for _ in range(2):  # both networks forward
            x = [batch]
            for weight in weights:
                x.append(x[-1] @ weight)
        grad = x[-1]
        for inputs, weight in zip(x[-2::-1], weights[::-1], strict=True):
            inputs.T @ grad
            grad = grad @ weight.T

    def env_step() -> None:
        _, _, terminated, truncated, _ = env.step(0)
        if terminated or truncated:
            env.reset()

    parts = {
        "floor: matrix products of the update": timed(products),
        "floor: env.step": timed(env_step),
        "floor: drawing 64 indices": timed(lambda: rng.integers(10_000, size=64)),
    }
    return {**parts, "floor": sum(parts.values())}


def timed(function: Callable[[], object], calls: int = 3000) -> float:
    """Seconds of one call: the best of five means, the one least disturbed."""
    for _ in range(calls // 10):
        function()
    means = []
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(calls):
            function()
        means.append((time.perf_counter() - started) / calls)
    return min(means)


if __name__ == "__main__":
    main()
