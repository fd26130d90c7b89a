"""An environment in a process of its own, so that several can be stepped at the same time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from typing import Any, NamedTuple

import numpy as np

from dqn_runner.envs.episode import EpisodePlayer, failure
from dqn_runner.errors import ConfigError, DQNRunnerError, EnvironmentFailedError, named
from dqn_runner.types import Array, ObsSpec

SECONDS_TO_END = 5.0  # that a process has to close its environment
SECONDS_BETWEEN_LOOKS = 1.0  # of a process at the one that started it
_COMMAND = "from dqn_runner.envs.processes import serve; serve()"


class _Seen(NamedTuple):
    """What a player shows after a reset or a step."""

    row: Array  # [*obs_shape]
    outcome: tuple[float, bool, bool] | None  # what `EpisodePlayer.step` returns
    steps: int
    goes_on: bool
    action_mask: Array | None


class PlayerProcess:
    """An EpisodePlayer in another process, with the same face; raises what that raises.

    After `begin` the environment is at work, and `step` waits for what comes out. The process is in
    a session of its own, so that Ctrl-C is for the one that trains; it ends with that one, however
    that ends.
    """

    def __init__(self, make_player: Callable[[str], EpisodePlayer], name: str) -> None:
        """Raises ConfigError on Windows, where a process is not given a connection like this."""
        if os.name == "nt":
            raise ConfigError("env.vectorization=processes: not on Windows; use sync")
        self._connection, theirs = Pipe()
        with theirs:
            # -P: the working directory may be a run that somebody sent.
            command = [sys.executable, "-P", "-c", _COMMAND, str(theirs.fileno())]
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._end = weakref.finalize(self, _end, self._connection, self._process)
        self._name, self._begun = name, 0  # the action that it is at work on, counted from 1
        self._obs_spec: ObsSpec | None = None
        self.action_mask: Array | None = None
        self.seed = self.steps = 0
        self.goes_on = False
        self._send(sys.path)
        self._send((make_player, name))

    @property
    def obs_spec(self) -> ObsSpec:
        """Shape and type of the observations."""
        if self._obs_spec is None:
            self._obs_spec = self._received(lambda ended: EnvironmentFailedError(
                f"{self._name} could not be made: {ended}"
            ))  # fmt: skip
        return self._obs_spec

    def reset(self, seed: int, row: Array, *, next_life: bool = False) -> None:
        """Start an episode, as `EpisodePlayer.reset` does."""
        spec = self.obs_spec  # which is the first that it tells
        assert row.shape == spec.shape
        self.seed, self.steps = seed, 0
        self._send(("reset", seed, next_life))
        self._see(self._received(lambda ended: self.failure(f"reset: {ended}")), row)

    def begin(self, action: int) -> None:
        """Begin the step that takes `action`, unless it has begun; `step` must follow."""
        assert self._begun in {0, action + 1}
        if not self._begun:
            self._send(("step", action))
            self._begun = action + 1

    def step(self, action: int, row: Array) -> tuple[float, bool, bool]:
        """Take `action`, as `EpisodePlayer.step` does; if the step has begun, wait for its end."""
        self.begin(action)
        self._begun = 0
        seen: _Seen = self._received(lambda ended: self.failure(f"step: {ended}"))
        self._see(seen, row)
        assert seen.outcome is not None
        return seen.outcome

    def failure(self, what: str) -> EnvironmentFailedError:
        """The error that says `what` went wrong at the current step."""
        return failure(self._name, self.seed, self.steps, what)

    def let_go(self) -> None:
        """Let the process close its environment and end; `close` waits until it has."""
        self._connection.close()

    def close(self) -> None:
        """Close the environment and end its process, which is killed if that takes long."""
        self._end()

    def _see(self, seen: _Seen, row: Array) -> None:
        row[:] = seen.row
        self.steps, self.goes_on, self.action_mask = seen.steps, seen.goes_on, seen.action_mask

    def _send(self, message: Any) -> None:
        try:
            self._connection.send(message)
        except OSError:  # it has ended; what it wrote before, or that it ended, is read next
            return

    def _received(self, failed: Callable[[str], EnvironmentFailedError]) -> Any:
        """What it answers; raises what it failed with, or `failed` with how the process ended."""
        try:
            answer = self._connection.recv()
        except (EOFError, OSError):
            self.close()
            code = self._process.returncode
            raise failed(f"its process has ended, with exit code {code}") from None
        if isinstance(answer, DQNRunnerError):
            raise answer
        return answer


def _end(connection: Connection, process: subprocess.Popen[bytes]) -> None:
    """Let a process end, which it does when nobody listens; kill it if that takes long."""
    connection.close()
    try:
        process.wait(SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def serve() -> None:
    """What the process does: make a player, and reset and step it until nobody listens."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        # They are for the process that trains. A program that is started here has them again.
        signal.signal(getattr(signal, name), lambda *_: None)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    with Connection(int(sys.argv[1])) as connection:
        sys.path[:] = connection.recv()
        try:
            make_player, name = connection.recv()
            player = make_player(name)
        except BaseException as error:
            connection.send(_failed(error))
            return
        _play(player, connection)


def _play(player: EpisodePlayer, connection: Connection) -> None:
    row: Array = np.zeros(player.obs_spec.shape, player.obs_spec.dtype)

    def seen(method: str, *arguments: Any) -> _Seen:
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
                answer: Any = seen(*request)
            except BaseException as error:
                answer = _failed(error)
            connection.send(answer)
    except (EOFError, OSError):  # nobody listens any more
        player.close()


def _failed(error: BaseException) -> DQNRunnerError:
    """`error` as one that can be sent, with its traceback for the log."""
    sent = error if isinstance(error, DQNRunnerError) else EnvironmentFailedError(named(error))
    sent.add_note("".join(traceback.format_exception(error)))
    return sent


def _end_with(parent: int) -> None:
    """End this process when the one that started it is gone, even in the middle of a step."""
    while os.getppid() == parent:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    time.sleep(SECONDS_TO_END)  # in which it may end by itself
    os._exit(1)
