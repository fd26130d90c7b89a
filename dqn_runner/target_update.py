"""How the target network follows the online network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from dqn_runner.spec import PositiveInt, Spec

Unit = Literal["env_step", "update"]


class Hard(Spec):
    """Copy the online network every `interval` env steps or updates (Mnih et al. 2015)."""

    name: Literal["hard"] = "hard"
    """The kind of target update."""
    interval: PositiveInt
    """Env steps or updates between copies."""
    unit: Unit
    """What interval counts."""

    def copies(self, unit: Unit, before: int, now: int) -> bool:
        """Whether a copy is due when the counter of `unit` goes from `before` to `now`."""
        return unit == self.unit and now // self.interval > before // self.interval


class Soft(Spec):
    """target <- (1 - tau) · target + tau · online, once per update (Lillicrap et al. 2016)."""

    name: Literal["soft"] = "soft"
    """The kind of target update."""
    tau: Annotated[float, Field(gt=0, le=1)]
    """Share of the online network that each update mixes into the target network."""

    def copies(self, unit: Unit, before: int, now: int) -> bool:
        """Never: a soft target is part of each update."""
        return False


def soft_update(target_params: Tensor, params: Tensor, tau: Tensor) -> Tensor:
    """(1 - tau) · target_params + tau · params, both [P]."""
    return target_params.lerp(params, tau)
