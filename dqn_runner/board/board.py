"""What SwanLab's dashboard shows of the runs below a directory, kept up to date in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from dqn_runner.analysis.runs import Run, find_runs, load_run
from dqn_runner.board.copies import RunCopy
from dqn_runner.board.entries import Entry, entries_of_runs, entry_of_group, layout
from dqn_runner.errors import RunError, in_a_line

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
        self._numbers: dict[str, int] = {}
        self._plan = layout([], directory)
        self._of_runs: list[Entry] = []
        self._of_groups: dict[str, Entry] = {}

    def __len__(self) -> int:
        return len(self._of_runs)

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
        changed, listed = set(), len(self._copies)
        for i, (path, copy) in enumerate(list(self._copies.items())):
            tell(f"{i} of {len(self._copies)} runs")
            with self._leaving_out(path):
                if copy.update():
                    changed.add(path)
                if copy.run.status == "unreadable":
                    raise RunError(copy.run.problem)
        if changed or len(self._copies) < listed:
            self._arrange(changed)
            self.version += 1

    @contextlib.contextmanager
    def _leaving_out(self, path: Path) -> Iterator[None]:
        """Leave out a run that cannot be read, whatever is wrong with it, and show the others."""
        try:
            yield
        except Exception as error:
            self._copies.pop(path, None)
            self.left_out[path] = in_a_line(error) or type(error).__name__

    def _arrange(self, changed: set[Path]) -> None:
        copies = {path: copy for path, copy in self._copies.items() if copy.run.config}
        plan = layout([copy.run for copy in copies.values()], self.directory)
        self._of_runs = entries_of_runs(plan, copies, self._number_of)
        # A group's entry stays as it is if neither its runs nor what the others are has changed.
        kept = self._of_groups if plan[1:] == self._plan[1:] else {}
        of_groups = {}
        for group in plan.groups:
            paths = [run.path for run in group.runs]
            number = self._number_of(f"group of {paths[0]}")  # its name changes with the others
            of_groups[group.name] = (
                kept[group.name]
                if group.name in kept and changed.isdisjoint(paths)
                else entry_of_group(group, [copies[path] for path in paths], number, plan)
            )
        self._of_groups, self._plan = of_groups, plan

    def _number_of(self, what: str) -> int:
        """The number by which the page knows a run or a group; always the same."""
        return self._numbers.setdefault(what, len(self._numbers) + 1)

    def _new_runs(self) -> Iterator[Run]:
        try:
            paths = find_runs([self.directory])
        except FileNotFoundError:  # removed; the copies stay
            return
        for path in paths:
            if path in self._copies:
                continue
            with self._leaving_out(path):
                run = load_run(path)
                if run.status == "unreadable":
                    raise RunError(run.problem)
                self.left_out.pop(path, None)
                yield run
