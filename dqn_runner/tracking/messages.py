"""What people are told about a run or a sweep that has ended: a headline, and the results."""

from __future__ import annotations

import functools
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dqn_runner.analysis.groups import RETURNS, differing_keys, environment
from dqn_runner.analysis.runs import Run
from dqn_runner.runs.directory import RunDirectory

MOST_FAILURES = 5  # that are named
LONGEST_LINE = 300
ROOM_FOR_MARKS = 50  # bytes for what is said of lines that are left out, and for the fence


class Message(NamedTuple):
    """A headline, and lines from which the last are left out where there is no room."""

    headline: str
    lines: list[str]

    def cut(self, most_bytes: int, escapes: Mapping[str, str]) -> str:
        """The text in at most so many bytes of UTF-8; with `escapes`, marked as preformatted."""
        fence = ["```"] if escapes else []
        room = most_bytes - ROOM_FOR_MARKS
        kept: list[str] = []
        lines = [line[:LONGEST_LINE] for line in (self.headline, *self.lines)]
        for line in lines:
            shown = functools.reduce(lambda text, item: text.replace(*item), escapes.items(), line)
            room -= len(shown.encode()) + 1
            if room < 0:
                left_out = len(lines) - len(kept)
                kept.append(f"… {left_out} more line{'s' * (left_out != 1)}")
                break
            kept.append(shown)
        return "\n".join([*fence, *kept, *fence])


def about_run(path: Path, interruption: str) -> Message:
    """How the run in `path` has ended, with its returns."""
    run_dir = RunDirectory(path)
    result = run_dir.read_result() if run_dir.has_finished() else None
    end = run_dir.read_end()
    if interruption:
        state = f"{interruption}; dqn-train resume={shlex.quote(str(path))} goes on"
    elif result:
        state = f"finished, final return {_return(result['final'])}"
    else:
        state = f"{end.status}: {end.reason}" if end else "failed"
    return Message(f"dqn-train: {path}: {state}", _results(result) if result else [])


def _results(result: dict[str, Any]) -> list[str]:
    lines = [f"{name:5} return  {_return(result[name])}" for name in RETURNS]
    seconds = result["wall_time_seconds"]
    return [*lines, f"env steps     {result['env_steps']:,}", f"time          {seconds:,.0f} s"]


def _return(scores: dict[str, float]) -> str:
    return f"{scores['mean']:,.1f} ± {scores['std']:,.1f}"


def about_sweep(directory: Path, jobs: Sequence[Path], interruption: str) -> Message:
    """How many of a sweep's jobs have finished, what failed, and dqn-compare's groups."""
    ends = {path: RunDirectory(path).read_end() for path in jobs}
    finished = [path for path in jobs if RunDirectory(path).has_finished()]
    states = Counter(end.status for path, end in ends.items() if end and path not in finished)
    counts = [f"{len(finished)} of {len(jobs)} runs finished"]
    counts += [f"{number} {status}" for status, number in states.items()]
    state = "; ".join([", ".join(counts), *([interruption] if interruption else [])])
    failures = [f"{p.name}: {e.reason}" for p, e in ends.items() if e and e.status == "failed"]
    lines = [*failures[:MOST_FAILURES], *_groups(directory)]
    return Message(f"dqn-train: sweep {directory}: {state}", lines)


def _groups(directory: Path) -> list[str]:
    """A line for each group of the finished runs below `directory`, the best first."""
    from dqn_runner.analysis import Options, compare, load_runs
    from dqn_runner.analysis.statistics import with_interval
    from dqn_runner.analysis.table import legend

    runs = [run for run in load_runs([directory]) if run.config]
    by_environment: dict[str, list[Run]] = {}
    for run in runs:
        by_environment.setdefault(environment(run), []).append(run)
    # Unfinished runs have no final return, but the names of the groups tell them from the others.
    keys = {key: None for members in by_environment.values() for key in differing_keys(members)}
    finished = [run for run in runs if run.result is not None]
    comparison = compare(finished, Options(metrics=("final",), group_by=tuple(keys)))
    lines = []
    for ranking in comparison.rankings:
        groups = [group for group in ranking.groups if group.num_scores()]
        if not groups:
            continue
        rows = [("group", "final return (IQM)", "seeds")]
        for group in groups:
            estimate, kind = group.estimates["final"]["IQM"], group.interval_kind()
            shown = with_interval(estimate, kind, ranking.score_format("final"))
            rows.append((group.group.name, shown, str(group.num_scores())))
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        named = [ranking.name] if len(comparison.rankings) > 1 else []
        lines += ["", *named]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            lines.append("  ".join(cells).rstrip())
    return [*lines, *(legend(comparison) if lines else [])]
