"""What commands with options of their own share: one line for an option that cannot be meant."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from dqn_runner.errors import ConfigError


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
