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
PICTURES = "pictures"
SECTIONS = ("pinned", "eval", "summary", "rollout", "train", "time")  # others follow, pictures last
# What the page calls the states of a chart, and the numbers that it gives their sections.
NORMAL, PINNED, HIDDEN = 0, 1, -1
SECTION_OF = {PINNED: ("pinned", -1), HIDDEN: ("hidden", -2)}


class Charts:
    """The charts of every page, and which of them are pinned or hidden.

    Charts and sections keep the numbers by which the page knows them.
    """

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, str], int] = defaultdict(itertools.count(1).__next__)
        self._statuses: dict[int, int] = {}

    def of_all(self, entries: Sequence[Entry], pictures: Collection[str] = ()) -> Data:
        """The page of all entries: a chart has a line for each entry that has its metric."""
        sources: dict[str, dict[str, int]] = {}
        for entry in entries:
            for name in entry.points:
                sources.setdefault(name, {})[entry.name] = entry.id
        shown = {entry.name: entry.id for entry in entries[:1]}  # pictures are of no run
        return self._page(ALL, sources, dict.fromkeys(pictures, shown))

    def of_one(self, entry: Entry, pictures: Collection[str]) -> Data:
        """The page of one entry; the statistics of a group are drawn in one chart."""
        sources = {name: {name: entry.id} for name in entry.points}
        summary = {name: entry.id for name in entry.points if name.startswith(SUMMARY)}
        if summary:
            sources = {SUMMARY: summary} | {n: s for n, s in sources.items() if n not in summary}
        return self._page(entry.id, sources, {name: {name: entry.id} for name in pictures})

    def set_status(self, chart: int, status: int) -> int:
        """Pin or hide a chart, or neither; returns the number of its page."""
        self._statuses[chart] = status
        return next(page for (page, _), number in self._numbers.items() if number == chart)

    def _page(
        self, page: int, lines: dict[str, dict[str, int]], pictures: dict[str, dict[str, int]]
    ) -> Data:
        charts = [self._chart(page, name, "image", sources) for name, sources in pictures.items()]
        charts += [
            self._chart(page, name, "line", lines[name])
            # The evaluations first, for they are looked for most.
            for name in sorted(lines, key=lambda name: name != EVALUATION)
        ]
        sections: dict[str, list[int]] = {}
        for chart in charts:
            sections.setdefault(self._section(chart)[0], []).append(chart["id"])
        return {
            "charts": charts,
            "namespaces": [
                {
                    "id": dict(SECTION_OF.values()).get(name) or self._numbers[page, f"in {name}"],
                    "name": name,
                    "opened": int(name != "hidden"),
                    "charts": sections[name],
                }
                for name in sorted(sections, key=lambda name: _position(name, page))
            ],
        }

    def _section(self, chart: Data) -> tuple[str, int]:
        own = PICTURES if chart["type"] == "image" else chart["name"].split("/", 1)[0]
        return SECTION_OF.get(chart["status"], (own, 0))

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


def _position(section: str, page: int) -> int:
    """Pictures come first on the page of one entry, and last on that of all, which is for lines."""
    if section == PICTURES:
        return len(SECTIONS) + 1 if page == ALL else 0
    return SECTIONS.index(section) if section in SECTIONS else len(SECTIONS)
