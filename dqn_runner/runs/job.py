"""What a worker runs: one run, with its failure told in a line.

The process it runs in, and how it got there, is the launcher's matter.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dqn_runner.errors import ConfigError, DQNRunnerError, Pruned

if TYPE_CHECKING:
    from hydra.conf import HydraConf
    from omegaconf import DictConfig

    from dqn_runner.config.root import Config
    from dqn_runner.runs.lifecycle import Host
    from dqn_runner.runs.report import Scores
    from dqn_runner.training.requests import Asking

logger = logging.getLogger(__name__)

SUBJECT = ("env=", "env.id=", "experiment=")  # what decides the subject of a run
# Overrides that are not part of a run's name in SwanLab beside its subject. A sweep adds
# `++compile=always` to jobs that repay compiling together.
UNNAMED = (*SUBJECT, "tracker.", "hydra.", "++compile=")


def run_job(hydra_config: DictConfig, quiet: bool = False) -> float | None:
    """Run one job as Hydra's task; returns the final policy's mean return, None if there is none.

    Jobs that run side by side are `quiet`: what they have to say is in the run directory alone.
    """
    from hydra.core.hydra_config import HydraConfig
    from rich.console import Console

    from dqn_runner.runs.lifecycle import Host, alone
    from dqn_runner.runs.stop_signals import StopSignals

    path = Path(HydraConfig.get().runtime.output_dir)
    if quiet:
        logging.getLogger("dqn_runner").handlers.clear()  # those that conf/config.yaml sets up
    host = Host(Console(soft_wrap=True, quiet=quiet), StopSignals())

    def asking() -> Asking[Scores]:
        return running_or_resuming(settled(hydra_config, quiet=quiet), path, host)

    return alone(guarded(path, asking, quiet=quiet))


def settled(hydra_config: DictConfig, *, quiet: bool) -> Config:
    """The configuration of Hydra's current job, with the run's names in SwanLab."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from dqn_runner.config import root

    config = root.parse(OmegaConf.to_container(hydra_config, resolve=True))
    differing = " ".join(differing_settings(config)) or "none"
    logger.info("settings that differ from the defaults: %s", differing)
    config = with_tracker_names(config, HydraConfig.get())
    if quiet and config.torch_threads == "auto":
        config = config.model_copy(update={"torch_threads": 1})
    return config


def resume_job(path: Path, budgets: dict[str, int], *, trust: bool) -> float | None:
    """Continue the run in `path` by hand; returns what `run_job` returns.

    Raises ConfigError if `path` holds no run, or none that has something left to do.
    """
    from rich.console import Console

    from dqn_runner.analysis.runs import no_run
    from dqn_runner.runs.directory import RunDirectory
    from dqn_runner.runs.lifecycle import Host, alone, resuming
    from dqn_runner.runs.stop_signals import StopSignals

    if not path.is_dir():
        raise ConfigError(f"resume={path}: no such run directory")
    if not RunDirectory(path).config.is_file():
        raise ConfigError(f"resume={path}: {no_run(path)}")
    RunDirectory(path).check_sound()
    log_to(path / "train.log")
    host = Host(Console(soft_wrap=True), StopSignals())
    return alone(guarded(path, lambda: resuming(path, budgets, host, trust=trust), ConfigError))


def running_or_resuming(config: Config, path: Path, host: Host) -> Asking[Scores]:
    """Run in `path`, or continue what an interrupted or failed run of `config` left there."""
    from dqn_runner.runs.directory import RunDirectory
    from dqn_runner.runs.lifecycle import resuming, running

    run_dir = RunDirectory(path)
    if run_dir.prune_request.exists():
        raise Pruned(signal.SIGTERM)
    if run_dir.config.exists():  # the same settings as were just typed, so they can be trusted
        return resuming(path, {}, host, trust=True)
    return running(config, path, host)


def guarded(
    path: Path, asking: Callable[[], Asking[Scores]], *passing: type[Exception], quiet: bool = False
) -> Asking[float | None]:
    """Do what `asking` does; ends with the final policy's mean return, or None if it failed.

    Then it has told why; if `quiet`, only in ended.json. Exceptions of the types in `passing` come
    through.
    """
    from dqn_runner.runs.directory import End, RunDirectory

    try:
        return (yield from asking()).final.mean
    except passing:
        raise
    except Pruned:
        with contextlib.suppress(OSError):  # the disk may be full
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


def differing_settings(config: Config) -> list[str]:
    """The settings that differ from the defaults, each as it would be typed."""
    from dqn_runner.composing.help_text import as_value
    from dqn_runner.composing.hydra_internals import default_settings
    from dqn_runner.config import root
    from dqn_runner.types import flatten

    defaults = flatten(root.parse(default_settings()).plain())
    return [
        shlex.quote(" ".join(f"{key}={as_value(value)}".split()))
        for key, value in flatten(config.plain()).items()
        if key not in defaults or value != defaults[key]
    ]


def with_tracker_names(config: Config, hydra: HydraConf) -> Config:
    """Name the run in SwanLab by what differs from the defaults, its group by where it belongs.

    In a sweep by what differs between its runs; its subject is named only if there are several.
    """
    from dqn_runner.composing.hydra_internals import subject

    about = subject(hydra.runtime.choices, hydra.overrides.task)
    is_sweep = hydra.mode is not None and hydra.mode.name == "MULTIRUN"
    shared = hydra.job.config.override_dirname.exclude_keys if is_sweep else []
    given = [line for line in hydra.overrides.task if line.split("=")[0].lstrip("+~") not in shared]
    named = [line for line in given if not line.startswith(UNNAMED)]
    if not (is_sweep and named) or any(line.startswith(SUBJECT) for line in given):
        named = [about, *named]
    names = {
        "name": config.tracker.name or " ".join(named)[:500],
        "group": config.tracker.group or (Path(hydra.sweep.dir).name if is_sweep else about),
    }
    return config.model_copy(update={"tracker": config.tracker.model_copy(update=names)})


def log_to(path: Path) -> None:
    """Log as conf/config.yaml tells Hydra to: everything to the file, warnings to stderr too."""
    logging.basicConfig(level=logging.INFO, handlers=[log_file(path)])
    console = logging.StreamHandler()
    console.setLevel(logging.WARNING)
    console.setFormatter(logging.Formatter("dqn-train: %(levelname)s: %(message)s"))
    logging.getLogger("dqn_runner").addHandler(console)


def log_file(path: Path, *, delay: bool = False) -> logging.FileHandler:
    """What writes to a train.log, as Hydra does; with `delay` it is opened at the first line."""
    file = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace", delay=delay)
    file.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
    return file
