"""What a run tells: on the console, in its train.log, in its started.jsonl and result.json."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from rich.console import Console
from rich.filesize import decimal
from rich.text import Text

from dqn_runner.config.root import Config, outside_code
from dqn_runner.envs.make import image_in_words
from dqn_runner.runs.directory import RunDirectory, Start
from dqn_runner.runs.metrics_file import EVALUATION
from dqn_runner.training.evaluation import Evaluation
from dqn_runner.training.state import Parts
from dqn_runner.types import Progress, Row

logger = logging.getLogger(__name__)

PACKAGES = ("dqn_runner", "torch", "gymnasium", "numpy", "hydra-core", "omegaconf", "swanlab")


class Scores(NamedTuple):
    """Evaluations of the final and of the best policy, each on fresh episodes."""

    final: Evaluation
    best: Evaluation
    best_env_steps: int


def result(progress: Progress, scores: Scores, seconds: float, num_together: int) -> dict[str, Any]:
    """What result.json holds of a run that was trained as one of `num_together`."""
    commit = git_commit()
    return {
        "status": "finished",
        "env_steps": progress.env_steps,
        "episodes": progress.episodes,
        "wall_time_seconds": round(seconds, 3),
        "final": scores.final.summary(),
        "best": {**scores.best.summary(), "env_steps": scores.best_env_steps},
        "command": command_line(),
        "versions": {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in PACKAGES},
        },
        **({"git_commit": commit} if commit else {}),
        **({"trained_together": num_together} if num_together > 1 else {}),
    }


def start_of(config: Config, run_dir: RunDirectory) -> Start:
    """What started.jsonl holds of a start now, on this machine."""
    uses_cuda = config.device.startswith("cuda")
    return Start(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        command=as_utf8(command_line()),
        path=as_utf8(str(run_dir.path.resolve())),
        working_directory=as_utf8(str(Path.cwd())),
        host=as_utf8(platform.node()),
        os=platform.platform(),
        python=platform.python_version(),
        cpu=cpu_model(),
        cores=os.cpu_count() or 0,
        memory_bytes=psutil.virtual_memory().total,
        gpu=torch.cuda.get_device_name(config.device) if uses_cuda else None,
        git_commit=git_commit() or None,
    )


def command_line() -> str:
    """The command that was typed, which of a sweep is the same for all jobs."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def as_utf8(text: str) -> str:
    """`text` from the system, with the bytes escaped that are not UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def cpu_model() -> str:
    """The name of the CPU; of its architecture where the system does not tell more."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # Linux alone has it
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def git_commit() -> str:
    """The commit checked out in the working directory; empty if there is none."""
    if shutil.which("git") is None:
        return ""
    command = ["git", "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def say(text: Text | str, console: Console) -> None:
    """Print a line, and log it."""
    console.print(text, highlight=False, markup=False)
    logger.info("%s", text)


def announce(config: Config, parts: Parts, console: Console) -> None:
    """Say what was chosen, before training begins."""
    budgets = {"env steps": config.total_timesteps, "episodes": config.total_episodes}
    budget = " or ".join(f"{amount:,} {unit}" for unit, amount in budgets.items() if amount)
    threads = f"{config.torch_threads} torch thread" + "s" * (config.torch_threads != 1)
    compiled = "compiled" if config.compile == "always" else "not compiled"
    grows = "at most " if config.phase.episodes else ""
    num_bytes = parts.storage.num_bytes + config.buffer.sampler_bytes
    once = ", each frame once," if config.buffer.storage == "frames" else ""
    line = (
        f", seed {config.seed}, {budget}; on {config.device} with "
        f"{threads}, the update {compiled}; replay buffer of {parts.storage.capacity:,} "
        f"transitions{once} takes {grows}{decimal(num_bytes)}"
    )
    say(Text.assemble((config.env.id, "bold"), line), console)
    if image := image_in_words(parts.envs.obs_spec):
        say(image, console)


class EvaluationLog:
    """Logs a line for each evaluation among the rows that it is given."""

    def __init__(self, num_episodes: int) -> None:
        self._num_episodes = num_episodes

    def log(self, row: Row) -> None:
        """Log what an evaluation reached; the parameters of the best one are in best.pt."""
        if EVALUATION in row:
            logger.info(
                "env step %s: evaluation return %.1f ± %.1f (min %.1f, max %.1f, %d episodes)%s",
                f"{row['env_steps']:,}",
                *(row[f"eval/episode_return_{name}"] for name in ("mean", "std", "min", "max")),
                self._num_episodes,
                ", the best so far" if row[EVALUATION] == row["eval/best_return_mean"] else "",
            )


def report(config: Config, run_dir: RunDirectory, scores: Scores, console: Console) -> None:
    """Say what the result is, where it is saved, and how to watch the policy."""
    for name, evaluation in (("final", scores.final), ("best", scores.best)):
        numbers = evaluation.summary()
        at = f", from env step {scores.best_env_steps:,}" if name == "best" else ""
        spread = (
            f" ± {numbers['std']:.1f} (min {numbers['min']:.1f}, max {numbers['max']:.1f}, "
            f"{numbers['episodes']} episodes{at})"
        )
        mean = (f"{numbers['mean']:.1f}", "bold")
        say(Text.assemble(f"{name:5} return ", mean, spread), console)
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
    say(
        f"stopped at env step {progress.env_steps:,}, episode {progress.episodes:,}{mean}; "
        f"dqn-train resume={shlex.quote(shown(run_dir.path))}{trusting(config)} goes on",
        console,
    )


def trusting(config: Config) -> str:
    """The option that commands need for a run that names code of the user's own."""
    return " --trust" if outside_code(config) else ""


def shown(path: Path) -> str:
    """`path` as a person in the working directory would type it."""
    path = path.resolve()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
