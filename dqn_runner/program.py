"""What commands with options of their own share: one line for an option that cannot be meant."""

from __future__ import annotations

import argparse
import logging
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from dqn_runner.errors import ConfigError, DQNRunnerError, RunFailedError, Stopped

if TYPE_CHECKING:
    pass


class Parser(argparse.ArgumentParser):
    """A parser that raises ConfigError where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError, which is told in one line."""
        raise ConfigError(message)


def path(text: str) -> Path:
    """A path that was given; an empty one is none, and would be the working directory."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return Path(text)


def whole(least: int, most: float = math.inf) -> Callable[[str], int]:
    """Reads a whole number from `least` to `most`."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            to = f" to {most:,}" if most < math.inf else ""
            raise argparse.ArgumentTypeError(f"{text}: must be a whole number from {least}{to}")
        return number

    return read


def guarded(program: str, body: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Run `body`; turn what users can mend into one line on stderr, and signals into exit codes."""
    logging.raiseExceptions = False  # a full disk is told of once, not by the log as well
    # As `python -P`: the working directory may be a run that somebody sent.
    sys.path[:] = [entry for entry in sys.path if entry]
    try:
        code = body(arguments)
        sys.stdout.flush()
    except DQNRunnerError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 1 if isinstance(error, RunFailedError) else 2
    except Stopped as stop:
        return 128 + stop.signal_number
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # as of `dqn-train --help | head`: who reads it has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return code
