"""SwanLab: a view of the run in its dashboard. The record is metrics.jsonl."""

from __future__ import annotations

import contextlib
import io
import logging
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from dqn_runner.types import Row, Spec, flatten

logger = logging.getLogger(__name__)

# Seven colours that the colour-blind can tell apart (Okabe and Ito 2008).
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")

EndState = Literal["success", "crashed", "aborted"]
Label = Annotated[str, Field(min_length=1, max_length=512)]


class SwanLabSpec(Spec):
    """What SwanLab is told of a run; `name` and `group` are made from the run where null."""

    mode: Literal["offline", "online", "local", "disabled"]
    project: Annotated[str, Field(pattern=r"^[0-9a-zA-Z_\-+.]+$", max_length=100)]
    workspace: Label | None
    name: Label | None
    description: Annotated[str, Field(min_length=1, max_length=1024)] | None
    group: Label | None
    job_type: Label | None
    tags: list[Label]


class SwanLabTracker:
    """Logs rows to one SwanLab run, kept under `log_dir` unless the mode is online."""

    def __init__(self, spec: SwanLabSpec, log_dir: Path, config: dict[str, Any]) -> None:
        import swanlab

        # What SwanLab prints would tear the progress bar; it goes to the run's log instead. Its
        # pip snapshot costs a second, and its prompt for a key would wait for ever.
        settings = swanlab.Settings(
            interactive=False,
            probe=swanlab.Settings.Probe(requirements=False),
            terminal=swanlab.Settings.Terminal(proxy_type="none"),
        )
        with _captured_output():
            self._run = swanlab.init(
                mode=spec.mode,
                log_dir=str(log_dir),
                workspace=spec.workspace,
                project=spec.project,
                name=spec.name or spec.project,
                # SwanLab draws a missing name or colour from Python's global generator.
                color=group_color(spec.group, spec.name),
                description=spec.description,
                group=spec.group,
                job_type=spec.job_type,
                tags=spec.tags,
                config=swanlab_config(config),
                settings=settings,
                reinit=True,
            )

    def log(self, row: Row) -> None:
        """Log the metrics of `row` at its env steps."""
        metrics = {name: value for name, value in row.items() if "/" in name}
        self._run.log(metrics, step=int(row["env_steps"]))

    def log_media(self, name: str, path: Path, env_steps: int) -> None:
        """Log a picture, or a GIF as a video (the one film format that SwanLab takes)."""
        import swanlab

        kind = swanlab.Video if path.suffix == ".gif" else swanlab.Image
        self._run.log({name: kind(str(path))}, step=env_steps)

    def close(self, state: EndState) -> None:
        with _captured_output():
            self._run.finish(state)


def group_color(group: str | None, name: str | None) -> str:
    """The colour of a group's runs, or of the run `name` that has no group: always the same."""
    return _COLORS[zlib.crc32((group or name or "").encode()) % len(_COLORS)]


def swanlab_config(config: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys, for nested ones have no columns; a null by name, shown as a mapping else."""
    return {k: "null" if value is None else value for k, value in flatten(config).items()}


@contextlib.contextmanager
def _captured_output() -> Iterator[None]:
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            yield
    finally:
        for line in filter(None, output.getvalue().splitlines()):
            logger.info(line)
