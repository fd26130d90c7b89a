"""dqn-train: train one agent, or one for each combination of settings with -m."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dqn_runner.errors import ConfigError, Stopped
from dqn_runner.program import guarded

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from dqn_runner.composing.command import Command

NOTIFY = "tracker.notify="
INFORMATIONAL = ("--hydra-help", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc")


def main() -> None:
    """Run the console script; its exit codes are 0, 1, 2, 130 and 143."""
    sys.exit(guarded("dqn-train", command_line, sys.argv[1:]))


def command_line(arguments: list[str]) -> int:
    """Compose, check and run what `arguments` ask for; returns the exit code."""
    if "--version" in arguments:
        from dqn_runner import __version__

        print(f"dqn-train {__version__}")
        return 0
    if is_informational(arguments):
        return show(arguments)

    if any(argument.startswith("resume=") for argument in arguments):
        return resume_run(arguments)

    if "--help" in arguments or "-h" in arguments:
        from dqn_runner.composing.help_text import help_text

        print(help_text(arguments))
        return 0

    from rich.console import Console

    from dqn_runner.composing.command import Command

    with Console(stderr=True).status("composing"):
        command = Command(arguments)
    try:
        return run_sweep(command) if command.is_sweep else run_one(command)
    except OSError as error:  # from a directory; a job reports its own errors
        where = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise ConfigError(where) from error


def run_one(command: Command) -> int:
    """Check the one job, and run it."""
    from dqn_runner.config import build, root
    from dqn_runner.runs.directory import RunDirectory
    from dqn_runner.runs.job import run_job
    from dqn_runner.tracking.messages import about_run
    from dqn_runner.tracking.notify import Notifier

    if RunDirectory(command.directory).config.exists():
        raise ConfigError(f"hydra.run.dir={command.directory}: holds a run already")
    config = root.parse(command.jobs[0].config)
    build.check(config)
    with Notifier(config.tracker.notify, partial(about_run, command.directory)):
        return 1 if command.run(run_job) is None else 0


def run_sweep(command: Command) -> int:
    """Run the sweep with the chosen sweeper; if it is stopped, say how to go on."""
    from dqn_runner.sweeps import launchers

    launchers.check(command.launcher)
    try:
        return run_search(command) if command.sweeper == "optuna" else run_grid(command)
    except Stopped:
        directory = shlex.quote(str(command.directory))
        print(f"stopped; the same command with hydra.sweep.dir={directory} goes on")
        raise


def run_grid(command: Command) -> int:
    """Run every job that has not finished yet, and print the results of all."""
    from dqn_runner.analysis.table import print_results
    from dqn_runner.sweeps.grid import Sweep, is_to_do, prepared

    jobs = prepared(command.jobs)
    with Sweep(command) as sweep:
        try:
            sweep.run(jobs)
        finally:
            print_results(command.directory)
    return 1 if any(is_to_do(job) for job in jobs) else 0


def run_search(command: Command) -> int:
    """Let Optuna propose the jobs."""
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("hydra/sweeper=optuna: needs pip install 'dqn_runner[optuna]'")
    from dqn_runner.sweeps.search import Search

    return 1 if Search(command).run() else 0


def is_informational(arguments: list[str]) -> bool:
    """Whether Hydra is asked to show something instead of running."""
    names = [argument.split("=", 1)[0] for argument in arguments]
    return any(name in INFORMATIONAL for name in names)


def show(arguments: list[str]) -> int:
    """Let Hydra show help, a configuration or completions."""
    import hydra

    from dqn_runner.composing import hydra_internals as internals
    from dqn_runner.composing.refusals import compose

    parsed = internals.parse_arguments(arguments)
    if parsed.cfg or parsed.info:
        ours, name = internals.create_hydra(parsed), parsed.config_name
        compose(ours, name, parsed.overrides)  # refuses bad input in one line
        if parsed.cfg:
            ours.show_cfg(name, parsed.overrides, parsed.cfg, parsed.package, parsed.resolve)
        else:
            ours.show_info(parsed.info, name, parsed.overrides)
        return 0
    internals.set_up_hydra()

    def nothing(config: DictConfig) -> None:
        """Never called."""

    conf, version = internals.conf_dir(), internals.VERSION_BASE
    hydra.main(version_base=version, config_path=conf, config_name="config")(nothing)()
    return 0


def resume_run(arguments: list[str]) -> int:
    """Continue an interrupted run in its own directory; other settings are budgets and channels."""
    from dqn_runner.runs.job import resume_job
    from dqn_runner.tracking.messages import about_run
    from dqn_runner.tracking.notify import Notifier, channels_in

    others = [argument for argument in arguments if argument != "--trust"]
    named = [line.removeprefix("resume=") for line in others if line.startswith("resume=")][-1]
    channels = [line.removeprefix(NOTIFY) for line in others if line.startswith(NOTIFY)]
    notified = channels_in(channels[-1]) if channels else []
    budgets = dict(_budget(line) for line in others if not line.startswith(("resume=", NOTIFY)))
    if not named.strip():
        raise ConfigError("resume=: must name a run directory")
    path = Path(named)
    with Notifier(notified, partial(about_run, path)):
        done = resume_job(path, budgets, trust="--trust" in arguments)
    return 1 if done is None else 0


def _budget(line: str) -> tuple[str, int]:
    """A budget typed beside resume; any spelling of a whole number counts, such as 1e6."""
    from dqn_runner.runs.lifecycle import BUDGETS

    name, _, text = line.partition("=")
    try:
        amount = float(text)
    except ValueError:
        amount = 0.0
    if name not in BUDGETS or not (amount >= 1 and amount.is_integer()):
        allowed = f"a larger {' or '.join(BUDGETS)}, or tracker.notify,"
        raise ConfigError(f"{line}: beside resume only {allowed} may be given")
    return name, int(amount)
