"""What SwanLab's dashboard shows of the runs below a directory, kept up to date in memory."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from dqn_runner.analysis.runs import Run, find_runs, load_run
from dqn_runner.board.copies import RunCopy
from dqn_runner.board.entries import Entry, entries_of_runs, entry_of_group, layout

Show = Literal["runs", "groups", "both"]
SHOWS: tuple[Show, ...] = ("runs", "groups", "both")
MOST_OF_BOTH = 12  # with more runs, only groups are shown unless one asks for runs


class Board:
    """Every run below `directory`, and the statistics of their groups; the runs are only read.

    `show` says which of them the page gets; if None, their number decides. `left_out` says why a
    directory that looks like a run is not shown. `entries` may be read while `update` runs in
    another thread.
    """

    def __init__(self, directory: Path, show: Show | None = None) -> None:
        self.directory, self.show = directory, show
        self.left_out: dict[Path, str] = {}
        self.version = 0  # grows when something has changed
        self._copies: dict[Path, RunCopy] = {}
        self._ids: dict[str, int] = defaultdict(itertools.count(1).__next__)
        self._of_runs: list[Entry] = []
        self._of_groups: dict[str, Entry] = {}

    def __len__(self) -> int:
        return len(self._copies)

    @property
    def damage(self) -> list[str]:
        """The damaged lines of the runs that are shown, which are left out."""
        return [copy.damage for copy in self._copies.values() if copy.damage]

    @property
    def shown(self) -> Show:
        """What is shown now."""
        return self.show or ("both" if len(self) <= MOST_OF_BOTH else "groups")

    @property
    def entries(self) -> list[Entry]:
        """What the page lists and draws, in this order."""
        groups = sorted(self._of_groups.values(), key=Entry.rank)
        if self.shown == "groups":
            return groups
        if self.shown == "runs":
            return self._of_runs
        # The summary of a single run would be the same line again.
        return [entry for entry in groups if entry.columns["seeds"] != 1] + self._of_runs

    def summary(self) -> str:
        """What is shown, in words."""
        runs = f"{len(self)} run" + "s" * (len(self) != 1)
        groups = f"{len(self._of_groups)} group" + "s" * (len(self._of_groups) != 1)
        if self.shown == "groups":
            return f"{groups} of {runs} below {self.directory} (--show both shows each run too)"
        return f"{runs} in {groups} below {self.directory}"

    def update(self, tell: Callable[[str], None] = lambda text: None) -> None:
        """Read what is new since the last call: runs, rows and results.

        `tell` is called with how far it has come: `3 of 82 runs`.
        """
        new = {run.path: RunCopy(run) for run in self._new_runs()}
        self._copies |= new
        changed = set()
        for i, (path, copy) in enumerate(self._copies.items()):
            tell(f"{i} of {len(self._copies)} runs")
            if copy.update():
                changed.add(path)
        if changed:
            self._arrange(changed, is_new=bool(new))
            self.version += 1

    def _arrange(self, changed: set[Path], is_new: bool) -> None:
        copies = {path: copy for path, copy in self._copies.items() if copy.run.config}
        plan = layout([copy.run for copy in copies.values()], self.directory)
        self._of_runs = entries_of_runs(plan, copies, self._ids)
        kept = {} if is_new else self._of_groups
        of_groups = {}
        for group in plan.groups:
            members = [copies[run.path] for run in group.runs]
            is_kept = group.name in kept and changed.isdisjoint(run.path for run in group.runs)
            of_groups[group.name] = (
                kept[group.name]
                if is_kept
                else entry_of_group(group, members, self._ids[f"group {group.name}"], plan)
            )
        self._of_groups = of_groups

    def _new_runs(self) -> Iterator[Run]:
        try:
            paths = find_runs([self.directory])
        except FileNotFoundError:  # removed; the copies stay
            return
        for path in paths:
            if path in self._copies:
                continue
            run = load_run(path)
            if run.status == "unreadable":
                self.left_out[path] = run.problem
            else:
                self.left_out.pop(path, None)
                yield run
