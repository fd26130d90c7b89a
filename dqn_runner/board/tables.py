"""The SQLite file of SwanLab's dashboard, written through swanboard's own table models."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dqn_runner.analysis.runs import Status

SWANBOARD_VERSION = "0.1.10b2"

SECTIONS = ("eval", "rollout", "train", "time")
PROJECT = 1  # the only one that swanboard shows


class BoardTables:
    """swanboard's runs, metrics and charts; new rows are collected until `write` is called."""

    def __init__(self, store: Path, project: str) -> None:
        from swanboard.db import connect
        from swanboard.db.models import (
            Chart,
            Display,
            Experiment,
            Namespace,
            Project,
            Source,
            Tag,
        )

        self._database = connect(path=str(store), autocreate=True)
        self._runs, self._metrics, self._charts = Experiment, Tag, Chart
        self._sections, self._places, self._lines = Namespace, Display, Source
        now = datetime.now(UTC).isoformat()
        # `charts=1` says that the charts over all runs exist, so swanboard does not make them.
        Project.insert(
            id=PROJECT,
            name=project,
            charts=1,
            version=SWANBOARD_VERSION,
            create_time=now,
            update_time=now,
        ).execute()
        self._new_runs: dict[int, dict[str, Any]] = {}
        self._statuses: dict[int, dict[str, Any]] = {}
        self._new_rows: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        self._ids: dict[Any, Iterator[int]] = defaultdict(lambda: itertools.count(1))
        self._section_ids: dict[tuple[int | None, str], int] = {}
        self._shared_charts: dict[str, int] = {}
        self._add_sections(None, SECTIONS)

    @staticmethod
    def folder(run: int) -> str:
        """The name of a run's folder in the store."""
        return f"run-{run}"

    def add_run(self, name: str, description: str | None, color: str, started: str) -> int:
        """Add a run, and return its number. Each run needs a different `name`."""
        run = next(self._ids[self._runs])
        self._new_runs[run] = {
            "id": run,
            "project_id": PROJECT,
            "run_id": self.folder(run),
            "name": name,
            "description": description or "",
            "sort": run,
            "light": color,
            "dark": color,
            "version": SWANBOARD_VERSION,
            "create_time": started,
            "update_time": started,
        }
        self._add_sections(run, SECTIONS)
        return run

    def set_status(self, run: int, status: Status, finished: str | None) -> None:
        """Set the status of a run and the time when it ended."""
        numbers = {"finished": self._runs.FINISHED_STATUS, "running": self._runs.RUNNING_STATUS}
        self._statuses[run] = {
            "status": numbers.get(status, self._runs.STOPPED_STATUS),
            "finish_time": finished,
            "update_time": datetime.now(UTC).isoformat(),
        }

    def add_metric(self, run: int, name: str, position: int) -> None:
        """Add the metric at `position` in a run, its chart, and its line in the shared chart."""
        metric = self._add(
            self._metrics,
            experiment_id=run,
            name=name,
            folder=str(position),
            sort=position,
            type="line",
        )
        if name not in self._shared_charts:
            self._shared_charts[name] = self._add_chart(None, name)
        for chart in (self._add_chart(run, name), self._shared_charts[name]):
            self._add(self._lines, tag_id=metric, chart_id=chart, sort=run)

    def write(self) -> None:
        """Write what was added since the last call, in one transaction."""
        with self._database.atomic():
            for row in self._new_runs.values():
                self._runs.insert(row).execute()
            parents_first = (
                self._sections,
                self._metrics,
                self._charts,
                self._places,
                self._lines,
            )
            for table in parents_first:
                self._insert(table, self._new_rows[table])
            for run, values in self._statuses.items():
                self._runs.update(values).where(self._runs.id == run).execute()
        self._new_runs.clear()
        self._new_rows.clear()
        self._statuses.clear()

    def _insert(self, table: Any, rows: list[dict[str, Any]]) -> None:
        """Like `insert_many`, but fast enough for many runs."""
        if not rows:
            return
        now = datetime.now(UTC).isoformat()
        times = {"create_time": now, "update_time": now}
        full = [table._meta.get_default_dict() | times | row for row in rows]
        columns = ", ".join(table._meta.fields[name].column_name for name in full[0])
        values = ", ".join(f":{name}" for name in full[0])
        sql = f"INSERT INTO {table._meta.table_name} ({columns}) VALUES ({values})"
        self._database.cursor().executemany(sql, full)

    def _add_chart(self, run: int | None, name: str) -> int:
        """Add the chart of a metric in one run, or in all runs if `run` is None."""
        project = PROJECT if run is None else None
        chart = self._add(
            self._charts, experiment_id=run, project_id=project, name=name, type="line"
        )
        section = name.split("/", 1)[0]
        self._add_sections(run, (section,))
        number = self._section_ids[run, section]
        self._add(self._places, chart_id=chart, namespace_id=number, sort=chart)
        return chart

    def _add_sections(self, run: int | None, names: tuple[str, ...]) -> None:
        project = PROJECT if run is None else None
        for name in names:
            if (run, name) not in self._section_ids:
                number = next(self._ids[self._sections])
                self._section_ids[run, name] = number
                row = {"experiment_id": run, "project_id": project, "name": name, "sort": number}
                self._new_rows[self._sections].append({"id": number, **row})

    def _add(self, table: Any, **values: Any) -> int:
        number = next(self._ids[table])
        self._new_rows[table].append({"id": number, **values})
        return number
