"""Our prioritized replay beside cpprb's and torchrl's, doing the same work on one thread.

    python tests/benchmarks/replay.py [--items 1000000] [--repeats 5] [--peers cpprb torchrl]

The work: from a buffer full of transitions of 48 bytes with the same priorities, draw 64 with
alpha 0.6 and beta 0.4, gather their columns, and set 64 new priorities. Each contestant is a
process of its own; they take turns, round after round. The table shows the medians of the rounds,
the median of the ratios within each round, and how true the drawing is: chi-square per degree of
freedom against the exact probabilities, about 1 for independent draws, less for stratified ones,
more for a wrong distribution; and the largest error of an importance weight. The first run sets up
a virtual environment for each peer from PyPI; torchrl's takes some GB, for its C++ code needs
another torch than ours.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table
from speed import ONE_THREAD, PEERS, environment, processor

PACKAGES = {"cpprb": ["cpprb==11.0.0"], "torchrl": ["torch==2.14.1", "torchrl==0.14.1"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000, help="transitions in the buffer")
    parser.add_argument("--cycles", type=int, default=5_000, help="timed cycles of each process")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", nargs="*", default=[*PACKAGES], choices=PACKAGES)
    options = parser.parse_args()
    pythons = {"ours": Path(sys.executable)}
    pythons |= {name: environment(f"replay_{name}", PACKAGES[name]) for name in options.peers}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in pythons}
    for _ in track(range(options.repeats), "rounds", console=Console(stderr=True)):
        for name, python in pythons.items():
            rounds[name].append(measured(name, python, options.items, options.cycles))
    report(rounds, options.items)


def measured(name: str, python: Path, items: int, cycles: int) -> dict[str, float]:
    """What a contestant prints about itself."""
    script = PEERS / f"replay_{name}.py"
    line = [str(python), str(script), str(items), str(cycles)]
    finished = subprocess.run(line, env=ONE_THREAD, capture_output=True, text=True, check=False)
    if finished.returncode:
        sys.exit(finished.stderr)
    numbers: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return numbers


def report(rounds: dict[str, list[dict[str, float]]], items: int) -> None:
    """Print the table."""
    console = Console(width=110)
    console.print(f"{items:,} transitions on {processor()}, one thread each\n")
    table = Table(
        "", "draw, µs", "update, µs", "both, µs", "min", "max", "ours takes", "chi²/df", "weights"
    )
    for name, numbers in rounds.items():
        medians = {key: statistics.median(row[key] for row in numbers) for key in numbers[0]}
        both = [row["both"] for row in numbers]
        pairs = zip((row["both"] for row in rounds["ours"]), both, strict=True)
        ratio = statistics.median(ours / theirs for ours, theirs in pairs)
        table.add_row(
            name if name == "ours" else PACKAGES[name][-1].replace("==", " "),
            *(f"{medians[key]:.1f}" for key in ("draw", "update", "both")),
            f"{min(both):.1f}",
            f"{max(both):.1f}",
            f"{ratio:.2f}×",
            f"{medians['chi_square']:.2f}",
            f"{max(row['weight_error'] for row in numbers):.0e}",
        )
    console.print(table)


if __name__ == "__main__":
    main()
