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
from collections.abc import Callable, Iterator
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
    "network.hidden_sizes=[64,64]",
    "network.norm=none",
    "agent.lr_schedule=constant",
    "agent.clip_target=false",
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
    parser.add_argument("--default-steps", type=int, help="budget of the whole default command")
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
    report(options.env, rounds, options.steps)
    report_defaults(options.env, options.default_steps)


def report_defaults(env: str, steps: int | None) -> None:
    """Print what the whole command takes at its defaults, and where its time goes."""
    budget = [] if steps is None else [f"total_timesteps={steps}"]
    table = Table("dqn-train at its defaults, from Enter to the prompt", "s")
    with tempfile.TemporaryDirectory() as folder:
        caches = {"XDG_CACHE_HOME": folder, "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor"}
        for name in ("the first ever", "the second", "the third"):
            started = time.perf_counter()
            path = Path(folder, name)
            command([f"env.id={env}", *budget, f"hydra.run.dir='{path}'"], caches)
            table.add_row(name, f"{time.perf_counter() - started:.1f}")
        rows = [json.loads(line) for line in Path(path, "metrics.jsonl").read_text().splitlines()]
        wall = json.loads(Path(path, "result.json").read_text())["wall_time_seconds"]
    timed = [row for row in rows if "time/elapsed_seconds" in row]
    training = sum(
        (now["env_steps"] - before["env_steps"]) / now["time/env_steps_per_second"]
        for before, now in pairwise([{"env_steps": 0}, *timed])
    )
    elapsed = timed[-1]["time/elapsed_seconds"]
    table.add_row("  of the third: training, its checkpoints among it", f"{training:.1f}")
    table.add_row("  periodic evaluation", f"{elapsed - training:.2f}")
    table.add_row("  building, closing scores, curve, tracker", f"{wall - elapsed:.1f}")
    Console(width=100).print(table)


def command(arguments: list[str], variables: dict[str, str] | None = None) -> None:
    """Run dqn-train on one thread."""
    line = [sys.executable, "-c", "from dqn_runner.train import main; main()", *arguments]
    environ = ONE_THREAD | (variables or {})
    finished = subprocess.run(line, env=environ, capture_output=True, text=True, check=False)
    if finished.returncode:
        sys.exit(finished.stderr)


def ours(env: str, steps: int, *overrides: str) -> float:
    """Env steps per second of the command after its warm-up, from the rows it logged."""
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"env.id={env}", f"total_timesteps={WARMUP + steps}", "compile=always"]
        command([*WORK, *settings, *overrides, f"hydra.run.dir={folder}/run"])
        lines = Path(folder, "run", "metrics.jsonl").read_text().splitlines()
    timed = [row for row in map(json.loads, lines) if "time/elapsed_seconds" in row]
    rows = [row for row in timed if row["env_steps"] >= WARMUP]
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
    from dqn_runner.learning.compilation import cache_dir

    folder = cache_dir() / "benchmarks" / name
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        print(f"setting up {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True)
        (folder / "complete").touch()
    return python


def report(env: str, speeds_of: dict[str, list[float]], steps: int) -> None:
    """Print the tables."""
    console = Console(width=100)
    console.print(f"{env} on {processor()}, {os.cpu_count()} cores, one thread each\n")
    table = Table("", "env steps/s (median)", "min", "max", "ours is faster by")
    for name, speeds in sorted(speeds_of.items(), key=lambda item: -statistics.median(item[1])):
        pairs = zip(speeds_of["dqn_runner"], speeds, strict=True)
        ratio = statistics.median(ours / theirs for ours, theirs in pairs)
        median, least, most = statistics.median(speeds), min(speeds), max(speeds)
        table.add_row(name, f"{median:,.0f}", f"{least:,.0f}", f"{most:,.0f}", f"{ratio:.2f}")
    console.print(table)
    rounds = [breakdown(env, steps) for _ in speeds_of["dqn_runner"]]
    table = Table("one env step of ours", "µs (median)")
    for name in rounds[0]:
        table.add_row(name, f"{1e6 * statistics.median(step[name] for step in rounds):.1f}")
    ratios = [step["an env step"] / list(step.values())[-1] for step in rounds]
    table.add_row("an env step / floor", f"{statistics.median(ratios):.2f}")
    console.print(table)


def processor() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(": ")[1] for x in lines if x.startswith("model name")), "unknown")


