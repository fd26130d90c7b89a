"""Films of evaluations, while a run trains."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from dqn_runner.agents.policies import LearnedPolicy
from dqn_runner.config.root import Config
from dqn_runner.errors import DQNRunnerError, in_a_line, named
from dqn_runner.training.spec import MOST_FILMED_STEPS, crossings
from dqn_runner.types import Progress

logger = logging.getLogger(__name__)


class MediaLog(Protocol):
    """Something that takes pictures and films."""

    def log_media(self, name: str, path: Path, env_steps: int, /) -> None:
        """Take one."""


class Films:
    """Films evaluations as `videos`/eval_<env steps>, every `eval.video_interval` env steps.

    An environment of its own plays, so a film changes nothing of the run. If filming fails, a
    warning says so, and this process films no more.
    """

    def __init__(
        self,
        config: Config,
        videos: Path,
        progress: Progress,
        media_log: MediaLog | None,
        check_stop: Callable[[], None],
    ) -> None:
        self._env, self._eval = config.env, config.eval
        self._videos, self._progress = videos, progress
        self._media_log, self._check_stop = media_log, check_stop
        self._has_failed = False

    def log_former(self) -> None:
        """Log what was filmed before the run was interrupted."""
        films = {
            int(match[1]): path
            for path in self._videos.glob("eval_*.gif")
            if (match := re.fullmatch(r"eval_(\d{1,15})\.gif", path.name))
        }
        for env_steps in sorted(films):
            if env_steps <= self._progress.evaluated_env_steps:
                self._log(films[env_steps], env_steps)

    def film(self, policy: LearnedPolicy, seed: int) -> None:
        """Film the episode of `policy` from `seed`, if a film has become due since the last one.

        `check_stop` may raise between its steps; then no film is left.
        """
        before, now = self._progress.evaluated_env_steps, self._progress.env_steps
        if self._has_failed or not crossings(before, now, self._eval.video_interval):
            return
        path = self._videos / f"eval_{now}.gif"
        if not path.exists():  # of a run that was killed later than its last checkpoint
            activity, self._progress.activity = self._progress.activity, "filming"
            try:
                self._record(policy, seed, path)
            except Exception as error:
                self._check_stop()  # a signal to all processes of a job also ends the film's ffmpeg
                self._has_failed = True
                reason = in_a_line(error) if isinstance(error, DQNRunnerError) else named(error)
                logger.warning("eval.video_interval: no films, for %s", reason)
                return
            finally:
                self._progress.activity = activity
        self._log(path, now)

    def _record(self, policy: LearnedPolicy, seed: int, path: Path) -> None:
        from dqn_runner.envs.video import record_episode

        most = min(self._eval.max_episode_steps or MOST_FILMED_STEPS, MOST_FILMED_STEPS)
        record_episode(
            self._env, policy.seeded([seed]), seed, path.with_suffix(""), most, self._check_stop
        )
        logger.info("film %s/%s", path.parent.name, path.name)

    def _log(self, path: Path, env_steps: int) -> None:
        if self._media_log:
            self._media_log.log_media("eval/video", path, env_steps)
