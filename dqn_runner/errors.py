"""What is told to the user in a line; imports next to nothing, so that it costs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


def in_a_line(error: BaseException) -> str:
    """The text of `error` without its line breaks; it may be empty."""
    return " ".join(str(error).split())


def named(error: BaseException) -> str:
    """The kind of `error` and its text, in a line."""
    return f"{type(error).__name__}: {in_a_line(error)}".removesuffix(": ")


class DQNRunnerError(Exception):
    """Something a user can mend; its text is one line that is shown as it stands."""


class ConfigError(DQNRunnerError):
    """A setting that cannot be used; the text names the key, its value and what is allowed."""


class RunError(DQNRunnerError):
    """A run, or a directory said to hold one, that cannot go on; the text says why."""


class RunFailedError(RunError):
    """Code that a run or an evaluation needs has failed on the way, as a network of the user's."""


class EnvironmentFailedError(RunFailedError):
    """An environment that raised, hung, or returned what no environment may."""


class Stopped(BaseException):
    """Someone asked the process to end (Ctrl-C or SIGTERM).

    `at_safe_point` says whether everything is consistent and can be saved.

    Not an Exception, so that nothing that handles failures takes it for one.
    """

    def __init__(self, signal_number: int, *, at_safe_point: bool = True) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.signal_number, self.at_safe_point = signal_number, at_safe_point


class Pruned(Stopped):
    """A search has no hope in the run: it ended at an evaluation, and nothing is to go on."""


# What somebody at the keyboard or a scheduler wants. Whatever else other people's code raises, an
# exit of the whole program too, is a failure of that code.
WANTED = (KeyboardInterrupt, Stopped)


@contextmanager
def failing_as(kind: type[DQNRunnerError], what: str) -> Iterator[None]:
    """Turn what other people's code raises here into a `kind` that says it in a line after `what`.

    Our own errors come through, for they say more.
    """
    try:
        yield
    except (DQNRunnerError, *WANTED):
        raise
    except BaseException as error:
        raise kind(f"{what}: {named(error)}") from error
