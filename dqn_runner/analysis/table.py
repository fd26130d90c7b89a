"""The table of results at the end of a sweep."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dqn_runner.run_directory import RunDirectory


def print_results(sweep: Path) -> None:
    """Print a row for each run directory in `sweep`, finished or not."""
    table = Table("run", "final return", "best return", "env steps", "time", box=None)
    for path in sorted(config.parent for config in sweep.glob("*/.hydra")):
        result = RunDirectory(path).read_result()
        if result is None:
            table.add_row(escape(path.name), "not finished", "", "", "")
            continue
        scores = (f"{result[k]['mean']:.1f} ± {result[k]['std']:.1f}" for k in ("final", "best"))
        seconds = result["wall_time_seconds"]
        table.add_row(escape(path.name), *scores, f"{result['env_steps']:,}", f"{seconds:.0f} s")
    console = Console()
    # rich cuts a table to 80 columns where it cannot ask a terminal.
    console.print(table, width=None if console.is_terminal else 200)
