"""An environment in a process of its own, so that several can be stepped at the same time."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from typing import Any, NamedTuple

import numpy as np

from dqn_runner.envs.episode import EpisodePlayer, failure
from dqn_runner.errors import DQNRunnerError, EnvironmentFailedError, named
from dqn_runner.types import Array, ObsSpec

SECONDS_TO_END = 5.0  # that a process has to close its environment


class _Seen(NamedTuple):
    """What a player shows after a reset or a step."""

    row: Array  # [*obs_shape]
    outcome: tuple[float, bool, bool] | None  # what `EpisodePlayer.step` returns
    steps: int
    goes_on: bool
    action_mask: Array | None


class PlayerProcess:
    """An EpisodePlayer in another process, with the same face; raises what that raises.

    After `begin` the environment is at work, and `step` waits for what comes out. Signals are for
    the process that trains: this one ends when that closes it, or has ended.
    """

    def __init__(self, make_player: Callable[[str], EpisodePlayer], name: str) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy torch's locks
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, make_player, name), name=name, daemon=True
        )
        with _signals_blocked():
            self._process.start()
        theirs.close()
        # At the end of the program, before the process is waited for.
        Finalize(self, self._connection.close, exitpriority=1)
        self._name, self._has_begun = name, False
        self._obs_spec: ObsSpec | None = None
        self.action_mask: Array | None = None
        self.seed = self.steps = 0
        self.goes_on = False

    @property
    def obs_spec(self) -> ObsSpec:
        """Shape and type of the observations."""
        if self._obs_spec is None:
            self._obs_spec = self._received("make")
        return self._obs_spec

    def reset(self, seed: int, row: Array, *, next_life: bool = False) -> None:
        """Start an episode, as `EpisodePlayer.reset` does."""
        assert row.shape == self.obs_spec.shape  # which is the first that it tells
        self.seed, self.steps = seed, 0
        self._send("reset", seed, next_life)
        self._see(self._received("reset"), row)

    def begin(self, action: int) -> None:
        """Begin the step that takes `action`, unless it has begun; `step` must follow."""
        if not self._has_begun:
            self._send("step", action)
            self._has_begun = True

    def step(self, action: int, row: Array) -> tuple[float, bool, bool]:
        """Take `action`, as `EpisodePlayer.step` does; if the step has begun, wait for its end."""
        self.begin(action)
        self._has_begun = False
        seen: _Seen = self._received("step")
        self._see(seen, row)
        assert seen.outcome is not None
        return seen.outcome

    def failure(self, what: str) -> EnvironmentFailedError:
        """The error that says `what` went wrong at the current step."""
        return failure(self._name, self.seed, self.steps, what)

    def close(self) -> None:
        """Close the environment and end its process."""
        self._connection.close()
        self._process.join(SECONDS_TO_END)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()

    def _see(self, seen: _Seen, row: Array) -> None:
        row[:] = seen.row
        self.steps, self.goes_on, self.action_mask = seen.steps, seen.goes_on, seen.action_mask

    def _send(self, *request: Any) -> None:
        try:
            self._connection.send(request)
        except OSError:  # it has ended; what it wrote before, or that it ended, is read next
            return

    def _received(self, what: str) -> Any:
        try:
            answer = self._connection.recv()
        except (EOFError, OSError):
            self._process.join(SECONDS_TO_END)
            ended = f"its process has ended, with exit code {self._process.exitcode}"
            raise self.failure(f"{what}: {ended}") from None
        if isinstance(answer, DQNRunnerError):
            raise answer
        return answer


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """A process that is started here never sees Ctrl-C, or another signal to stop."""
    resource_tracker.ensure_running()  # which would unblock them when it is started
    former = signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    )
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _serve(connection: Connection, make_player: Callable[[str], EpisodePlayer], name: str) -> None:
    """Make a player and do what is asked for, until the other end is closed."""
    try:
        player = make_player(name)
    except BaseException as error:
        connection.send(_failed(error))
        return
    row: Array = np.zeros(player.obs_spec.shape, player.obs_spec.dtype)

    def answer(method: str, *arguments: Any) -> _Seen:
        outcome = None
        if method == "reset":
            seed, next_life = arguments
            player.reset(seed, row, next_life=next_life)
        else:
            (action,) = arguments
            outcome = player.step(action, row)
        return _Seen(row, outcome, player.steps, player.goes_on, player.action_mask)

    try:
        connection.send(player.obs_spec)
        while True:
            request = connection.recv()
            try:
                seen: Any = answer(*request)
            except BaseException as error:
                seen = _failed(error)
            connection.send(seen)
    except (EOFError, OSError):  # the other end is closed
        player.close()


def _failed(error: BaseException) -> DQNRunnerError:
    return error if isinstance(error, DQNRunnerError) else EnvironmentFailedError(named(error))
