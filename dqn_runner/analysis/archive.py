"""Runs as small copies to keep: what a comparison of returns is made of, and no more."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from dqn_runner.analysis.runs import Run
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.runs.metrics_file import COMPRESSED, EVALUATION, MetricsReader
from dqn_runner.types import Row

KEPT = ("env_steps", "episodes", "time/elapsed_seconds")  # of each row, beside its evaluation


def archive(runs: Sequence[Run], common: Path, folder: Path) -> None:
    """Copy `runs`, which lie below `common`, to the same places below `folder`.

    A copy holds config.yaml, result.json, and the evaluations of metrics.jsonl, compressed; the
    same run gives the same bytes. Raises OSError.
    """
    for run in runs:
        copy = folder / run.path.relative_to(common)
        copy.mkdir(parents=True, exist_ok=True)
        source, target = RunDirectory(run.path), RunDirectory(copy)
        for file, kept in ((source.config, target.config), (source.result, target.result)):
            if file.is_file():
                shutil.copyfile(file, kept)
        rows = list(MetricsReader(source.metrics).new_rows())
        last = {**run.last_row()}
        lines = [json.dumps(_without_training(row)) for row in rows if EVALUATION in row]
        if last and (not rows or EVALUATION not in last):
            lines.append(json.dumps(_without_training(last)))
        text = "".join(line + "\n" for line in lines)
        compressed = gzip.compress(text.encode(), mtime=0)
        target.metrics.with_name(target.metrics.name + COMPRESSED).write_bytes(compressed)


def _without_training(row: Row) -> Row:
    return {name: x for name, x in row.items() if name in KEPT or name.startswith("eval/")}
