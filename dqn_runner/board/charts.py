"""The list of charts on a page: which there are, in which section, and which runs each draws."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

from dqn_runner.analysis.groups import SUMMARY
from dqn_runner.board.entries import Entry
from dqn_runner.runs.metrics_file import EVALUATION

Data = dict[str, Any]

ALL = 0  # the number of the page of all entries; the page of one entry has the entry's number
IN = " in "  # between a metric and an environment
PICTURES, COMPARISON = "pictures", "comparison"
SECTIONS = ("pinned", PICTURES, "eval", "summary", "rollout", "train", "time", COMPARISON, "hidden")
# What the page calls the states of a chart, and the numbers that it gives their sections.
NORMAL, PINNED, HIDDEN = 0, 1, -1
SECTION_OF = {PINNED: "pinned", HIDDEN: "hidden"}
NUMBERS = {"pinned": -1, "hidden": -2}


class Charts:
    """The charts of every page, and which of them are pinned or hidden.

    Charts and sections keep the numbers by which the page knows them.
    """

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, str], int] = defaultdict(itertools.count(1).__next__)
        self._statuses: dict[int, int] = {}

    def of_all(self, entries: Sequence[Entry], pictures: Collection[str] = ()) -> Data:
        """The page of all entries: a chart has a line for each entry that has its metric."""
        several = len({entry.environment for entry in entries}) > 1
        sources: dict[str, dict[str, int]] = {}
        for entry in entries:
            for metric in entry.points:
                # Returns of different environments have different scales.
                name = f"{metric}{IN}{entry.environment}" if several else metric
                sources.setdefault(name, {})[entry.name] = entry.id
        first = {entry.name: entry.id for entry in entries[:1]}  # the page wants a run
        return self._page(ALL, sources, {}, dict.fromkeys(pictures, first))

    def of_one(self, entry: Entry, pictures: Collection[str], compared: Collection[str]) -> Data:
        """The page of one entry; the statistics of a group are drawn in one chart."""
        sources = {name: {name: entry.id} for name in entry.points}
        summary = {name: entry.id for name in entry.points if name.startswith(SUMMARY)}
        if summary:
            sources = {SUMMARY: summary} | {n: s for n, s in sources.items() if n not in summary}
        own, figures = ({name: {name: entry.id} for name in p} for p in (pictures, compared))
        return self._page(entry.id, sources, own, figures)

    def set_status(self, chart: int, status: int) -> int:
        """Pin or hide a chart, or neither; returns its page. Raises KeyError for no chart."""
        pages = {number: page for (page, _), number in self._numbers.items()}
        page, self._statuses[chart] = pages[chart], status
        return page

    def _page(
        self,
        page: int,
        lines: dict[str, dict[str, int]],
        pictures: dict[str, dict[str, int]],
        compared: dict[str, dict[str, int]],
    ) -> Data:
        placed = [(PICTURES, name, "image", sources) for name, sources in pictures.items()]
        # The evaluations first, for they are looked for most.
        for name in sorted(lines, key=lambda name: metric_of(name) != EVALUATION):
            placed.append((name.split("/", 1)[0], name, "line", lines[name]))
        placed += [(COMPARISON, name, "image", sources) for name, sources in compared.items()]
        charts, sections = [], dict[str, list[int]]()
        for section, name, kind, sources in placed:
            chart = self._chart(page, name, kind, sources)
            charts.append(chart)
            sections.setdefault(SECTION_OF.get(chart["status"], section), []).append(chart["id"])
        return {
            "charts": charts,
            "namespaces": [
                {
                    "id": NUMBERS.get(name) or self._numbers[page, f"section {name}"],
                    "name": name,
                    "opened": int(name != "hidden"),
                    "charts": sections[name],
                }
                for name in sorted(sections, key=_position)
            ],
        }

    def _chart(self, page: int, name: str, kind: str, sources: dict[str, int]) -> Data:
        number = self._numbers[page, f"{kind} {name}"]
        return {
            "id": number,
            "name": name,
            "type": kind,
            "reference": "step",
            "status": self._statuses.get(number, NORMAL),
            "error": {},
            "multi": page == ALL or len(sources) > 1,
            "source": list(sources),
            "source_map": sources,
        }


def with_charts(page: Data) -> list[Data]:
    """The sections of a page with their charts themselves instead of the charts' numbers."""
    charts = {chart["id"]: chart for chart in page["charts"]}
    return [
        {**section, "charts": [charts[number] for number in section["charts"]]}
        for section in page["namespaces"]
    ]


def metric_of(chart: str) -> str:
    """The metric of a chart that may be of one environment alone."""
    return chart.split(IN, 1)[0]


def _position(section: str) -> int:
    return SECTIONS.index(section) if section in SECTIONS else len(SECTIONS)
