"""Where the numbers of a comparison come from: its runs, their settings, commands and versions.

Settings of the tracker are left out: they may hold addresses, and change no result.
"""

from __future__ import annotations

import math
import os
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dqn_runner.analysis.comparison import Comparison, GroupStatistics, Ranking
from dqn_runner.analysis.groups import value_text
from dqn_runner.analysis.runs import Run
from dqn_runner.analysis.table import Cell, Content, numeric

MISSING = "–"


def runs_of(comparison: Comparison) -> list[Run]:
    """The runs that are compared, sorted by path."""
    runs = (run for group in comparison.groups for run in group.group.runs)
    return sorted(runs, key=lambda run: run.path)


def by_environment(comparison: Comparison) -> list[Ranking]:
    """The rankings of one environment each."""
    return [ranking for ranking in comparison.rankings if not ranking.is_across]


def common_folder(comparison: Comparison) -> Path:
    """The folder that holds all runs; the working directory if their paths have none in common."""
    try:
        return Path(os.path.commonpath([run.path.parent for run in runs_of(comparison)]))
    except ValueError:  # some are absolute, some are not
        return Path()


def within(folder: Path, text: str) -> str:
    """`text` with the paths in it as they are named within `folder`."""
    return re.sub(rf"(?<!\S){re.escape(f'{folder}{os.sep}')}", "", text)


def seeds_table(comparison: Comparison) -> Content:
    """The seeds of each group."""
    rows = []
    for ranking in by_environment(comparison):
        for group in ranking.groups:
            seeds = [run.config.get("seed") for run in group.group.runs]
            amount = Cell(str(len(seeds)), len(seeds))
            rows.append([Cell(ranking.name), Cell(group.group.name), amount, Cell(ranges(seeds))])
    return _shown(Content("Seeds", ("environment", "group", "runs", "seeds"), rows))


def ranges(seeds: Sequence[object]) -> str:
    """Seeds as a person writes them: `0 to 4, 7` for 0, 1, 2, 3, 4 and 7."""
    parts: list[list[int]] = []
    for seed in sorted({seed for seed in seeds if isinstance(seed, int)}):
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    texts = (f"{p[0]} to {p[-1]}" if len(p) > 2 else ", ".join(map(str, p)) for p in parts)
    return ", ".join(texts) or MISSING


def runs_table(comparison: Comparison) -> Content:
    """What each run reached."""
    folder = common_folder(comparison)
    rows = [
        [Cell(within(folder, str(run.path))), Cell(ranking.name), *_reached(ranking, group, i)]
        for ranking in by_environment(comparison)
        for group in ranking.groups
        for i, run in enumerate(group.group.runs)
    ]
    metrics = comparison.options.metrics
    headers = ("run", "environment", "group", "seed", "status", *metrics, "env steps", "wall time")
    return _shown(Content("Runs", headers, sorted(rows, key=lambda row: row[0].text)))


def _shown(content: Content) -> Content:
    """`content` without its column of environments, if there is only one environment."""
    column = content.headers.index("environment")
    if len({row[column].text for row in content.rows}) > 1:
        return content
    rows = [[*row[:column], *row[column + 1 :]] for row in content.rows]
    headers = tuple(header for header in content.headers if header != "environment")
    return content._replace(headers=headers, rows=rows)


def _reached(ranking: Ranking, group: GroupStatistics, i: int) -> list[Cell]:
    """Group, seed, state, scores, env steps and time of the group's run `i`."""
    run = group.group.runs[i]
    scores = {metric: float(tasks[0][i]) for metric, tasks in group.scores.items()}
    if run.result:
        steps, seconds = run.result["env_steps"], run.result["wall_time_seconds"]
    else:
        last = run.last_row()
        steps, seconds = last.get("env_steps"), last.get("time/elapsed_seconds")
    return [
        Cell(group.group.name),
        Cell(value_text(run, "seed"), numeric(run.config.get("seed")).number),
        Cell(run.status),
        *(numeric(score, ranking.score_format(metric)) for metric, score in scores.items()),
        numeric(steps),
        numeric(seconds, unit=" s"),
    ]


def differing_settings(comparison: Comparison) -> Content:
    """The settings in which runs differ; those that make groups come first."""
    grouping = {key for group in comparison.groups for key in group.group.settings}
    values = {key: texts for key, texts in _settings(comparison).items() if len(set(texts)) > 1}
    keys = sorted(values, key=lambda key: (key not in grouping, key))
    rows = [
        [Cell(key), Cell(_counted(values[key])), Cell("yes" if key in grouping else "no")]
        for key in keys
    ]
    return Content("Settings that differ", ("setting", "values", "makes groups"), rows)


def shared_settings(comparison: Comparison) -> Content:
    """The settings that all runs have in common."""
    values = sorted(_settings(comparison).items())
    rows = [[Cell(key), Cell(texts[0])] for key, texts in values if len(set(texts)) == 1]
    return Content("Settings that all runs share", ("setting", "value"), rows)


def _settings(comparison: Comparison) -> dict[str, list[str]]:
    """The value of each setting in each run, but for seeds, which have their own table."""
    runs = runs_of(comparison)
    keys = {key for run in runs for key in run.config}
    return {
        key: [value_text(run, key) if key in run.config else "(not set)" for run in runs]
        for key in keys
        if key.partition(".")[0] not in ("seed", "tracker")
    }


def _counted(texts: Sequence[str]) -> str:
    """Each text with the number of runs that have it, a line each; if all are equal, the text."""
    counts = Counter(texts)
    if len(counts) == 1:
        return texts[0]
    lines = sorted(counts, key=_order)
    return "\n".join(f"{text} ({number_of_runs(counts[text])})" for text in lines)


def _order(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return math.inf, text


def number_of_runs(number: int) -> str:
    """`1 run`, `2 runs`."""
    return f"{number:,} run{'s' * (number != 1)}"


def commands(comparison: Comparison) -> Content:
    """The commands that made the runs; those of a sweep have one."""
    texts = [_command(run) for run in runs_of(comparison)]
    rows = [[Cell(text), Cell(str(n), n)] for text, n in Counter(texts).most_common()]
    return Content("Commands", ("command", "runs"), rows)


def _command(run: Run) -> str:
    command = (run.result or {}).get("command")
    if not isinstance(command, str):
        return "(not known)" if run.result else "(not known before a run has finished)"
    try:
        words = shlex.split(command)
    except ValueError:  # not written by dqn-train
        words = command.split()
    return shlex.join(word for word in words if not word.lstrip("+~").startswith("tracker"))


def versions(comparison: Comparison) -> Content:
    """The versions and git commits with which the finished runs were made."""
    runs = [run.result for run in runs_of(comparison) if run.result is not None]
    found = [result.get("versions") for result in runs]
    known = [packages if isinstance(packages, dict) else {} for packages in found]
    names = dict.fromkeys(name for packages in known for name in packages)
    used = {name: [str(packages.get(name, MISSING)) for packages in known] for name in names}
    if any("git_commit" in result for result in runs):
        used["git commit"] = [str(result.get("git_commit", MISSING)) for result in runs]
    rows = [
        [Cell(name), Cell(_counted(texts)), Cell("yes" if len(set(texts)) > 1 else "no")]
        for name, texts in used.items()
    ]
    return Content("Versions", ("package", "version", "differs between runs"), rows)
