"""dqn-compare's figures and table of the runs on the page, made beside it in another process."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

SECONDS_BETWEEN = 60.0  # while runs go on
COMMAND = "from dqn_runner.compare import main; main()"


class Comparing:
    """Runs dqn-compare on `directory` when its runs have changed, with the lowest priority.

    `folder` holds what the last finished comparison made: figures, and table.txt.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._store = tempfile.TemporaryDirectory(prefix="dqn-dashboard-")
        self.folder, self._next = (Path(self._store.name) / name for name in ("made", "next"))
        self._process: subprocess.Popen[bytes] | None = None
        self._version, self._began = -1, -math.inf

    def look(self, version: int) -> None:
        """Take what is finished, and begin again if `version` is a new one of the runs."""
        if self._process is not None:
            if self._process.poll() is None:
                return
            if self._process.returncode == 0:
                shutil.rmtree(self.folder, ignore_errors=True)
                self._next.rename(self.folder)
            self._process = None
        if version != self._version and time.monotonic() - self._began > SECONDS_BETWEEN:
            self._version, self._began = version, time.monotonic()
            shutil.rmtree(self._next, ignore_errors=True)
            self._next.mkdir(parents=True)
            self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        options = ["--figures", str(self._next), "--output", str(self._next / "table.txt")]
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", COMMAND, str(self._directory), *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the dashboard, which then ends this too
        )
        os.setpriority(os.PRIO_PROCESS, process.pid, 19)  # the page comes first
        return process

    def __enter__(self) -> Comparing:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._store.cleanup()
