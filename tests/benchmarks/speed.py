"""How fast we are, beside peers doing the same work on one thread.

    python tests/benchmarks/speed.py [--env CartPole-v1] [--steps 20000] [--repeats 5]
    python tests/benchmarks/speed.py --agent all
    python tests/benchmarks/speed.py --env minatar/breakout
    python tests/benchmarks/speed.py --env atari/pong

The work: MLP 64-64, batch 64, Adam, Huber, norm clip 10, replay of 10,000, one update per env
step, ε 0.05. The first run sets up virtual environments for the peers from PyPI. All take turns,
round after round, so that a machine whose speed drifts drifts for all of them; the tables show
the median of the rounds and the median of the ratios within each round. Ours is the command
itself, with its tracker, read off the metrics.jsonl it wrote.

With --agent: what each agent costs beside plain DQN, on the same work. Their loops take turns in
one process, by slices of --slice env steps. Rainbow is timed beside a plain torch Rainbow, too.

Games of pixels: Young and Tian's network for MinAtar with an update every env step, Mnih et al.'s
for Atari with an update every fourth; batch 32. The convolutions alone are timed beside them.
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
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

from real_loop import WARMUP, floor_of, timed_loop
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

PEERS = Path(__file__).parent / "peers"
TORCH_PEERS = ["torch==2.13.0", "stable-baselines3==2.9.2", "tianshou==2.0.1", "gymnasium[box2d]"]
JAX_PEERS = ["jax==0.10.2", "jaxlib==0.10.2"]
PIXEL_PEERS = [
    *("torch==2.13.0", "stable-baselines3==2.9.2", "gymnasium", "minatar==1.0.15"),
    *("ale-py==0.12.1", "opencv-python-headless"),
]
SBX = [*JAX_PEERS, "sbx-rl==0.28.0", "stable-baselines3==2.9.2", "torch==2.13.0"]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

WORK = [
    "batch_size=64",
    "network.hidden_sizes=[64,64]",
    "network.norm=none",
    "agent.lr_schedule=constant",
    "buffer.capacity=10000",
    "learning_starts=100",
    "epsilon=fixed",
    "target_update=hard",
    "target_update.interval=500",
    "eval.interval=null",
    "eval.final_episodes=1",
]
ONE_STEP = ["agent.n_step=1", "agent.double=false", "epsilon.value=0.05"]
DQN = ["agent=dqn", "agent.clip_target=false", *ONE_STEP]
RAINBOW = [
    *("agent=c51", "agent.num_atoms=51", "agent.n_step=3", "agent.double=true"),
    *("network.dueling=true", "network.noisy=0.5", "buffer=prioritized", "epsilon.value=0"),
]
# By the value of --agent: the rows of its table, and the settings of each beside WORK.
FAMILY = {
    "dqn": {"dqn, prioritized": [*DQN, "buffer=prioritized"]},
    "c51": {"c51, 51 atoms": ["agent=c51", "agent.num_atoms=51", *ONE_STEP]},
    "qr_dqn": {"qr_dqn, 51 quantiles": ["agent=qr_dqn", "agent.num_quantiles=51", *ONE_STEP]},
    "hl_gauss": {"hl_gauss, 51 bins": ["agent=hl_gauss", "agent.num_bins=51", *ONE_STEP]},
    "iqn": {
        f"iqn, {n} τ": ["agent=iqn", f"agent.num_tau={n}", f"agent.num_tau_next={n}", *ONE_STEP]
        for n in (8, 64)
    },
    "rainbow": {"rainbow": RAINBOW},
}
PIXELS = [
    *("agent=dqn", "agent.clip_target=false", "agent.lr=2.5e-4", "agent.lr_schedule=constant"),
    *("agent.n_step=1", "agent.double=false", "epsilon=fixed", "epsilon.value=0.05"),
    *("batch_size=32", "buffer.capacity=20000", "learning_starts=500"),
    *("target_update=hard", "target_update.interval=1000", "target_update.unit=env_step"),
    *("eval.interval=null", "eval.final_episodes=1", "log.interval=500"),
]
TRAIN_FREQUENCY = {"minatar": 1, "atari": 4}
PARTS = ("act", "sample", "update", "an env step")  # that an agent makes dearer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--steps", type=int, default=20_000, help="timed env steps of ours and JAX")
    parser.add_argument("--peer-steps", type=int, default=3_000, help="timed env steps of others")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--default-steps", type=int, help="budget of the whole default command")
    parser.add_argument("--no-peers", action="store_true", help="time ours alone")
    parser.add_argument(
        "--agent",
        type=agents,
        default=[],
        metavar="NAME[,NAME]",
        help=f"what agents cost beside plain DQN: all, or some of {', '.join(FAMILY)}",
    )
    parser.add_argument("--slice", type=int, default=2_000, help="env steps of an agent's turn")
    options = parser.parse_args()
    if "/" in options.env:
        pixels(options)
    elif options.agent:
        family(options)
    else:
        beside_peers(options)


def agents(text: str) -> list[str]:
    """The agents that --agent names; raises ArgumentTypeError for others."""
    names = [*FAMILY] if text == "all" else text.split(",")
    for name in names:
        if name not in FAMILY:
            raise argparse.ArgumentTypeError(f"{name} is none of all, {', '.join(FAMILY)}")
    return names


def beside_peers(options: argparse.Namespace) -> None:
    """Time plain DQN beside that of others, by part, and the command at its defaults."""
    env, steps = options.env, options.steps
    contestants: dict[str, Callable[[], float]] = {
        "dqn_runner": lambda: ours(env, steps, *DQN),
        "dqn_runner, num_envs=8": lambda: ours(env, steps, *DQN, "num_envs=8"),
        "dqn_runner, compile=never": lambda: ours(env, options.peer_steps, *DQN, "compile=never"),
    }
    if not options.no_peers:
        torch_python = environment("torch_peers", TORCH_PEERS)
        sbx_python = environment("sbx", SBX)
        for name, python, script in (
            ("Stable-Baselines3 2.9.2", torch_python, "sb3"),
            ("eager loop of the tutorials", torch_python, "eager"),
            ("Tianshou 2.0.1", torch_python, "tianshou_dqn"),
            ("SBX 0.28.0 (Stable-Baselines3 in JAX)", sbx_python, "sbx_dqn"),
        ):
            contestants[name] = peer(python, script, env, options.peer_steps)
        if env == "CartPole-v1":
            jax_python = environment("jax_peers", JAX_PEERS)
            contestants["one jitted JAX loop"] = peer(jax_python, "jax_loop", env, steps)
    console = Console(width=100)
    console.print(f"{env} on {machine()}\n")
    console.print(speeds_table(in_turn(contestants, options.repeats), box.HEAVY_HEAD))
    report_parts(console, env, steps, options.repeats)
    report_defaults(env, options.default_steps)


def family(options: argparse.Namespace) -> None:
    """Time each of the agents beside plain DQN, and Rainbow beside a peer."""
    env = options.env
    rows = {"dqn": DQN}
    for name in options.agent:
        rows |= FAMILY[name]
    console = Console(width=120)
    console.print(f"{env} on {machine()}\n")
    table = Table(
        *("µs (median)", "acting", "drawing", "update", "env step"),
        *("update, times DQN's", "env step, times DQN's"),
        box=box.MARKDOWN,
    )
    rounds = in_slices(env, rows, options.slice, options.repeats)
    for name, slices in rounds.items():
        medians = [statistics.median(step[part] for step in slices) for part in PARTS]
        ratios = [
            statistics.median(
                step[part] / plain[part] for step, plain in zip(slices, rounds["dqn"], strict=True)
            )
            for part in ("update", "an env step")
        ]
        cells = [f"{1e6 * median:.1f}" for median in medians]
        table.add_row(name, *cells, *(f"{ratio:.2f}" for ratio in ratios))
    console.print(table)
    if "rainbow" in options.agent:
        contestants = {"dqn_runner": lambda: ours(env, options.steps, *RAINBOW)}
        if not options.no_peers:
            python = environment("torch_peers", TORCH_PEERS)
            name = "a plain torch Rainbow"
            contestants[name] = peer(python, "rainbow", env, options.peer_steps)
        console.print("\nRainbow:\n")
        console.print(speeds_table(in_turn(contestants, options.repeats), box.MARKDOWN))


def pixels(options: argparse.Namespace) -> None:
    """Time a game of pixels beside that of peers, and beside its convolutions alone."""
    kind, game = options.env.split("/")
    where = [f"env={options.env}"] if kind == "minatar" else ["env=atari", f"env.game={game}"]
    work = [*where, *PIXELS, f"train_frequency={TRAIN_FREQUENCY[kind]}"]
    steps = options.peer_steps
    contestants: dict[str, Callable[[], float]] = {"dqn_runner": lambda: speed(work, steps)}
    if not options.no_peers:
        python = environment("pixel_peers", PIXEL_PEERS)
        for name, script in (
            ("Stable-Baselines3 2.9.2", "sb3_pixels"),
            ("eager loop of single files", "eager_pixels"),
        ):
            contestants[name] = peer(python, script, options.env, steps)
    every = TRAIN_FREQUENCY[kind]
    contestants["the convolutions of the updates alone"] = lambda: every / convolutions(kind)
    console = Console(width=100)
    console.print(f"{options.env} on {machine()}\n")
    console.print(speeds_table(in_turn(contestants, options.repeats), box.HEAVY_HEAD))


def convolutions(kind: str, rounds: int = 50) -> float:
    """Seconds of the convolutions of an update: both networks forward, one backward, eagerly."""
    import torch
    from torch import nn

    layers = (
        [nn.Conv2d(4, 16, 3)]
        if kind == "minatar"
        else [nn.Conv2d(4, 32, 8, 4), nn.Conv2d(32, 64, 4, 2), nn.Conv2d(64, 64, 3)]
    )
    torch.set_num_threads(1)
    online, target = nn.Sequential(*layers), nn.Sequential(*layers)
    size = 10 if kind == "minatar" else 84
    obs, next_obs = torch.rand(32, 4, size, size), torch.rand(32, 4, size, size)
    for done in range(rounds + 10):
        if done == 10:
            started = time.perf_counter()
        with torch.no_grad():
            target(next_obs)
        online(obs).sum().backward()
    return (time.perf_counter() - started) / rounds


def in_turn(contestants: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """What each contestant measures, round after round."""
    rounds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in track(range(repeats), "rounds", console=Console(stderr=True)):
        for name, measure in contestants.items():
            rounds[name].append(measure())
    return rounds


def in_slices(
    env: str, rows: dict[str, list[str]], steps: int, repeats: int
) -> dict[str, list[dict[str, float]]]:
    """Seconds of an env step, by part, of runs that take turns, round after round."""
    # Without a tracker: SwanLab has one run at a time.
    work = [*WORK, f"env.id={env}", "tracker.mode=disabled"]
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in rows}
    with ExitStack() as stack:
        loops = {
            name: stack.enter_context(timed_loop([*work, *settings]))
            for name, settings in rows.items()
        }
        for _ in track(range(repeats), "rounds", console=Console(stderr=True)):
            for name, seconds_of_a_step in loops.items():
                rounds[name].append(seconds_of_a_step(steps))
    return rounds


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
    """Env steps per second of the command on the work."""
    return speed([*WORK, f"env.id={env}", *overrides], steps)


def speed(settings: list[str], steps: int) -> float:
    """Env steps per second of the command after its warm-up, from the rows it logged."""
    with tempfile.TemporaryDirectory() as folder:
        budget = [f"total_timesteps={WARMUP + steps}", "compile=always"]
        command([*budget, *settings, f"hydra.run.dir={folder}/run"])
        return speed_of(Path(folder, "run"))


def speed_of(run: Path) -> float:
    """Env steps per second of a run after its warm-up, from the rows it logged."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    timed = [row for row in map(json.loads, lines) if "time/elapsed_seconds" in row]
    rows = [row for row in timed if row["env_steps"] >= WARMUP]
    seconds = rows[-1]["time/elapsed_seconds"] - rows[0]["time/elapsed_seconds"]
    return float(rows[-1]["env_steps"] - rows[0]["env_steps"]) / max(seconds, 1e-9)


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


