"""ε schedules: the probability of a random action over the course of training.

A schedule is called with the env steps taken so far (0 at the first action, summed over
environments) and the episodes finished so far. It returns ε in [0, 1].
"""

from __future__ import annotations

import math
from typing import Literal

from dqn_runner.spec import PositiveInt, Probability, Spec


class Fixed(Spec):
    """The same ε at every step."""

    name: Literal["fixed"] = "fixed"
    """The schedule."""
    value: Probability
    """Probability of a random action, ε."""

    def __call__(self, env_steps: int, episodes: int) -> float:
        """ε after `env_steps` and `episodes`."""
        return self.value


class Linear(Spec):
    """On a straight line from `start` to `end` over `decay_steps` env steps, then `end`.

    Mnih et al. 2015, Methods: 1.0 to 0.1 over the first million frames.
    """

    name: Literal["linear"] = "linear"
    """The schedule."""
    start: Probability
    """ε at the first env step."""
    end: Probability
    """ε after decay_steps."""
    decay_steps: PositiveInt
    """Env steps in which ε goes from start to end on a straight line."""

    def __call__(self, env_steps: int, episodes: int) -> float:
        """ε after `env_steps` and `episodes`."""
        progress = min(env_steps / self.decay_steps, 1.0)
        return (1.0 - progress) * self.start + progress * self.end


class Exponential(Spec):
    """end + (start - end) · exp(-t / decay_steps), t in env steps."""

    name: Literal["exponential"] = "exponential"
    """The schedule."""
    start: Probability
    """ε at the first env step."""
    end: Probability
    """ε that is approached."""
    decay_steps: PositiveInt
    """Env steps in which the distance to end falls to 37 %, as exp(-t / decay_steps)."""

    def __call__(self, env_steps: int, episodes: int) -> float:
        """ε after `env_steps` and `episodes`."""
        return self.end + (self.start - self.end) * math.exp(-env_steps / self.decay_steps)


class Multiplicative(Spec):
    """max(end, start · decay_rate^⌊t / decay_every⌋), t in env steps or in finished episodes."""

    name: Literal["multiplicative"] = "multiplicative"
    """The schedule."""
    start: Probability
    """ε at the first env step."""
    end: Probability
    """Lowest ε."""
    decay_rate: Probability
    """Factor on ε each time it decays."""
    decay_every: PositiveInt
    """Env steps or episodes between decays."""
    unit: Literal["env_step", "episode"]
    """What decay_every counts."""

    def __call__(self, env_steps: int, episodes: int) -> float:
        """ε after `env_steps` and `episodes`."""
        t = env_steps if self.unit == "env_step" else episodes
        return max(self.end, self.start * self.decay_rate ** (t // self.decay_every))


def is_random(schedule: object) -> bool:
    """Whether `schedule` ever asks for random actions; one of the user's own is taken to do so."""
    if isinstance(schedule, Fixed):
        return schedule.value > 0.0
    if isinstance(schedule, Linear | Exponential | Multiplicative):
        return max(schedule.start, schedule.end) > 0.0
    return True
