"""dqn-train: train one agent, or with -m one for each combination of settings."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dqn_runner.errors import ConfigError, DQNRunnerError, Pruned, RunFailedError, Stopped

if TYPE_CHECKING:
    from hydra.conf import HydraConf
    from omegaconf import DictConfig
    from rich.console import Console

    from dqn_runner.composition import Command, Job
    from dqn_runner.config import Config
    from dqn_runner.run import Scores

INFORMATIONAL = ("--hydra-help", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc")


def main() -> None:
    """The console script; its exit codes are 0, 1, 2, 130 and 143."""
    sys.exit(guarded("dqn-train", command_line, sys.argv[1:]))


def guarded(program: str, body: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Run `body`; turn what users can mend into one line on stderr, and signals into exit codes."""
    logging.raiseExceptions = False  # a full disk is told of once, not by the log as well
    # As `python -P`: the working directory may be a run that somebody sent.
    sys.path[:] = [entry for entry in sys.path if entry]
    try:
        code = body(arguments)
        sys.stdout.flush()
    except DQNRunnerError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 1 if isinstance(error, RunFailedError) else 2
    except Stopped as stop:
        return 128 + stop.signal_number
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # as of `dqn-train --help | head`: who reads it has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return code


def command_line(arguments: list[str]) -> int:
    """Compose, check, and run what `arguments` ask for."""
    if "--version" in arguments:
        from dqn_runner import __version__

        print(f"dqn-train {__version__}")
        return 0
    if is_informational(arguments):
        return show(arguments)

    if any(argument.startswith("resume=") for argument in arguments):
        return resume_run(arguments)

    if "--help" in arguments or "-h" in arguments:
        from dqn_runner.help_text import help_text

        print(help_text(arguments))
        return 0

    from rich.console import Console

    from dqn_runner.composition import Command

    with Console(stderr=True).status("composing"):
        command = Command(arguments)
    try:
        return run_sweep(command) if command.is_sweep else run_one(command)
    except OSError as error:  # of a directory; a job keeps its own errors to itself
        where = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise ConfigError(where) from error


def run_one(command: Command) -> int:
    """Check the one job there is, and run it."""
    from dqn_runner.run_directory import RunDirectory

    if RunDirectory(command.directory).config.exists():
        raise ConfigError(f"hydra.run.dir={command.directory}: holds a run already")
    check(command.jobs)
    return 1 if command.run(run_job) is None else 0


def run_sweep(command: Command) -> int:
    """Run the sweep by the sweeper that was chosen; where it is stopped, say how to go on."""
    from dqn_runner import launchers

    launchers.check(command.launcher)
    try:
        return run_search(command) if command.sweeper == "optuna" else run_grid(command)
    except Stopped:
        directory = shlex.quote(str(command.directory))
        print(f"stopped; the same command with hydra.sweep.dir={directory} goes on")
        raise


def run_grid(command: Command) -> int:
    """Check all jobs, run those that are to do, and print what came of each."""
    from dqn_runner.analysis.table import print_results
    from dqn_runner.sweep import Sweep, check_folder, is_to_do, with_shared_compilation

    configs = check(command.jobs)
    for job, config in zip(command.jobs, configs, strict=True):
        check_folder(job, config)
    with Sweep(command, with_shared_compilation(run_job, configs)) as sweep:
        try:
            sweep.run(command.jobs)
        finally:
            print_results(command.directory)
    return 1 if any(is_to_do(job) for job in command.jobs) else 0


def run_search(command: Command) -> int:
    """Let Optuna propose the jobs."""
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("hydra/sweeper=optuna: needs pip install 'dqn_runner[optuna]'")
    from dqn_runner.search import Search

    return 1 if Search(command, check).run(run_job) else 0


def is_informational(arguments: list[str]) -> bool:
    """Whether Hydra is asked to show something rather than to run."""
    names = [argument.split("=", 1)[0] for argument in arguments]
    return any(name in INFORMATIONAL for name in names)


def show(arguments: list[str]) -> int:
    """Let Hydra show help, a configuration or completions."""
    import hydra

    from dqn_runner.composition import VERSION_BASE, conf_dir, create_hydra, set_up_hydra
    from dqn_runner.overrides import compose, parse_arguments

    parsed = parse_arguments(arguments)
    if parsed.cfg or parsed.info:
        ours, name = create_hydra(parsed), parsed.config_name or "config"
        compose(ours, name, parsed.overrides)  # which refuses in a line what it cannot
        if parsed.cfg:
            ours.show_cfg(name, parsed.overrides, parsed.cfg, parsed.package, parsed.resolve)
        else:
            ours.show_info(parsed.info, name, parsed.overrides)
        return 0
    set_up_hydra()

    def nothing(config: DictConfig) -> None:
        """Never called."""

    hydra.main(version_base=VERSION_BASE, config_path=conf_dir(), config_name="config")(nothing)()
    return 0


def resume_run(arguments: list[str]) -> int:
    """Go on with an interrupted run in its own directory; beside it budgets alone may be given."""
    from rich.console import Console

    from dqn_runner.analysis.runs import no_run
    from dqn_runner.run import resume
    from dqn_runner.run_directory import RunDirectory

    trust = "--trust" in arguments
    others = [argument for argument in arguments if argument != "--trust"]
    named = [line.removeprefix("resume=") for line in others if line.startswith("resume=")][-1]
    budgets = dict(_budget(line) for line in others if not line.startswith("resume="))
    path = Path(named)
    if not named.strip():
        raise ConfigError("resume=: must name a run directory")
    if not path.is_dir():
        raise ConfigError(f"resume={path}: no such run directory")
    if not RunDirectory(path).config.is_file():
        raise ConfigError(f"resume={path}: {no_run(path)}")
    RunDirectory(path).check_sound()
    log_to(path / "train.log")
    console = Console(soft_wrap=True)
    done = guarded_run(path, lambda: resume(path, budgets, console, trust=trust), ConfigError)
    return 1 if done is None else 0


