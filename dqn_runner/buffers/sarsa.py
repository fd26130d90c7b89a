"""From environment steps to transitions that know the action taken next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from dqn_runner.buffers.n_step import NStepAssembler
from dqn_runner.types import Array, EnvStep, Transition


class SarsaAssembler:
    """One-step transitions with their next actions (Rummery and Niranjan 1994).

    A transition waits until its environment takes the next step. Where the episode was truncated
    that step never comes: `act` then chooses at the final observation, which is bootstrapped from.
    Where it terminated no action follows, and discount 0 hides the 0 that stands for it.
    """

    def __init__(
        self, gamma: float, num_envs: int, act: Callable[[Array, float], list[int]]
    ) -> None:
        self._one_step = NStepAssembler(1, gamma, num_envs)
        self._act = act
        self._waiting: list[Transition | None] = [None] * num_envs

    def transitions(self, step: EnvStep, epsilon: float) -> Iterator[Transition]:
        """Yield the transitions whose next action is known with `step`, taken under `epsilon`."""
        for i, transition in enumerate(self._one_step.transitions(step)):
            waiting, self._waiting[i] = self._waiting[i], None
            if waiting is not None:
                yield waiting._replace(next_action=step.action[i])
            if step.terminated[i]:
                yield transition._replace(next_action=0)
            elif step.truncated[i]:
                (action,) = self._act(step.next_obs[i : i + 1], epsilon)
                yield transition._replace(next_action=action)
            else:
                self._waiting[i] = transition

    def get_state(self) -> list[dict[str, Any] | None]:
        """The transition of each environment that waits for its next action, if one does."""
        return [
            waiting
            and {
                **waiting._asdict(),
                "obs": torch.tensor(waiting.obs),
                "next_obs": torch.tensor(waiting.next_obs),
            }
            for waiting in self._waiting
        ]

    def set_state(self, state: list[dict[str, Any] | None]) -> None:
        """Take up the transitions that were waiting."""
        self._waiting = [
            None
            if saved is None
            else Transition(
                **{**saved, "obs": saved["obs"].numpy(), "next_obs": saved["next_obs"].numpy()}
            )
            for saved in state
        ]
