"""How long the charts of many runs take to appear in a browser.

    python tests/benchmarks/dashboard.py --runs 100 --points 1000 --show runs

Made-up runs, ten seeds of each setting, are shown by dqn-dashboard to Debian's chromium. The time
is the browser's own, from the request of the page until every chart has its picture.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the tests have their helpers

from dashboards import browsing, opened

from dqn_runner.composing.command import Command
from dqn_runner.config.root import parse
from dqn_runner.runs.directory import RunDirectory

SEEDS = 10
METRICS = (
    "eval/episode_return_mean", "eval/episode_return_std", "eval/episode_return_min",
    "eval/episode_return_max", "eval/best_return_mean", "rollout/episode_return",
    "rollout/episode_length", "train/epsilon", "train/grad_norm", "train/lr", "train/q_max",
    "train/q_mean", "train/q_min", "train/td_loss", "time/elapsed_seconds",
    "time/env_steps_per_second",
)  # fmt: skip
# A chart is complete when it has a picture and nothing that turns in front of it.
COMPLETE = """() => {
    const charts = [...document.querySelectorAll(".chart-container")];
    const isDrawn = (chart) =>
        chart.querySelector("canvas, img") && !chart.querySelector(".absolute.rounded.bg-default");
    return charts.length > 0 && charts.every(isDrawn) && performance.now();
}"""


def write(folder: Path, number: int, points: int) -> None:
    """Write `number` finished runs with so many rows of all metrics."""
    (job,) = Command(["env=cartpole"]).jobs
    config: dict[str, Any] = parse(job.config).plain()
    for i in range(number):
        setting, seed = divmod(i, SEEDS)
        rng = random.Random(i)
        config["seed"], config["agent"]["lr"] = seed, round(1e-5 * (setting + 1), 7)
        run_dir = RunDirectory(folder / f"lr={config['agent']['lr']:g},seed={seed}")
        run_dir.path.mkdir(parents=True)
        run_dir.start(config)
        with run_dir.metrics.open("w") as file:
            for j in range(1, points + 1):
                values = {name: setting + j**0.5 + rng.random() for name in METRICS}
                file.write(json.dumps({"env_steps": 50 * j, "episodes": j, **values}) + "\n")
        score = {"mean": setting + rng.random(), "std": 1.0, "episodes": 100}
        result = {"env_steps": 50 * points, "wall_time_seconds": 60.0}
        run_dir.finish({**result, "final": score, "best": score})


def main() -> None:
    """Print the seconds of each repetition."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--points", type=int, default=1000, help="rows of each run")
    parser.add_argument("--show", default="runs", choices=["runs", "groups", "both"])
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "outputs"
        write(folder, options.runs, options.points)
        began = time.perf_counter()
        with opened(folder, Path(name) / "tmp", "--show", options.show) as dashboard:
            print(f"reading the runs: {time.perf_counter() - began:.1f} s")
            seconds = []
            for _ in range(options.repeat):
                with browsing() as page:
                    page.goto(f"{dashboard.address}/charts", wait_until="commit")
                    done = page.wait_for_function(COMPLETE, timeout=300_000)
                    seconds.append(done.json_value() / 1000)
                    charts = page.locator(".chart-container").count()
                    print(f"{charts} charts complete after {seconds[-1]:.2f} s")
    print(f"median {statistics.median(seconds):.2f} s")


if __name__ == "__main__":
    main()
