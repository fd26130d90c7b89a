"""Values that travel between the rooms.

Letters in shapes: N environments, B batch, A actions, P parameters, K atoms or quantiles, R runs.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[Any]
QFunction = Callable[[Array], Array]  # obs [N, *obs_shape] -> action values [N, A]


class Policy(Protocol):
    """What chooses actions [N] for encoded observations [N, *obs_shape]."""

    def __call__(self, obs: Array, action_mask: Array | None = None, /) -> npt.NDArray[np.int64]:
        """Choose, among the actions that `action_mask` [N, A] allows if there is one."""


class Episode(NamedTuple):
    """A finished episode: its undiscounted return and its length in environment steps."""

    episode_return: float
    length: int

    def metrics(self) -> Row:
        """Return and length under the names that metrics have."""
        return {
            "rollout/episode_return": self.episode_return,
            "rollout/episode_length": self.length,
        }


class EnvStep(NamedTuple):
    """One step of N environments, as seen by the agent that took it.

    Numbers are Python's own, in lists: for few environments they cost a fraction of arrays.

    `next_obs` is the true successor: at the end of an episode it is the final observation, never
    the first one of the episode that follows.
    """

    obs: Array  # [N, *obs_shape]
    action: list[int]  # [N]
    reward: list[float]  # [N]
    terminated: list[bool]  # [N]
    truncated: list[bool]  # [N]
    next_obs: Array  # [N, *obs_shape]
    episodes: list[Episode]  # those that ended at this step
    next_mask: Array | None = None  # [N, A] bool, the actions allowed at next_obs, if some are not


class ObsSpec(NamedTuple):
    """Shape and storage type of one observation.

    One that stacks frames has them along its first axis, the oldest first; others have no such
    axis, and `stack` is 1.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]  # float32, uint8 or bool
    stack: int = 1

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """The shape of one frame."""
        return self.shape[1:] if self.stack > 1 else self.shape


class Transition(NamedTuple):
    """What the buffer stores of one (n-step) transition.

    `discount` is γ^k·(1 - terminated), where k is the number of steps that `reward` sums up. It is
    the only trace that the end of an episode leaves in storage.
    """

    obs: Array  # [*obs_shape]
    action: int
    reward: float
    discount: float
    next_obs: Array  # [*obs_shape]
    next_action: int | None = None  # only if SARSA's target asks for it
    next_mask: Array | None = None  # [A] bool, the actions allowed at next_obs, if some are not


class Batch(NamedTuple):
    """Transitions as columns."""

    obs: Tensor  # [B, *obs_shape], of the type that is stored; frames of bool come as float32
    action: Tensor  # [B] int64
    reward: Tensor  # [B]
    discount: Tensor  # [B]
    next_obs: Tensor  # [B, *obs_shape]
    next_action: Tensor | None = None  # [B] int64, only if SARSA's target asks for it
    next_mask: Tensor | None = None  # [B, A] bool, only if some actions may be forbidden


class Outputs(NamedTuple):
    """A network's output for a batch of observations."""

    q_values: Tensor  # [B, A]
    distribution: Tensor | None = None  # [B, A, K] logits or quantiles, if it learns returns so
    grid: Tensor | None = None  # what those K are: values of atoms [K], or fractions τ [K], [B, K]

    def distribution_of(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """The logits or quantiles [B, K] of `action` [B], and the grid."""
        assert self.distribution is not None
        assert self.grid is not None
        return at_action(self.distribution, action), self.grid


def at_action(values: Tensor, action: Tensor) -> Tensor:
    """What `values` [B, A, ...] hold of `action` [B]: [B, ...]."""
    if values.dim() == 2:
        return values.gather(1, action.unsqueeze(1)).squeeze(1)
    import torch

    # By a product, whose gradient is a product too: compiled, this is faster than gather.
    chosen = action.unsqueeze(1) == torch.arange(values.shape[1], device=values.device)
    return (values * chosen.unsqueeze(2)).sum(dim=1)


class StepInputs(NamedTuple):
    """What is new at each call of the update; its other tensors stay where they are."""

    indices: Tensor  # [B] int64, rows of the storage
    weights: Tensor  # [B] importance weights; all 1 without priorities
    noise: Tensor  # [Z] for networks that draw noise; empty for others


@dataclass
class Best:
    """The parameters with the best evaluation so far (the latest of equals)."""

    mean: float
    env_steps: int
    params: Tensor  # [P]


@dataclass
class Progress:
    """How far a run has come; the loop writes it, the displays read it."""

    env_steps: int = 0
    episodes: int = 0
    epsilon: float = 1.0
    td_loss: float | None = None
    recent_returns: deque[float] = field(default_factory=lambda: deque(maxlen=100))
    activity: str = "training"
    scored: int = 0  # episodes of the final evaluation, of `to_score`; that is 0 before it begins
    to_score: int = 0
    seconds_per_episode: float = 0.0  # of the last evaluation; not saved
    elapsed_seconds: float = 0.0  # of training, up to the last row that says so
    lowest_reward: float = math.inf
    highest_reward: float = -math.inf
    # Of the rewards that did not end an episode: a policy can get those again and again.
    highest_gain: float = 0.0
    sum_of_gains: float = 0.0  # of those above 0
    sum_of_costs: float = 0.0  # of those below 0
    has_warned: bool = False  # of Q-values that no return allows
    has_warned_of_targets: bool = False  # that leave the range of returns that is represented
    # Up to here all that was due is done: evaluated, logged and saved.
    reported_env_steps: int = 0
    reported_episodes: int = 0
    evaluated_env_steps: int = 0  # when the last evaluation was
    best: Best | None = None

    def get_state(self) -> dict[str, Any]:
        """The counters as plain numbers."""
        apart = ("best", "seconds_per_episode")
        counters = {name: value for name, value in vars(self).items() if name not in apart}
        return counters | {"recent_returns": list(self.recent_returns)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Count on from there."""
        # Older runs saved themselves only when all was done.
        done = {f"reported_{name}": state[name] for name in ("env_steps", "episodes")}
        vars(self).update(done | state)
        self.recent_returns = deque(state["recent_returns"], maxlen=100)

    def see(self, rewards: list[float], terminated: list[bool]) -> None:
        """Take note of the rewards [N] of a step, and of which of them ended an episode [N]."""
        self.lowest_reward = min(self.lowest_reward, *rewards)
        self.highest_reward = max(self.highest_reward, *rewards)
        for reward, ended in zip(rewards, terminated, strict=True):
            if ended:
                continue
            if reward > 0.0:
                self.highest_gain = max(self.highest_gain, reward)
                self.sum_of_gains += reward
            else:
                self.sum_of_costs += reward

    def finish(self, episode: Episode) -> None:
        """Count an episode that has just ended."""
        self.episodes += 1
        self.recent_returns.append(episode.episode_return)


Row = dict[str, float]
"""One row of metrics: `env_steps`, `episodes` and whichever metrics there are, never NaN."""


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys: `{"agent.lr": 0.001}`."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
