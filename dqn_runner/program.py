"""What the commands share: how arguments are read, how errors are printed, exit codes."""

from __future__ import annotations

import argparse
import logging
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from dqn_runner.errors import ConfigError, DQNRunnerError, RunFailedError, Stopped


class Parser(argparse.ArgumentParser):
    """A parser that raises ConfigError instead of printing its usage and ending the program."""

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError with argparse's message."""
        raise ConfigError(message)


def path(text: str) -> Path:
    """The path that `text` names; refuses empty text, which would mean the working directory."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return Path(text)


def whole(least: int, most: float = math.inf) -> Callable[[str], int]:
    """A reader of whole numbers from `least` to `most`."""

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
    """Run `body`, and return the exit code of the program.

    0 done, 1 a run failed, 2 bad input, 128 + N after signal N. An error is one line on stderr.
    """
    logging.raiseExceptions = False  # a full disk is reported once, not by the log as well
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
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader has seen enough: dqn-train --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return code
