"""From environment steps to transitions that know the action taken next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from dqn_runner.buffers.n_step import NStepAssembler
from dqn_runner.types import EnvStep, Transition


class SarsaAssembler:
    """One-step transitions with their next actions (Rummery and Niranjan 1994).

    A transition waits until its environment takes the next step. If the episode was truncated,
    that step never comes, and the target needs the action chosen at the final observation. If it
    terminated, no action follows; discount 0 hides the 0 stored in its place.
    """

    needs_final_action = True

    def __init__(self, gamma: float, num_envs: int) -> None:
        self._one_step = NStepAssembler(1, gamma, num_envs)
        self._waiting: list[Transition | None] = [None] * num_envs

    def transitions(self, step: EnvStep, final_action: Mapping[int, int]) -> Iterator[Transition]:
        """Yield the transitions whose next action is known after `step`.

        `final_action` maps each environment that was truncated to the action chosen at its final
        observation.
        """
        for i, transition in enumerate(self._one_step.transitions(step)):
            waiting, self._waiting[i] = self._waiting[i], None
            if waiting is not None:
                yield waiting._replace(next_action=step.action[i])
            if step.terminated[i]:
                yield transition._replace(next_action=0)
            elif step.truncated[i]:
                yield transition._replace(next_action=final_action[i])
            else:
                self._waiting[i] = transition

    def forget(self, i: int) -> None:
        """Drop what waits in environment `i`, which has left its episode."""
        self._waiting[i] = None

    def get_state(self) -> list[dict[str, Any] | None]:
        """The transition of each environment that waits for its next action, if one does."""
        return [
            waiting and _converted(waiting._asdict(), torch.tensor) for waiting in self._waiting
        ]

    def set_state(self, state: list[dict[str, Any] | None]) -> None:
        """Go on with the transitions that were waiting."""
        self._waiting = [
            None if saved is None else Transition(**_converted(saved, torch.Tensor.numpy))
            for saved in state
        ]


ARRAYS = ("obs", "next_obs", "next_mask")


def _converted(fields: dict[str, Any], convert: Callable[[Any], Any]) -> dict[str, Any]:
    """The fields of a transition, those that are arrays converted."""
    arrays = {name: fields[name] for name in ARRAYS if fields.get(name) is not None}
    return {**fields, **{name: convert(array) for name, array in arrays.items()}}
