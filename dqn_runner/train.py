"""dqn-train: train one agent, or with -m one for each combination of settings."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dqn_runner.errors import ConfigError, DQNRunnerError, Stopped

if TYPE_CHECKING:
    from hydra.conf import HydraConf
    from omegaconf import DictConfig

    from dqn_runner.composition import Command
    from dqn_runner.config import Config
    from dqn_runner.run import Scores

BUDGETS = ("total_timesteps", "total_episodes")
INFORMATIONAL = ("--hydra-help", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc")


def main() -> None:
    """The console script; its exit codes are 0, 1, 2, 130 and 143."""
    sys.exit(guarded("dqn-train", command_line, sys.argv[1:]))


def guarded(program: str, body: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Run `body`; turn what users can mend into one line on stderr, and signals into exit codes."""
    logging.raiseExceptions = False  # a full disk is told of once, not by the log as well
    try:
        return body(arguments)
    except DQNRunnerError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 2
    except Stopped as stop:
        return 128 + stop.signal_number
    except KeyboardInterrupt:
        return 130


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

    from dqn_runner.composition import Command, help_text

    if "--help" in arguments or "-h" in arguments:
        print(help_text(arguments))
        return 0
    command = Command(arguments)
    check(command)
    try:
        scores = command.launch(run_job)
    except OSError as error:  # of a directory; a job keeps its own errors to itself
        raise ConfigError(f"{error.filename}: {error.strerror}") from error
    finally:
        if command.is_sweep:
            from dqn_runner.analysis.table import print_results

            print_results(command.directory)
    return 1 if None in scores else 0


def is_informational(arguments: list[str]) -> bool:
    """Whether Hydra is asked to show something rather than to run."""
    names = [argument.split("=", 1)[0] for argument in arguments]
    return any(name in INFORMATIONAL for name in names)


def show(arguments: list[str]) -> int:
    """Let Hydra show help, a configuration or completions."""
    import hydra

    from dqn_runner.composition import VERSION_BASE, conf_dir, register_resolvers

    register_resolvers()

    def nothing(config: DictConfig) -> None:
        """Never called."""

    hydra.main(version_base=VERSION_BASE, config_path=conf_dir(), config_name="config")(nothing)()
    return 0


def resume_run(arguments: list[str]) -> int:
    """Go on with an interrupted run in its own directory; beside it budgets alone may be given."""
    from rich.console import Console

    from dqn_runner.run import resume
    from dqn_runner.run_directory import RunDirectory

    trust = "--trust" in arguments
    given = dict(argument.partition("=")[::2] for argument in arguments if argument != "--trust")
    path, budgets = Path(given.pop("resume")), {}
    for key, value in given.items():
        if key not in BUDGETS or not (value.isascii() and value.isdecimal()):
            raise ConfigError(
                f"{key}={value}: beside resume only a larger {' or '.join(BUDGETS)} may be given"
            )
        budgets[key] = int(value)
    if not path.is_dir():
        raise ConfigError(f"resume={path}: no such run directory")
    if not RunDirectory(path).config.is_file():
        raise ConfigError(f"resume={path}: holds no run: it has no config.yaml")
    RunDirectory(path).check_sound()
    log_to(path / "train.log")
    console = Console(soft_wrap=True)
    done = guarded_run(path, lambda: resume(path, budgets, console, trust=trust), ConfigError)
    return 1 if done is None else 0


def log_to(path: Path) -> None:
    """Log as conf/config.yaml has Hydra do it: all to the run's log, warnings to stderr too."""
    file = logging.FileHandler(path)
    file.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[file])
    console = logging.StreamHandler()
    console.setLevel(logging.WARNING)
    console.setFormatter(logging.Formatter("dqn-train: %(levelname)s: %(message)s"))
    logging.getLogger("dqn_runner").addHandler(console)


def check(command: Command) -> None:
    """Refuse what cannot run, before any directory is made."""
    from dqn_runner import build, config
    from dqn_runner.run_directory import RunDirectory

    if not command.is_sweep and RunDirectory(command.directory).config.exists():
        raise ConfigError(f"hydra.run.dir={command.directory}: holds a run already")
    checked: set[str] = set()
    for job in command.jobs:
        parsed = config.parse(job.config)
        what_is_built = parsed.model_dump_json(include={"env", "device", "network", "epsilon"})
        if what_is_built not in checked:
            build.check(parsed)
            checked.add(what_is_built)


def run_job(hydra_config: DictConfig) -> float | None:
    """Hydra's task: one run. Returns its final policy's mean return, None where it failed."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf
    from rich.console import Console

    from dqn_runner import config
    from dqn_runner.run import run

    console = Console(soft_wrap=True)
    hydra = HydraConfig.get()
    path = Path(hydra.runtime.output_dir)
    parsed = config.parse(OmegaConf.to_container(hydra_config, resolve=True))
    parsed = with_tracker_names(parsed, hydra)
    return guarded_run(path, lambda: run(parsed, path, console))


def guarded_run(path: Path, body: Callable[[], Scores], *passing: type[Exception]) -> float | None:
    """Run `body`; returns its final policy's mean return, None where it failed, having said why.

    Exceptions of the types in `passing` come through.
    """
    try:
        return body().final.mean
    except passing:
        raise
    except Exception as error:
        logging.getLogger().exception("the run failed")  # to train.log; the console has the line
        in_a_line = isinstance(error, DQNRunnerError | OSError)
        line = str(error) if in_a_line else traceback.format_exc()
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
