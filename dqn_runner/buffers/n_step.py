"""From environment steps to n-step transitions (Sutton 1988; Hessel et al. 2018, section 3)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from dqn_runner.types import Array, EnvStep, Transition


class _Pending:
    """A transition whose n steps are not complete yet."""

    __slots__ = ("action", "discount", "obs", "reward")

    def __init__(self, obs: Array, action: int) -> None:
        self.obs, self.action = obs, action
        self.reward, self.discount = 0.0, 1.0


class NStepAssembler:
    """Sums rewards over n steps of each environment; an episode's end cuts the sum short.

    The tail of an episode becomes transitions of n-1, n-2, …, 1 steps. All of them lead to the
    final observation: with discount 0 if the episode terminated, γ^k if it was truncated.
    """

    needs_final_action = False

    def __init__(self, n_step: int, gamma: float, num_envs: int) -> None:
        self._n_step, self._gamma = n_step, gamma
        self._pending: list[deque[_Pending]] = [deque() for _ in range(num_envs)]

    def transitions(
        self, step: EnvStep, final_action: Mapping[int, int] | None = None
    ) -> Iterator[Transition]:
        """Yield the transitions that `step` completes, oldest first within each environment."""
        for i, pending in enumerate(self._pending):
            pending.append(_Pending(step.obs[i], step.action[i]))
            for transition in pending:
                transition.reward += transition.discount * step.reward[i]
                transition.discount *= self._gamma
            ended = step.terminated[i] or step.truncated[i]
            while pending and (ended or len(pending) == self._n_step):
                oldest = pending.popleft()
                discount = 0.0 if step.terminated[i] else oldest.discount
                yield Transition(
                    oldest.obs, oldest.action, oldest.reward, discount, step.next_obs[i],
                    next_mask=None if step.next_mask is None else step.next_mask[i],
                )  # fmt: skip

    def forget(self, i: int) -> None:
        """Drop what is not complete in environment `i`, which has left its episode."""
        self._pending[i].clear()

    def get_state(self) -> list[list[dict[str, Any]]]:
        """The transitions that are not complete yet, of each environment."""
        return [
            [
                {
                    "obs": torch.tensor(waiting.obs),
                    "action": waiting.action,
                    "reward": waiting.reward,
                    "discount": waiting.discount,
                }
                for waiting in pending
            ]
            for pending in self._pending
        ]

    def set_state(self, state: list[list[dict[str, Any]]]) -> None:
        """Go on with the transitions that were not complete."""
        for pending, saved in zip(self._pending, state, strict=True):
            pending.clear()
            for values in saved:
                waiting = _Pending(values["obs"].numpy(), values["action"])
                waiting.reward, waiting.discount = values["reward"], values["discount"]
                pending.append(waiting)