def breakdown(env: str, steps: int) -> dict[str, float]:
    """Seconds for each part of an env step, timed within the real loop, and its floor beside it."""
    from dqn_runner.composing.command import Command
    from dqn_runner.config.build import build
    from dqn_runner.config.root import parse
    from dqn_runner.runs.directory import RunDirectory
    from dqn_runner.runs.lifecycle import flushed_denormals
    from dqn_runner.runs.metrics_file import MetricsFile
    from dqn_runner.tracking.tracker import SwanLabTracker
    from dqn_runner.training.loop import Training
    from dqn_runner.types import Progress

    with tempfile.TemporaryDirectory() as folder, flushed_denormals():
        budget = f"total_timesteps={WARMUP + steps}"
        arguments = [*WORK, f"env.id={env}", budget, "compile=always", f"hydra.run.dir={folder}"]
        config, parts = build(parse(Command(arguments).jobs[0].config), RunDirectory(Path(folder)))
        tracker = SwanLabTracker(config.tracker, Path(folder), {})
        metrics_file = MetricsFile(Path(folder, "metrics.jsonl"))
        spent: dict[str, float] = {}
        for name, owner, method in (
            ("act", parts.agent, "act"),
            ("env", parts.envs, "step"),
            ("store", parts.assembler, "transitions"),
            ("store", parts.storage, "add"),
            ("sample", parts.sampler, "draw"),
            ("update", parts.agent, "learn"),
            ("log", metrics_file, "log"),
            ("log", tracker, "log"),
            ("checkpoint", parts.checkpoints, "save_last"),
        ):
            setattr(owner, method, clocked(getattr(owner, method), name, spent))
        progress = Progress()
        warmup = config.model_copy(update={"total_timesteps": WARMUP})
        Training(warmup, parts, progress, [metrics_file, tracker]).run()
        spent.clear()
        started = time.perf_counter()
        Training(config, parts, progress, [metrics_file, tracker]).run()
        total = (time.perf_counter() - started) / steps
        tracker.close("success")
    step = {name: seconds / steps for name, seconds in spent.items()}
    width = parts.storage.tensors[0].shape[1]
    floor = floor_of(env, steps, width)
    return {
        **step,
        "the loop itself": total - sum(step.values()),
        "an env step": total,
        "floor: the update's products, env.step, drawing indices": floor,
    }


def clocked(
    function: Callable[..., object], name: str, spent: dict[str, float]
) -> Callable[..., object]:
    """`function`, adding its seconds to `spent[name]`; a generator is run to its end."""

    def call(*arguments: object) -> object:
        started = time.perf_counter()
        result = function(*arguments)
        if isinstance(result, Iterator):
            result = list(result)
        spent[name] = spent.get(name, 0.0) + time.perf_counter() - started
        return result

    return call


def floor_of(env_id: str, steps: int, width: int) -> float:
    """Seconds of what any such loop must do for an env step, in NumPy and plain Gymnasium."""
    import gymnasium as gym

    rng = np.random.default_rng(0)
    env = gym.make(env_id, disable_env_checker=True)
    env.reset(seed=0)
    sizes = (width, 64, 64, int(env.action_space.n))  # type: ignore[attr-defined]
    weights = [rng.standard_normal((m, n), np.float32) for m, n in pairwise(sizes)]
    batch = rng.standard_normal((64, width), np.float32)
    started = time.perf_counter()
    for _ in range(steps):
        for _ in range(2):  # both networks forward
            x = [batch]
            for weight in weights:
                x.append(x[-1] @ weight)
        grad = x[-1]
        for inputs, weight in zip(x[-2::-1], weights[::-1], strict=True):
            inputs.T @ grad
            grad = grad @ weight.T
        _, _, terminated, truncated, _ = env.step(0)
        if terminated or truncated:
            env.reset()
        rng.integers(10_000, size=64)
    return (time.perf_counter() - started) / steps


if __name__ == "__main__":
    main()
