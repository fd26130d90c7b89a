"""A comparison as text: tables for a terminal, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich import box
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Column, Table

from dqn_runner.analysis.comparison import Comparison, Ranking
from dqn_runner.analysis.groups import RETURNS
from dqn_runner.analysis.runs import Floats, load_runs
from dqn_runner.analysis.statistics import (
    AGGREGATES,
    ENOUGH_SEEDS,
    median_steps,
    with_interval,
)
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.runs.metrics_file import is_number

NARROWEST_NAME = 20
WIDEST = 10_000  # of a table in a file or a pipe, whose lines are never broken
# What a comparison is in a line of Python's own, so that it fits on a screen.
MOST_LINES = 20
LONGEST_NAME = 60


class Cell(NamedTuple):
    """What a table shows in one place, and the number by which it is sorted, if not by its text."""

    text: str
    number: float | None = None


class Content(NamedTuple):
    """A table, before it is drawn.

    Its first `names` columns hold names of groups. On a terminal its first `merged` columns are
    empty where the name is that of the row above.
    """

    title: str
    headers: tuple[str, ...]
    rows: list[list[Cell]]
    names: int = 1
    merged: int = 0


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
    console = Console(file=io.StringIO(), width=WIDEST, color_system=None, force_jupyter=False)
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
            "median_env_steps_to_threshold": median_steps(statistics.steps_to_threshold),
            "held_threshold": int(np.isfinite(statistics.steps_to_hold).sum()),
            "median_env_steps_to_hold": median_steps(statistics.steps_to_hold),
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
            name = escape(heading(ranking))
            parts.append(f"### {name}" if style is box.MARKDOWN else f"[bold]{name}[/bold]")
        parts += [_drawn(table, ranking, style) for table in tables(ranking)]
    parts += map(escape, [*legend(comparison), *comparison.remarks])
    separated = [piece for part in parts for piece in (part, "")]
    return Group(*separated[:-1])


def heading(ranking: Ranking) -> str:
    """The line above the tables of an environment."""
    if ranking.is_across:
        names = ", ".join(ranking.environments)
        return f"{ranking.name}: groups with normalized scores in each of {names}"
    return ranking.name


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


def tables(ranking: Ranking) -> list[Content]:
    """What is known of the groups of `ranking`, as tables."""
    cost = [] if ranking.is_across else [_cost(ranking)]
    return [_scores(ranking), *cost, *([_improvements(ranking)] if ranking.improvements else [])]


def _scores(ranking: Ranking) -> Content:
    """IQM, mean and median of each metric, with their intervals."""
    amount = "runs" if ranking.is_across else "seeds"
    rows = [
        [
            Cell(group.group.name),
            Cell(str(group.num_scores(metric)), group.num_scores(metric)),
            Cell(metric),
            *(
                Cell(with_interval(e, group.interval_kind(metric), style), e.value)
                for e in estimates.values()
            ),
        ]
        for group in ranking.groups
        for metric, estimates in group.estimates.items()
        for style in [ranking.score_format(metric)]
    ]
    return Content("Scores", ("group", amount, "return", *AGGREGATES), rows, merged=2)


def _cost(ranking: Ranking) -> Content:
    """How many env steps and how much time each group needed."""
    reached = "median env steps to the threshold (seeds that reached it)"
    held = "median env steps until the threshold is held (seeds)"
    rows = [
        [
            Cell(group.group.name),
            *(
                Cell(steps_text(steps), median_steps(steps))
                for steps in (group.steps_to_threshold, group.steps_to_hold)
            ),
            numeric(group.wall_time_seconds, unit=" s"),
            numeric(group.env_steps_per_second),
        ]
        for group in ranking.groups
    ]
    return Content("Cost", ("group", reached, held, "wall time", "env steps/s"), rows)


def _improvements(ranking: Ranking) -> Content:
    """How likely a run of one group scores above a run of another."""
    score = ranking.score_name(ranking.options.metrics[0])
    likely = f"probability that a run of the first has the higher {score}"
    rows = [
        [Cell(above), Cell(below), Cell(with_interval(estimate, "95 %", ".2f"), estimate.value)]
        for above, below, estimate in ranking.improvements
    ]
    headers = ("of this group", "over this one", likely)
    return Content("Probability of improvement", headers, rows, names=2)


def _drawn(content: Content, ranking: Ranking, style: box.Box | None) -> Table:
    on_screen = style is box.SIMPLE_HEAD  # which may have only 80 columns
    names = (_names(header, ranking) for header in content.headers[: content.names])
    columns: list[Column | str] = [*names, *map(escape, content.headers[content.names :])]
    table = Table(*columns, box=style, collapse_padding=on_screen, pad_edge=not on_screen)
    last = None
    for row in content.rows:
        texts = [escape(cell.text) for cell in row]
        if row[0] == last:
            texts[: content.merged] = [""] * content.merged
        table.add_row(*texts)
        last = row[0]
    return table


def _names(header: str, ranking: Ranking) -> Column:
    """A column of group names; long ones are wrapped, never cut."""
    longest = max(len(group.group.name) for group in ranking.groups)
    return Column(header, overflow="fold", min_width=min(longest, NARROWEST_NAME))


def steps_text(steps: Floats) -> str:
    """The median of the env steps [runs] to something, and how many seeds got there."""
    tried = int((~np.isnan(steps)).sum())  # those with evaluations and a threshold
    if tried == 0:
        return "–"
    median = median_steps(steps)
    amount = f"{median:,.0f}" if math.isfinite(median) else "never"
    return f"{amount} ({int(np.isfinite(steps).sum())} of {tried})"


def numeric(value: object, style: str = ",.0f", unit: str = "") -> Cell:
    """A number in the format `style`; a dash for what is not a finite number."""
    if not is_number(value):
        return Cell("–", math.nan)
    return Cell(f"{value:{style}}{unit}", float(value))


def print_results(sweep: Path) -> None:
    """Print a table row for each run of a sweep, finished or not."""
    name_column = Column("run", overflow="fold")
    table = Table(name_column, "final return", "best return", "env steps", "time", box=None)
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
        on_screen = Console().is_terminal  # else rich would fold the names to 80 columns
        Console(width=None if on_screen else WIDEST).print(table)
