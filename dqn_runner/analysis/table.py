"""A comparison as text: tables for a terminal, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Column, Table

from dqn_runner.analysis.comparison import Comparison, GroupStatistics, as_records, median_steps
from dqn_runner.analysis.groups import RETURNS
from dqn_runner.analysis.runs import load_runs
from dqn_runner.analysis.statistics import AGGREGATES, Estimate
from dqn_runner.run_directory import RunDirectory


def as_text(comparison: Comparison, style: str) -> str:
    """The comparison as it is written to a file or a pipe: a table, Markdown, CSV or JSON."""
    records = as_records(comparison)
    if style == "json":
        return json.dumps(
            {
                "groups": _without_nan(records),
                "improvements": [
                    {"above": a, "below": b, **_without_nan([estimate._asdict()])[0]}
                    for a, b, estimate in comparison.improvements
                ],
                "remarks": comparison.remarks,
            },
            indent=2,
            ensure_ascii=False,
        )
    if style == "csv":
        file = io.StringIO()
        writer = csv.DictWriter(file, records[0] if records else ["group"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return file.getvalue().rstrip("\n")
    console = Console(file=io.StringIO(), width=10_000, color_system=None)
    console.print(renderable(comparison, box.MARKDOWN if style == "markdown" else None))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    lines = text.splitlines()
    return "\n".join(line.rstrip() for line in lines)


def _without_nan(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # JSON has no word for them.
    return [
        {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        for record in records
    ]


def renderable(comparison: Comparison, style: box.Box | None = box.SIMPLE_HEAD) -> Group:
    """The comparison for a rich console."""
    parts: list[Any] = [scores_table(comparison, style), cost_table(comparison, style)]
    if comparison.improvements:
        parts.append(improvements_table(comparison, style))
    parts += [escape(remark) for remark in comparison.remarks]
    separated = [piece for part in parts for piece in (part, "")]
    return Group(*separated[:-1])


def scores_table(comparison: Comparison, style: box.Box | None) -> Table:
    """IQM, mean and median of each metric with their intervals."""
    table = Table(_whole("group"), "seeds", "return", *AGGREGATES, box=style)
    for group in comparison.groups:
        for i, (metric, estimates) in enumerate(group.estimates.items()):
            table.add_row(
                escape(group.group.name) if i == 0 else "",
                str(group.num_scores()) if i == 0 else "",
                metric,
                *(interval(estimate) for estimate in estimates.values()),
            )
    return table


def cost_table(comparison: Comparison, style: box.Box | None) -> Table:
    """How much experience and time each group took."""
    reached = "median env steps to the threshold (seeds that reached it)"
    table = Table(_whole("group"), reached, "wall time", "env steps/s", box=style)
    for group in comparison.groups:
        table.add_row(
            escape(group.group.name),
            steps_text(group),
            f"{_number(group.wall_time_seconds)} s",
            _number(group.env_steps_per_second),
        )
    return table


def improvements_table(comparison: Comparison, style: box.Box | None) -> Table:
    """How likely a run of one group beats one of another."""
    metric = comparison.options.metrics[0]
    title = f"probability that a run of the first has the higher {metric} return"
    table = Table(_whole("of this group"), _whole("over this one"), title, box=style)
    for above, below, estimate in comparison.improvements:
        table.add_row(escape(above), escape(below), interval(estimate, ".2f"))
    return table


def _whole(header: str) -> Column:
    """A column whose text is wrapped, never cut."""
    return Column(header, overflow="fold")


def interval(estimate: Estimate, style: str = ",.1f") -> str:
    """`value [low, high]`, without the brackets where there is no interval."""
    if math.isnan(estimate.value):
        return "–"
    if math.isnan(estimate.low):
        return f"{estimate.value:{style}}"
    return escape(f"{estimate.value:{style}} [{estimate.low:{style}}, {estimate.high:{style}}]")


def steps_text(group: GroupStatistics) -> str:
    """The median env steps to the threshold, and how many seeds got there."""
    steps = group.steps_to_threshold
    tried = int((~np.isnan(steps)).sum())  # those with evaluations and a threshold
    if tried == 0:
        return "–"
    median = median_steps(group)
    amount = f"{median:,.0f}" if math.isfinite(median) else "never"
    return f"{amount} ({int(np.isfinite(steps).sum())} of {tried})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "–"


def print_results(sweep: Path) -> None:
    """Print a row for each run of a sweep, finished or not."""
    table = Table("run", "final return", "best return", "env steps", "time", box=None)
    for run in load_runs([sweep]):
        name = escape(run.path.name)
        if run.result is None:
            end = RunDirectory(run.path).read_end()
            state = end.status if end else run.problem or "not finished"
            table.add_row(name, state, "", "", "")
            continue
        scores = (f"{run.result[k]['mean']:.1f} ± {run.result[k]['std']:.1f}" for k in RETURNS)
        seconds = run.result["wall_time_seconds"]
        table.add_row(name, *scores, f"{run.result['env_steps']:,}", f"{seconds:.0f} s")
    if table.row_count:
        console = Console()
        # rich cuts a table to 80 columns where it cannot ask a terminal.
        console.print(table, width=None if console.is_terminal else 200)
