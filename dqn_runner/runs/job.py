"""What a worker runs."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dqn_runner.errors import DQNRunnerError, Pruned

if TYPE_CHECKING:
    from hydra.conf import HydraConf
    from omegaconf import DictConfig
    from rich.console import Console

    from dqn_runner.config.root import Config
    from dqn_runner.runs.lifecycle import Scores


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

    from dqn_runner.config import root as config

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
    from dqn_runner.runs.directory import RunDirectory
    from dqn_runner.runs.lifecycle import resume, run

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
    from dqn_runner.runs.directory import End, RunDirectory

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
    from dqn_runner.composing.hydra_internals import subject

    about = subject(hydra.runtime.choices, hydra.overrides.task)
    silent = ("env=", "env.id=", "experiment=", "tracker.", "hydra.")
    differs = [o for o in hydra.overrides.task if not o.startswith(silent)]
    is_sweep = hydra.mode is not None and hydra.mode.name == "MULTIRUN"
    names = {
        "name": parsed.tracker.name or " ".join([about, *differs])[:500],
        "group": parsed.tracker.group or (Path(hydra.sweep.dir).name if is_sweep else about),
    }
    return parsed.model_copy(update={"tracker": parsed.tracker.model_copy(update=names)})
