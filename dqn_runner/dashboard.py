"""dqn-dashboard: shows runs in SwanLab's local dashboard, or sends them to SwanLab's cloud."""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from dqn_runner.errors import ConfigError, Stopped
from dqn_runner.program import Parser, guarded, path, whole
from dqn_runner.spec import LONGEST_WAIT

if TYPE_CHECKING:
    from socket import socket

    from rich.console import Console

    from dqn_runner.board.board import Board, Show
    from dqn_runner.board.comparing import Comparing

SECONDS_BETWEEN_UPDATES = 2.0

EPILOG = """examples:
  dqn-dashboard
  dqn-dashboard outputs/sweeps/2026-01-31_12-00-00 --show both
  dqn-dashboard --port 8080 --no-browser
  dqn-dashboard outputs --upload
"""


def main() -> None:
    """The console script; its exit codes are 0, 1 (a failed --upload), 2, 130 and 143."""
    sys.exit(guarded("dqn-dashboard", command_line, sys.argv[1:]))


def parser() -> argparse.ArgumentParser:
    """The arguments of dqn-dashboard."""
    from dqn_runner import __version__

    parser = Parser(
        prog="dqn-dashboard",
        description="Show every run below a directory in SwanLab's local dashboard.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "directory", type=path, nargs="?", default=Path("outputs"), help="default: outputs"
    )
    parser.add_argument("--port", type=whole(0, 65535), default=0, help="default: any free port")
    parser.add_argument(
        "--show",
        choices=["runs", "groups", "both"],
        help="runs, or the IQM of each group of settings over its seeds, or both; the page has "
        "buttons for it too; default: both up to 12 runs, else groups",
    )
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    parser.add_argument(
        "--upload", action="store_true", help="send the runs to SwanLab's cloud instead"
    )
    parser.add_argument(
        "--host", metavar="URL", help="your own server; default: the one you logged in to"
    )
    parser.add_argument(
        "--time-limit",
        type=_seconds,
        default=60.0,
        help="seconds for each run to send; default: 60",
    )
    parser.add_argument("--version", action="version", version=f"dqn-dashboard {__version__}")
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= LONGEST_WAIT:
        raise argparse.ArgumentTypeError(
            f"{text}: must be seconds, greater than 0 and at most {LONGEST_WAIT:,.0f}"
        )
    return seconds


def command_line(arguments: list[str]) -> int:
    """Show or send runs as `arguments` say."""
    options = parser().parse_args(arguments)
    if not options.directory.is_dir():
        raise ConfigError(f"{options.directory}: no such directory")
    if options.upload:
        return send(options.directory, options.host, options.time_limit)
    return show(options.directory, options.port, not options.no_browser, options.show)


def send(directory: Path, host: str | None, time_limit: float) -> int:
    """Send all SwanLab runs below `directory` to the cloud; returns 1 if one failed, else 0."""
    from rich.console import Console

    from dqn_runner.analysis import load_runs
    from dqn_runner.analysis.groups import run_colors
    from dqn_runner.tracking.cloud import upload

    runs = load_runs([directory])
    # The folder of a comparison holds SwanLab runs too, but is no run directory.
    kept = (store.parents[2] for store in directory.rglob("swanlab/run-*/run-*.swanlab"))
    colors = dict.fromkeys(sorted({*kept, *(run.path for run in runs)}), "")
    colors |= {path: own for path, (_, own) in run_colors(runs).items()}
    return upload(colors, host, time_limit, Console(soft_wrap=True))


def show(directory: Path, port: int, with_browser: bool, what: Show | None) -> int:
    """Show the runs below `directory`, and keep them up to date, until a signal comes.

    Raises ConfigError if swanboard is missing or the port is taken.
    """
    from rich.console import Console

    from dqn_runner.swanlab_internals import page

    page.check()
    from dqn_runner.board.comparing import Comparing
    from dqn_runner.board.server import listen

    console = Console(soft_wrap=True, highlight=False)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        listener = listen(port)
    except OSError as error:
        raise ConfigError(f"--port={port}: {error.strerror}") from error
    with listener, Comparing(directory) as comparing:
        board = read(directory, what, console)
        follow(board, comparing, listener, console, with_browser=with_browser)
    return 0


def read(directory: Path, what: Show | None, console: Console) -> Board:
    """The runs below `directory`; prints which of them are left out."""
    from dqn_runner.board.board import Board

    board = Board(directory, what)
    with console.status(f"looking for runs below {directory}") as status:
        board.update(lambda text: status.update(f"reading {text} below {directory}"))
    for run, problem in board.left_out.items():
        text = f"left out {run}: {problem}".encode(errors="replace").decode()
        console.print(text, markup=False)
    return board


def follow(
    board: Board,
    comparing: Comparing,
    listener: socket,
    console: Console,
    *,
    with_browser: bool,
) -> None:
    """Serve `board`, and keep it up to date, until a signal comes."""
    from dqn_runner.board.api import Answers
    from dqn_runner.board.server import serve
    from dqn_runner.runs.stop_signals import StopSignals

    address = "http://{}:{}".format(*listener.getsockname())
    say_damage = damage_printer(board, console)

    def announce() -> None:
        say_damage()
        console.print(f"{address} shows {board.summary()}; Ctrl-C ends it", markup=False)
        if with_browser:
            open_browser(address)

    def update() -> None:
        board.update()
        say_damage()
        comparing.look(board.version)

    with StopSignals() as signals:  # a library could catch an exception, but not this
        serve(
            Answers(board, comparing.folder).routes(),
            listener,
            update,
            SECONDS_BETWEEN_UPDATES,
            ready=announce,
            check_stop=signals.check,
        )


def damage_printer(board: Board, console: Console) -> Callable[[], None]:
    """A function that prints each damaged line of the runs once."""
    said: set[str] = set()

    def say_damage() -> None:
        for line in board.damage:
            if line not in said:
                console.print(f"left out {line}", markup=False)
            said.add(line)

    return say_damage


def open_browser(address: str) -> None:
    """Open a browser window if there is a screen; a text browser would take over the terminal."""
    import webbrowser

    has_screen = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    if has_screen:
        webbrowser.open(address)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)