def speeds_table(speeds_of: dict[str, list[float]], style: box.Box) -> Table:
    """Env steps per second of each contestant, and how they stand to the first one's."""
    table = Table("", "env steps/s (median)", "min", "max", "ours is faster by", box=style)
    for name, speeds in sorted(speeds_of.items(), key=lambda item: -statistics.median(item[1])):
        pairs = zip(speeds_of["dqn_runner"], speeds, strict=True)
        ratio = statistics.median(ours / theirs for ours, theirs in pairs)
        median, least, most = statistics.median(speeds), min(speeds), max(speeds)
        table.add_row(name, f"{median:,.0f}", f"{least:,.0f}", f"{most:,.0f}", f"{ratio:.2f}")
    return table


def report_parts(console: Console, env: str, steps: int, repeats: int) -> None:
    """Print what each part of an env step takes, and a floor beside it."""
    with timed_loop([*WORK, *DQN, f"env.id={env}"]) as seconds_of_a_step:
        rounds = [(seconds_of_a_step(steps), floor_of(env, steps)) for _ in range(repeats)]
    table = Table("one env step of ours", "µs (median)")
    for name in rounds[0][0]:
        table.add_row(name, f"{1e6 * statistics.median(step[name] for step, _ in rounds):.1f}")
    floor = statistics.median(floor for _, floor in rounds)
    table.add_row("floor: the update's products, env.step, drawing indices", f"{1e6 * floor:.1f}")
    ratios = [step["an env step"] / floor for step, floor in rounds]
    table.add_row("an env step / floor", f"{statistics.median(ratios):.2f}")
    console.print(table)


def machine() -> str:
    """Where the numbers are from."""
    return f"{processor()}, {os.cpu_count()} cores, one thread each"


def processor() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(": ")[1] for x in lines if x.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
