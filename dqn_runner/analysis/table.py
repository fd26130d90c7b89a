"""A comparison as text: tables for a terminal, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Column, Table

from dqn_runner.analysis.comparison import Comparison, GroupStatistics, Ranking
from dqn_runner.analysis.groups import RETURNS
from dqn_runner.analysis.runs import load_runs
from dqn_runner.analysis.statistics import AGGREGATES, ENOUGH_SEEDS, Estimate, Kind
from dqn_runner.runs.directory import RunDirectory

NARROWEST_NAME = 20
# What a comparison is in a line of Python's own, so that it fits on a screen.
MOST_LINES = 20
LONGEST_NAME = 60


def as_text(comparison: Comparison, style: str) -> str:
    """The comparison as it is written to a file or a pipe: a table, Markdown, CSV or JSON."""
    records = as_records(comparison)
    if style == "json":
        return json.dumps(
            {
                "groups": _without_nan(records),
                "improvements": _without_nan(improvement_records(comparison)),
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
    # In a notebook rich would show the table itself and leave the file empty.
    console = Console(file=io.StringIO(), width=10_000, color_system=None, force_jupyter=False)
    console.print(renderable(comparison, box.MARKDOWN if style == "markdown" else None))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    lines = text.splitlines()
    return "\n".join(line.rstrip() for line in lines)


def in_brief(rankings: Sequence[Ranking], remarks: Sequence[str] = ()) -> str:
    """The groups of each ranking and the IQM of their first metric, as at most 20 lines."""
    each = max(1, (MOST_LINES - 1) // max(len(rankings), 1) - 2)
    lines = [line for ranking in rankings for line in _best(ranking, each)]
    lines += [f"remarks: {len(remarks)}"] if remarks else []
    return "\n".join(lines if len(lines) <= MOST_LINES else [*lines[: MOST_LINES - 1], "…"])


def _best(ranking: Ranking, most: int) -> list[str]:
    metric, more = ranking.options.metrics[0], len(ranking.groups) - most
    shown = ranking.groups[:most]
    names = [_without_middle(group.group.name) for group in shown]
    style = ranking.score_format(metric)
    return [
        f"{ranking.name}: IQM of {ranking.score_name(metric)}",
        *(
            f"  {name:{max(map(len, names))}}  n={group.num_scores()}  "
            + with_interval(group.estimates[metric]["IQM"], group.interval_kind(), style)
            for name, group in zip(names, shown, strict=True)
        ),
        *([f"  and {more} more group{'s' * (more > 1)}"] if more > 0 else []),
    ]


def _without_middle(name: str) -> str:
    # Long names begin alike, and often differ at their ends.
    half = (LONGEST_NAME - 3) // 2
    return name if len(name) <= LONGEST_NAME else f"{name[:half]} … {name[-half:]}"


def as_records(comparison: Comparison) -> list[dict[str, Any]]:
    """A flat record for each environment, group and metric, for files and data frames.

    `interval` says what `_low` and `_high` are: `95 %`, `min-max` (fewer than 5 seeds), or `none`.
    """
    return [
        {
            "group": statistics.group.name,
            "environment": ranking.name,
            "runs": statistics.num_scores(metric),
            "metric": metric,
            **{
                f"{name}{suffix}": number
                for name, estimate in estimates.items()
                for suffix, number in zip(("", "_low", "_high"), estimate, strict=True)
            },
            "interval": statistics.interval_kind(metric),
            "reached_threshold": int(np.isfinite(statistics.steps_to_threshold).sum()),
            "median_env_steps_to_threshold": statistics.median_steps(),
            "wall_time_seconds": statistics.wall_time_seconds,
            "env_steps_per_second": statistics.env_steps_per_second,
        }
        for ranking in comparison.rankings
        for statistics in ranking.groups
        for metric, estimates in statistics.estimates.items()
    ]


def improvement_records(comparison: Comparison) -> list[dict[str, Any]]:
    """A flat record for each pair of groups that is compared."""
    return [
        {
            "environment": ranking.name,
            "above": above,
            "below": below,
            **estimate._asdict(),
            "interval": "none" if math.isnan(estimate.low) else "95 %",
        }
        for ranking in comparison.rankings
        for above, below, estimate in ranking.improvements
    ]


def _without_nan(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # JSON has neither NaN nor infinity.
    return [
        {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        for record in records
    ]


def renderable(comparison: Comparison, style: box.Box | None = box.SIMPLE_HEAD) -> Group:
    """The comparison for a rich console: the tables of each environment, then all remarks."""
    parts: list[Any] = []
    for ranking in comparison.rankings:
        if len(comparison.rankings) > 1:
            parts.append(heading(ranking, style))
        parts.append(scores_table(ranking, style))
        if not ranking.is_across:
            parts.append(cost_table(ranking, style))
        if ranking.improvements:
            parts.append(improvements_table(ranking, style))
    parts += map(escape, [*legend(comparison), *comparison.remarks])
    separated = [piece for part in parts for piece in (part, "")]
    return Group(*separated[:-1])


def heading(ranking: Ranking, style: box.Box | None) -> str:
    """The line above the tables of an environment."""
    name = escape(ranking.name)
    if ranking.is_across:
        name += (
            f": groups with normalized scores in each of {escape(', '.join(ranking.environments))}"
        )
    return f"### {name}" if style is box.MARKDOWN else f"[bold]{name}[/bold]"


def legend(comparison: Comparison) -> list[str]:
    """A line that says what the intervals beside the numbers are; empty without intervals."""
    kinds = {
        group.interval_kind(metric)
        for ranking in comparison.rankings
        for group in ranking.groups
        for metric in group.estimates
    }
    meanings = {
        "95 %": "In brackets: 95 % interval.",
        "min-max": f"In parentheses: lowest and highest seed; fewer than {ENOUGH_SEEDS} give no "
        "interval.",
    }
    line = " ".join(meaning for kind, meaning in meanings.items() if kind in kinds)
    return [line] if line else []


def scores_table(ranking: Ranking, style: box.Box | None) -> Table:
    """IQM, mean and median of each metric, with their intervals."""
    amount = "runs" if ranking.is_across else "seeds"
    table = _table(style, _names("group", ranking), amount, "return", *AGGREGATES)
    for group in ranking.groups:
        for i, (metric, estimates) in enumerate(group.estimates.items()):
            kind = group.interval_kind(metric)
            table.add_row(
                escape(group.group.name) if i == 0 else "",
                str(group.num_scores()) if i == 0 else "",
                metric,
                *(
                    escape(with_interval(e, kind, ranking.score_format(metric)))
                    for e in estimates.values()
                ),
            )
    return table


def cost_table(ranking: Ranking, style: box.Box | None) -> Table:
    """How many env steps and how much time each group needed."""
    reached = "median env steps to the threshold (seeds that reached it)"
    table = _table(style, _names("group", ranking), reached, "wall time", "env steps/s")
    for group in ranking.groups:
        table.add_row(
            escape(group.group.name),
            steps_text(group),
            f"{_number(group.wall_time_seconds)} s",
            _number(group.env_steps_per_second),
        )
    return table


def improvements_table(ranking: Ranking, style: box.Box | None) -> Table:
    """How likely a run of one group scores above a run of another."""
    metric = ranking.options.metrics[0]
    title = f"probability that a run of the first has the higher {ranking.score_name(metric)}"
    groups = _names("of this group", ranking), _names("over this one", ranking)
    table = _table(style, *groups, title)
    for above, below, estimate in ranking.improvements:
        table.add_row(escape(above), escape(below), escape(with_interval(estimate, "95 %", ".2f")))
    return table


def _table(style: box.Box | None, *columns: Column | str) -> Table:
    on_screen = style is box.SIMPLE_HEAD  # which may have only 80 columns
    return Table(*columns, box=style, collapse_padding=on_screen, pad_edge=not on_screen)


def _names(header: str, ranking: Ranking) -> Column:
    """A column of group names; long ones are wrapped, never cut."""
    longest = max(len(group.group.name) for group in ranking.groups)
    return Column(header, overflow="fold", min_width=min(longest, NARROWEST_NAME))


def with_interval(estimate: Estimate, kind: Kind, style: str) -> str:
    """`value [low, high]`, for few seeds `value (lowest to highest)`, for one seed `value`."""
    value, low, high = (f"{number:{style}}" for number in estimate)
    if math.isnan(estimate.value):
        return "–"
    if math.isnan(estimate.low):
        return value
    return f"{value} ({low} to {high})" if kind == "min-max" else f"{value} [{low}, {high}]"


def steps_text(group: GroupStatistics) -> str:
    """The median env steps to the threshold, and how many seeds reached it."""
    steps = group.steps_to_threshold
    tried = int((~np.isnan(steps)).sum())  # those with evaluations and a threshold
    if tried == 0:
        return "–"
    median = group.median_steps()
    amount = f"{median:,.0f}" if math.isfinite(median) else "never"
    return f"{amount} ({int(np.isfinite(steps).sum())} of {tried})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "–"


def print_results(sweep: Path) -> None:
    """Print a table row for each run of a sweep, finished or not."""
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
        # Without a terminal rich would cut the table to 80 columns.
        console.print(table, width=None if console.is_terminal else 200)
