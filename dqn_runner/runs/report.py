"""What a run says: before it starts, when it stops, and in its result.json."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.filesize import decimal

from dqn_runner.config.root import Config, outside_code
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.training.evaluation import Evaluation
from dqn_runner.training.state import Parts
from dqn_runner.types import Progress

PACKAGES = ("dqn_runner", "torch", "gymnasium", "numpy", "hydra-core", "omegaconf", "swanlab")


class Scores(NamedTuple):
    """Evaluations of the final and of the best policy, each on fresh episodes."""

    final: Evaluation
    best: Evaluation
    best_env_steps: int


def result(progress: Progress, scores: Scores, seconds: float) -> dict[str, Any]:
    """What result.json holds."""
    commit = git_commit()
    return {
        "status": "finished",
        "env_steps": progress.env_steps,
        "episodes": progress.episodes,
        "wall_time_seconds": round(seconds, 3),
        "final": scores.final.summary(),
        "best": {**scores.best.summary(), "env_steps": scores.best_env_steps},
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in PACKAGES},
        },
        **({"git_commit": commit} if commit else {}),
    }


def git_commit() -> str:
    """The commit checked out in the working directory; empty if there is none."""
    if shutil.which("git") is None:
        return ""
    command = ["git", "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def announce(config: Config, parts: Parts, console: Console) -> None:
    """Say what was chosen, before training begins."""
    budgets = {"env steps": config.total_timesteps, "episodes": config.total_episodes}
    budget = " or ".join(f"{amount:,} {unit}" for unit, amount in budgets.items() if amount)
    threads = f"{config.torch_threads} torch thread" + "s" * (config.torch_threads != 1)
    compiled = "compiled" if config.compile == "always" else "not compiled"
    grows = "at most " if config.phase.episodes else ""
    console.print(
        f"[bold]{config.env.id}[/bold], seed {config.seed}, {budget}; on {config.device} with "
        f"{threads}, the update {compiled}; replay buffer of {parts.storage.capacity:,} "
        f"transitions takes {grows}{decimal(parts.storage.num_bytes)}",
        highlight=False,
    )


def report(config: Config, run_dir: RunDirectory, scores: Scores, console: Console) -> None:
    """Say what the result is, where it is saved, and how to watch the policy."""
    for name, evaluation in (("final", scores.final), ("best", scores.best)):
        numbers = evaluation.summary()
        at = f", from env step {scores.best_env_steps:,}" if name == "best" else ""
        console.print(
            f"{name:5} return [bold]{numbers['mean']:.1f}[/bold] ± {numbers['std']:.1f} "
            f"(min {numbers['min']:.1f}, max {numbers['max']:.1f}, "
            f"{numbers['episodes']} episodes{at})",
            highlight=False,
        )
    place = shown(run_dir.path)
    console.print(f"run    {place}", highlight=False, markup=False)
    replay = f"replay dqn-eval {shlex.quote(place)}{trusting(config)}"
    console.print(replay, highlight=False, markup=False)


def report_stop(
    config: Config, run_dir: RunDirectory, progress: Progress, console: Console
) -> None:
    """Say what was reached before a signal ended the run."""
    returns = progress.recent_returns
    mean = f", mean return {sum(returns) / len(returns):.1f}" if returns else ""
    console.print(
        f"stopped at env step {progress.env_steps:,}, episode {progress.episodes:,}{mean}; "
        f"dqn-train resume={shlex.quote(shown(run_dir.path))}{trusting(config)} goes on",
        highlight=False,
        markup=False,
    )


def trusting(config: Config) -> str:
    """The option that commands need for a run that names code of the user's own."""
    return " --trust" if outside_code(config) else ""


def shown(path: Path) -> str:
    """`path` as a person in the working directory would type it."""
    path = path.resolve()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
