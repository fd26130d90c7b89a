"""Errors that the user sees as one line. This module imports next to nothing: it loads fast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


def in_a_line(error: BaseException) -> str:
    """The text of `error` without its line breaks; it may be empty."""
    return " ".join(str(error).split())


def named(error: BaseException) -> str:
    """The class of `error` and its text, in one line."""
    return f"{type(error).__name__}: {in_a_line(error)}".removesuffix(": ")


class DQNRunnerError(Exception):
    """Something the user can fix; its text is one line, which is shown unchanged."""


class ConfigError(DQNRunnerError):
    """A setting cannot be used; the text names the key, its value and what is allowed."""


class RunError(DQNRunnerError):
    """A run cannot go on, or a directory holds no run; the text says why."""


class RunFailedError(RunError):
    """Code that a run or an evaluation calls has failed, such as the user's own network."""


class EnvironmentFailedError(RunFailedError):
    """An environment raised, took too long, or returned something invalid."""


class Stopped(BaseException):
    """Someone asked the process to end (Ctrl-C or SIGTERM).

    `at_safe_point` says whether the run's state is consistent, so that it can be saved.

    It is no Exception, so that code that handles failures does not take it for one.
    """

    def __init__(self, signal_number: int, *, at_safe_point: bool = True) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.signal_number, self.at_safe_point = signal_number, at_safe_point


class Pruned(Stopped):
    """A search ended the run at an evaluation, because its results are too low to go on."""


# The user or a scheduler asked for these. Anything else that other people's code raises is a
# failure of that code, and so is sys.exit().
WANTED = (KeyboardInterrupt, Stopped)


@contextmanager
def failing_as(kind: type[DQNRunnerError], what: str) -> Iterator[None]:
    """Turn an exception of other people's code into a `kind` with one line that begins with `what`.

    Our own errors pass unchanged, because they say more.
    """
    try:
        yield
    except (DQNRunnerError, *WANTED):
        raise
    except BaseException as error:
        raise kind(f"{what}: {named(error)}") from error
