"""Logs a run to SwanLab, to look at it. The record of a run is metrics.jsonl."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from dqn_runner.analysis.groups import run_color
from dqn_runner.errors import in_a_line, named
from dqn_runner.runs.metrics_file import is_number
from dqn_runner.spec import Seconds, Spec
from dqn_runner.tracking.cloud import LiveSending
from dqn_runner.tracking.notify import Channel
from dqn_runner.types import Row, flatten

logger = logging.getLogger(__name__)

# Rows are sent together: a single row, which wakes SwanLab's threads, costs up to five times more.
MOST_ROWS_HELD = 100

# What SwanLab prints: color codes, and how information, warnings and errors begin.
_COLOR = re.compile(r"\x1b\[[\d;]*m")
_BEGINNING = re.compile(r"swanlab:|.*( \| (WARNING|ERROR) |(Warning|Error): )")

EndState = Literal["success", "crashed", "aborted"]
Label = Annotated[str, Field(min_length=1, max_length=512)]


class SwanLabSpec(Spec):
    """Settings of the SwanLab run; `name` and `group` are made from the run if null.

    `host` is your own server. `time_limit` is how many seconds the end of a run waits for a server.
    """

    mode: Literal["offline", "online", "local", "disabled"]
    """offline writes a file, online also sends it, local is for swanlab watch."""
    project: Annotated[
        str, Field(pattern=r"^[0-9a-zA-Z_\-+.]+$", max_length=100, title="letters, digits, _ - + .")
    ]
    """Project in SwanLab."""
    workspace: Label | None
    """Workspace in SwanLab's cloud; null for your own."""
    name: Label | None
    """Name of the run; null: the environment and what differs from the defaults."""
    description: Annotated[str, Field(min_length=1, max_length=1024)] | None
    """Text about the run."""
    group: Label | None
    """Group of the run; null: the sweep, or the environment or experiment."""
    job_type: Label | None
    """Kind of job that SwanLab shows."""
    tags: list[Label]
    """Tags of the run."""
    # With defaults, for the config.yaml of older runs has neither.
    host: (
        Annotated[str, Field(pattern=r"^https?://[^\s/]+/?$", title="http://… or https://…")] | None
    ) = None
    """Address of your own server; null for the one you are logged in to."""
    time_limit: Seconds = 60.0
    """Seconds that the end of an online run waits for the rest to be sent."""
    notify: list[Channel] = Field(default=[], exclude=True)  # never in config.yaml
    """Channels that are told when the run or the sweep ends; only the command line counts."""


class SwanLabTracker:
    """Logs rows to one SwanLab run, whose files are in `log_dir` in the run directory.

    In mode online another process sends these files. All failures in SwanLab give one warning.
    """

    def __init__(
        self,
        spec: SwanLabSpec,
        log_dir: Path,
        config: dict[str, Any],
        run_id: str | None = None,
        color: str | None = None,
    ) -> None:
        """Start logging; `color` is that of the run's settings if it is None."""
        self._has_warned = False
        self._held: list[Row] = []
        self._run: Any = None
        self._live: LiveSending | None = None
        with self._harmless():
            color = color or run_color(flatten(config))
            self._run = self._start(spec, log_dir, config, run_id, color)
            self._flush()
        if spec.mode == "online" and self._run:
            with self._harmless():
                (store,) = self._run.dir.glob("run-*.swanlab")
                self._live = LiveSending(store, log_dir.parent, spec.host, spec.time_limit)

    @property
    def url(self) -> str:
        """The address of the run in the cloud; empty unless all of it was sent."""
        return self._live.url if self._live else ""

    @property
    def run_id(self) -> str | None:
        """SwanLab's id of the run; None if SwanLab failed to start."""
        return str(self._run.id) if self._run else None

    def _start(
        self,
        spec: SwanLabSpec,
        log_dir: Path,
        config: dict[str, Any],
        run_id: str | None,
        color: str,
    ) -> Any:
        import swanlab

        # SwanLab's output goes to the run's log, because it would break the progress bar. Its list
        # of installed packages takes a second, and its prompt for a key would wait forever.
        settings = swanlab.Settings(
            interactive=False,
            probe=swanlab.Settings.Probe(requirements=False),
            terminal=swanlab.Settings.Terminal(proxy_type="none"),
        )
        with _captured_output():
            return swanlab.init(
                mode="offline" if spec.mode == "online" else spec.mode,
                log_dir=str(log_dir),
                workspace=spec.workspace,
                project=spec.project,
                name=spec.name or spec.project,
                # SwanLab draws a missing name or color from Python's global random generator.
                color=color,
                description=spec.description,
                group=spec.group,
                job_type=spec.job_type,
                tags=spec.tags,
                id=run_id,
                config=swanlab_config(config),
                settings=settings,
                reinit=True,
            )

    def log(self, row: Row) -> None:
        """Log the metrics of `row` at its env steps; rows of episodes wait, to be sent together."""
        self._held.append(row)
        if "rollout/episode_return" not in row or len(self._held) == MOST_ROWS_HELD:
            self._send()

    def _send(self) -> None:
        held, self._held = self._held, []
        with self._harmless():
            if self._run:
                for row in held:
                    metrics = {name: value for name, value in row.items() if "/" in name}
                    self._run.log(metrics, step=int(row["env_steps"]))
                self._flush()
            if self._live:
                self._live.check()

    def log_media(self, name: str, path: Path, env_steps: int) -> None:
        """Log an image, or a GIF as a video (SwanLab accepts no other video format)."""
        if not self._run:
            return
        import swanlab

        kind = swanlab.Video if path.suffix == ".gif" else swanlab.Image
        with self._harmless():
            self._run.log({name: kind(str(path))}, step=env_steps)

    def close(self, state: EndState) -> None:
        """End the run; in mode online, wait until all is sent or the time limit is reached."""
        self._send()
        with self._harmless(), _captured_output():
            if self._run:
                self._run.finish(state)
        with self._harmless():
            if self._live:
                self._live.close()

    def _flush(self) -> None:
        """Write what SwanLab buffers, so that another process can read it."""
        from dqn_runner.swanlab_internals.client import flush

        flush(self._run)

    @contextlib.contextmanager
    def _harmless(self) -> Iterator[None]:
        """Turn the first exception into a warning and ignore later ones: training continues."""
        try:
            yield
        except Exception as error:
            logger.debug("SwanLab failed", exc_info=True)
            if not self._has_warned:
                line = in_a_line(error) or type(error).__name__
                logger.warning("SwanLab failed, metrics.jsonl has what it lacks: %s", line)
            self._has_warned = True


