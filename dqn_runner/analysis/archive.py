"""Small copies of runs: their settings, results and evaluations."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Sequence
from pathlib import Path

from dqn_runner.analysis.runs import Run
from dqn_runner.errors import ConfigError
from dqn_runner.runs.directory import RunDirectory, read_yaml, write_whole
from dqn_runner.runs.metrics_file import EVALUATION, MetricsReader, compressed
from dqn_runner.types import Row

KEPT = ("env_steps", "episodes", "time/elapsed_seconds")  # of each row, beside its evaluation


def archive(runs: Sequence[Run], folder: Path) -> None:
    """Copy `runs` into `folder`, where they lie as below the folder that holds all of them.

    A copy holds config.yaml, result.json, and the evaluations of metrics.jsonl, compressed; the
    same run gives the same bytes. Settings of the tracker and the command line are left out: they
    may hold names of people, machines and channels. Raises OSError, and ConfigError where a run
    itself would be written over.
    """
    paths = [run.path.resolve() for run in runs]
    common = os.path.commonpath([path.parent for path in paths])
    copies = [folder / path.relative_to(common) for path in paths]
    for copy in copies:
        if RunDirectory(copy).metrics.exists():
            raise ConfigError(f"--archive={folder}: {copy} is a run itself; choose another folder")
    for run, copy in zip(runs, copies, strict=True):
        _copy(run, copy)


def _copy(run: Run, copy: Path) -> None:
    copy.mkdir(parents=True, exist_ok=True)
    source, target = RunDirectory(run.path), RunDirectory(copy)
    target.start({k: v for k, v in read_yaml(source.config).items() if k != "tracker"})
    if run.result is None:
        target.result.unlink(missing_ok=True)  # of an earlier archive, before the run went on
    else:
        target.finish({k: v for k, v in run.result.items() if k != "command"})
    rows = [row for row in MetricsReader(source.metrics).new_rows() if EVALUATION in row]
    last = run.last_row()  # says how long the run took
    if last and EVALUATION not in last:
        rows.append(last)
    text = "".join(json.dumps(_without_training(row)) + "\n" for row in rows)
    write_whole(compressed(target.metrics), gzip.compress(text.encode(), mtime=0))


def _without_training(row: Row) -> Row:
    return {name: x for name, x in row.items() if name in KEPT or name.startswith("eval/")}