def _budget(line: str) -> tuple[str, int]:
    """A budget that is given beside resume, in any way that a whole number is written."""
    from dqn_runner.run import BUDGETS

    name, _, text = line.partition("=")
    try:
        amount = float(text)
    except ValueError:
        amount = 0.0
    if name not in BUDGETS or not (amount >= 1 and amount.is_integer()):
        allowed = f"a larger {' or '.join(BUDGETS)}"
        raise ConfigError(f"{line}: beside resume only {allowed} may be given")
    return name, int(amount)


def log_to(path: Path) -> None:
    """Log as conf/config.yaml has Hydra do it: all to the run's log, warnings to stderr too."""
    file = logging.FileHandler(path)
    file.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[file])
    console = logging.StreamHandler()
    console.setLevel(logging.WARNING)
    console.setFormatter(logging.Formatter("dqn-train: %(levelname)s: %(message)s"))
    logging.getLogger("dqn_runner").addHandler(console)


def check(jobs: Sequence[Job]) -> list[Config]:
    """Refuse what cannot run, before any directory is made; returns the checked configurations."""
    from dqn_runner import build, config

    checked: set[str] = set()
    configs = [config.parse(job.config) for job in jobs]
    for parsed in configs:
        what_is_built = parsed.model_dump_json(
            include={"env", "device", "network", "epsilon", "buffer"}
        )
        if what_is_built not in checked:
            build.check(parsed)
            checked.add(what_is_built)
    return configs


def run_job(
    hydra_config: DictConfig,
    quiet: bool = False,
    is_repaid: Callable[[Config], bool] | None = None,
) -> float | None:
    """Hydra's task: one run. Returns its final policy's mean return, None where it has none.

    With `quiet`, for jobs that run side by side, all that is to be said is in the run directory.
    `is_repaid` says of a job whether its sweep as a whole repays compiling the update.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf
    from rich.console import Console

    from dqn_runner import config

    hydra = HydraConfig.get()
    path = Path(hydra.runtime.output_dir)
    if quiet:
        logging.getLogger("dqn_runner").handlers.clear()  # of which conf/config.yaml tells

    def body() -> Scores:
        parsed = config.parse(OmegaConf.to_container(hydra_config, resolve=True))
        if is_repaid is not None and parsed.compile == "auto" and is_repaid(parsed):
            parsed = parsed.model_copy(update={"compile": "always"})
        parsed = with_tracker_names(parsed, hydra)
        if quiet and parsed.torch_threads == "auto":
            parsed = parsed.model_copy(update={"torch_threads": 1})
        return start_or_go_on(parsed, path, Console(soft_wrap=True, quiet=quiet))

    return guarded_run(path, body, quiet=quiet)


def start_or_go_on(parsed: Config, path: Path, console: Console) -> Scores:
    """Run in `path`, or go on with what an interrupted or failed run of `parsed` left there."""
    from dqn_runner.run import resume, run
    from dqn_runner.run_directory import RunDirectory

    run_dir = RunDirectory(path)
    if run_dir.prune_request.exists():
        raise Pruned(signal.SIGTERM)
    if run_dir.config.exists():  # it is what was typed: trusted as that is
        return resume(path, {}, console, trust=True)
    return run(parsed, path, console)


def guarded_run(
    path: Path, body: Callable[[], Scores], *passing: type[Exception], quiet: bool = False
) -> float | None:
    """Run `body`; returns its final policy's mean return, None where it failed, having said why.

    Exceptions of the types in `passing` come through. With `quiet`, ended.json alone says why.
    """
    from dqn_runner.run_directory import End, RunDirectory

    try:
        return body().final.mean
    except passing:
        raise
    except Pruned:
        RunDirectory(path).end(End("pruned", "its search saw no hope in it"))
    except (Exception, SystemExit) as error:
        logging.getLogger().exception("the run failed")  # to train.log; the console has the line
        in_a_line = isinstance(error, DQNRunnerError | OSError)
        line = str(error) if in_a_line else traceback.format_exc()
        with contextlib.suppress(OSError):  # the disk may be full
            RunDirectory(path).end(End("failed", line.rstrip().splitlines()[-1]))
        if not quiet:
            place = "" if line.startswith(str(path)) else f"{path}: "
            print(f"dqn-train: error: {place}{line.rstrip()}", file=sys.stderr)
    return None


def with_tracker_names(parsed: Config, hydra: HydraConf) -> Config:
    """Name the run in SwanLab by what differs from the defaults, its group by where it belongs."""
    from dqn_runner.composition import subject

    about = subject(hydra.runtime.choices, hydra.overrides.task)
    silent = ("env=", "env.id=", "experiment=", "tracker.", "hydra.")
    differs = [o for o in hydra.overrides.task if not o.startswith(silent)]
    is_sweep = hydra.mode is not None and hydra.mode.name == "MULTIRUN"
    names = {
        "name": parsed.tracker.name or " ".join([about, *differs])[:500],
        "group": parsed.tracker.group or (Path(hydra.sweep.dir).name if is_sweep else about),
    }
    return parsed.model_copy(update={"tracker": parsed.tracker.model_copy(update=names)})