class LateTracker:
    """SwanLab's side of a run, which `make` makes when the run ends, out of its metrics.jsonl.

    SwanLab knows one run at a time in a process, and here several are trained together.
    """

    def __init__(self, make: Callable[[], SwanLabTracker]) -> None:
        self._make, self.url = make, ""
        self._rows: list[Row] = []
        self._media: list[tuple[str, Path, int]] = []

    def log(self, row: Row) -> None:
        """Keep a row that is not in metrics.jsonl."""
        self._rows.append(row)

    def log_media(self, name: str, path: Path, env_steps: int) -> None:
        """Keep an image or a GIF."""
        self._media.append((name, path, env_steps))

    def close(self, state: EndState) -> None:
        """Log the run, from its beginning, and end it; what fails, as on a full disk, is told."""
        try:
            tracker = self._make()
            for row in self._rows:
                tracker.log(row)
            for media in self._media:
                tracker.log_media(*media)
            tracker.close(state)
        except Exception as error:
            logger.warning("SwanLab failed, metrics.jsonl has what it lacks: %s", named(error))
        else:
            self.url = tracker.url


def result_metrics(result: dict[str, Any], training_seconds: float) -> Row:
    """The numbers of a result.json as metrics, by whose last value SwanLab's table can be sorted.

    They are no part of metrics.jsonl. What `result` lacks is left out. The speed is without the
    final evaluation, as dqn-compare shows it.
    """
    numbers = {
        f"{policy}_{name}": result[policy].get(key)
        for policy in ("final", "best")
        for name, key in (("return", "mean"), ("return_std", "std"), ("episodes", "episodes"))
    }
    numbers["best_env_steps"] = result["best"].get("env_steps")
    for key in ("env_steps", "episodes", "wall_time_seconds"):
        numbers[key] = result.get(key)
    if training_seconds > 0:
        numbers["env_steps_per_second"] = result["env_steps"] / training_seconds
    return {f"result/{name}": value for name, value in numbers.items() if is_number(value)}


def swanlab_config(config: dict[str, Any]) -> dict[str, Any]:
    """`config` for SwanLab: with dotted keys, which get columns, and null as text."""
    return {k: "null" if value is None else value for k, value in flatten(config).items()}


@contextlib.contextmanager
def _captured_output() -> Iterator[None]:
    """Log warnings and errors that SwanLab prints, and nothing else of what it prints."""
    output, is_wanted = io.StringIO(), True
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            yield
    finally:
        for line in _COLOR.sub("", output.getvalue()).splitlines():
            if _BEGINNING.match(line):  # not of the rest of a text that was too long for a line
                is_wanted = not line.startswith("swanlab:")
            if is_wanted and line:
                logger.info("%s", line)
