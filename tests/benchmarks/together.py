"""How fast many seeds of one setting are, trained together and otherwise, on all cores.

    python tests/benchmarks/together.py [--env CartPole-v1] [--seeds 16] [--steps 30000]

The work of each seed is that of speed.py. A table has env steps per second of all seeds
while they train, beside peers that run as one process on each core; a line below it the seconds of
the whole commands, from Enter to the prompt, with a warm cache.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from real_loop import WARMUP
from rich import box
from rich.console import Console
from rich.table import Table
from speed import (
    DQN,
    JAX_PEERS,
    ONE_THREAD,
    PEERS,
    TORCH_PEERS,
    WORK,
    command,
    environment,
    in_turn,
    machine,
    speed_of,
)

CORES = os.cpu_count() or 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--steps", type=int, default=30_000, help="env steps of each seed")
    parser.add_argument("--peer-steps", type=int, default=3_000, help="those of Stable-Baselines3")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-peers", action="store_true", help="time ours alone")
    options = parser.parse_args()
    env, seeds, steps = options.env, options.seeds, options.steps
    seconds: dict[str, list[float]] = {"batched": [], "joblib": []}

    def of_launcher(name: str) -> Callable[[], float]:
        return lambda: sweep(name, env, seeds, steps, seconds[name])

    for name in seconds:  # compiles, which is not timed
        sweep(name, env, seeds, WARMUP, [])
    contestants = {f"hydra/launcher={name}": of_launcher(name) for name in seconds}
    if not options.no_peers:
        python = environment("torch_peers", TORCH_PEERS)
        contestants["Stable-Baselines3 2.9.2"] = peers(python, "sb3", env, options.peer_steps)
        if env == "CartPole-v1":
            python = environment("jax_peers", JAX_PEERS)
            each = str(seeds // CORES)
            contestants["jitted JAX, vmapped"] = peers(python, "jax_loop", env, steps, each)
    rounds = in_turn(contestants, options.repeats)
    console = Console(width=100)
    console.print(f"{seeds} seeds of {env} on {machine()}\n")
    console.print(table(rounds))
    shown = [f"{statistics.median(times):.1f} s with {name}" for name, times in seconds.items()]
    pairs = zip(seconds["joblib"], seconds["batched"], strict=True)
    ratio = statistics.median(joblib / batched for joblib, batched in pairs)
    console.print(f"\nFrom Enter to the prompt: {', '.join(shown)}, {ratio:.2f} times as long.")


def sweep(launcher: str, env: str, seeds: int, steps: int, seconds: list[float]) -> float:
    """Env steps per second of all seeds while they train; adds the command's time to `seconds`."""
    settings = [*WORK, *DQN, f"env.id={env}", f"total_timesteps={steps}", "compile=always"]
    with tempfile.TemporaryDirectory() as folder:
        swept = [f"seed=range(0,{seeds})", f"hydra.sweep.dir={folder}/sweep"]
        started = time.perf_counter()
        command(["-m", f"hydra/launcher={launcher}", *settings, *swept])
        seconds.append(time.perf_counter() - started)
        runs = [path.parent for path in Path(folder, "sweep").glob("*/result.json")]
        return CORES * statistics.fmean(together(run) * speed_of(run) for run in runs)


def together(run: Path) -> int:
    """How many runs were trained together with this one, itself among them."""
    return int(json.loads((run / "result.json").read_text()).get("trained_together", 1))


def peers(python: Path, script: str, *arguments: object) -> Callable[[], float]:
    """A measurement of a peer's env steps per second, in one process on each core."""
    env, steps, *others = arguments
    line = [str(python), str(PEERS / f"{script}.py"), env, WARMUP, steps, *others]

    def measure() -> float:
        processes = [
            subprocess.Popen(
                list(map(str, line)), env=ONE_THREAD, stdout=subprocess.PIPE, text=True
            )
            for _ in range(CORES)
        ]
        outputs = [process.communicate()[0] for process in processes]
        if any(process.returncode for process in processes):
            sys.exit(f"{script} failed")
        return sum(float(output.split()[-1]) for output in outputs)

    return measure


def table(rounds: dict[str, list[float]]) -> Table:
    """What each contestant reached, and how ours stands to it."""
    heads = ("env steps/s of all (median)", "min", "max", "batched is faster by")
    shown = Table("", *heads, box=box.MARKDOWN)
    ours = rounds["hydra/launcher=batched"]
    for name, values in sorted(rounds.items(), key=lambda item: -statistics.median(item[1])):
        ratio = statistics.median(a / b for a, b in zip(ours, values, strict=True))
        cells = [statistics.median(values), min(values), max(values)]
        shown.add_row(name, *(f"{cell:,.0f}" for cell in cells), f"{ratio:.2f}")
    return shown


if __name__ == "__main__":
    main()
