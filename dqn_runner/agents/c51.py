"""C51: a return represented by the probabilities of fixed atoms (Bellemare et al. 2017)."""

from __future__ import annotations

import logging
from abc import abstractmethod
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field, FiniteFloat, model_validator
from torch import Tensor
from torch.nn import functional

from dqn_runner.agents.spec import AgentSpec
from dqn_runner.agents.targets import horizon, likely_returns
from dqn_runner.envs.make import EnvSpec
from dqn_runner.errors import ConfigError, RunError
from dqn_runner.learning.learner import Losses, NextState
from dqn_runner.learning.optimizers import Hyper
from dqn_runner.networks.heads import CategoricalHead, Head, StreamsMaker
from dqn_runner.types import Outputs, Progress

logger = logging.getLogger(__name__)

# Several, so that they have a width between them.
NumAtoms = Annotated[int, Field(ge=2)]


class CategoricalSpec(AgentSpec):
    """What representations by fixed atoms share: the range of returns that these cover."""

    v_min: FiniteFloat | Literal["auto"] = "auto"
    """Lowest return that is represented; auto: from env.return_range or from the first rewards."""
    v_max: FiniteFloat | Literal["auto"] = "auto"
    """Highest return that is represented; auto: from env.return_range or from the first rewards."""

    margin: ClassVar[float] = 0.0
    """Share of the range of returns that is added on each side where v_min and v_max are auto."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        low, high = self.v_min, self.v_max
        if low != "auto" and high != "auto" and low >= high:
            raise ValueError(f"v_min={low}: must be less than v_max={high}")
        return self

    def covering(self, low: float, high: float) -> Self:
        """These settings, with returns from `low` to `high` where they say `auto`."""
        added = self.margin * (high - low)
        v_min = low - added if self.v_min == "auto" else self.v_min
        v_max = high + added if self.v_max == "auto" else self.v_max
        return self.model_copy(update={"v_min": v_min, "v_max": v_max})

    def covering_env(self, env: EnvSpec, num_actions: int) -> Self:
        """These settings, with the returns that `env` is known to give where they say `auto`.

        They are those of the rewards that are learned from, with Munchausen's bonus if there is
        one. Raises ConfigError if that is no range.
        """
        returns = env.possible_returns(self.gamma, self.reward_clip)
        if returns is None or (self.gamma == 1.0 and self.td_target == "munchausen"):
            return self
        scaled = (self.reward_scale * returns[0], self.reward_scale * returns[1])
        spec = self.covering(*self.with_bonus(scaled, horizon(self.gamma), num_actions))
        if spec.v_min >= spec.v_max:  # type: ignore[operator]
            raise ConfigError(
                f"agent.v_min={self.v_min}, agent.v_max={self.v_max}: env.return_range makes "
                f"that {spec.v_min:.4g} to {spec.v_max:.4g}; v_min must be less than v_max"
            )
        return spec

    @property
    def is_open(self) -> bool:
        """Whether the range is still to be found."""
        return "auto" in (self.v_min, self.v_max)

    def settled(self, progress: Progress, num_actions: int) -> Self:
        """These settings, with the range that the rewards seen so far make likely."""
        low, high = likely_returns(progress, self.gamma)
        if low == high:
            low, high = -1.0, 1.0
            logger.warning(
                "agent.v_min=auto: no reward in %d env steps tells the range of returns; -1 to 1 "
                "is assumed; set agent.v_min and agent.v_max",
                progress.env_steps,
            )
        steps = horizon(self.gamma, progress)
        spec = self.covering(*self.with_bonus((low, high), steps, num_actions))
        if spec.v_min >= spec.v_max:  # type: ignore[operator]
            raise RunError(
                f"agent.v_min={self.v_min}, agent.v_max={self.v_max}: the rewards seen so far "
                f"make returns of {low:.3g} to {high:.3g} likely; set both"
            )
        logger.info("agent.v_min=%.4g and agent.v_max=%.4g from here on", spec.v_min, spec.v_max)
        return spec

    def head(self, make_streams: StreamsMaker, num_features: int) -> Head:
        """A logit for each atom; the range is 0 to 1 until it is found."""
        spec = self.covering(0.0, 1.0) if self.is_open else self
        return CategoricalHead(make_streams(len(spec.atoms)), spec.atoms)

    def reach(self, support: Tensor) -> tuple[float, float]:
        """The lowest and the highest return that the atoms `support` [K] can stand for."""
        return float(support[0]), float(support[-1])

    @property
    @abstractmethod
    def atoms(self) -> Tensor:
        """The returns [K] that the atoms stand for."""

    @property
    def _range(self) -> tuple[float, float]:
        assert self.v_min != "auto"
        assert self.v_max != "auto"
        return self.v_min, self.v_max


class C51Spec(CategoricalSpec):
    """C51's own settings."""

    name: Literal["c51"]
    """The kind of agent."""
    num_atoms: NumAtoms
    """Atoms between v_min and v_max, both included."""

    @property
    def atoms(self) -> Tensor:
        """The returns [K] that the atoms stand for."""
        return torch.linspace(*self._range, self.num_atoms)

    @property
    def representation(self) -> CategoricalReturn:
        """The probabilities of the atoms."""
        return CategoricalReturn()


class CategoricalReturn(NamedTuple):
    """The distribution of returns over fixed atoms (Bellemare et al. 2017, section 4)."""

    def target(self, next_state: NextState, hyper: Hyper) -> Tensor:
        """The probabilities [B, K] of the atoms after a step, projected (algorithm 1)."""
        logits, atoms = next_state.outputs.distribution, next_state.outputs.grid
        assert logits is not None
        assert atoms is not None
        probabilities = next_state.average(logits.softmax(dim=-1))
        moved = next_state.reward.unsqueeze(1) + next_state.discount.unsqueeze(1) * atoms
        return projected(probabilities, moved, atoms)

    def loss(self, outputs: Outputs, action: Tensor, target: Tensor) -> Losses:
        """The cross-entropy of `target` [B, K], which is the priority too."""
        return cross_entropy(outputs, action, target)


def projected(probabilities: Tensor, places: Tensor, atoms: Tensor) -> Tensor:
    """Probabilities [B, K] of returns at `places` [B, K] as probabilities of `atoms` [K].

    Each goes to the two atoms beside its place, in proportion to its nearness (Bellemare et al.
    2017, eq. 7); beyond the ends to the last one.
    """
    last = len(atoms) - 1
    # In widths between two atoms, from the first one on.
    inside = ((places - atoms[0]) * (last / (atoms[-1] - atoms[0]))).clamp(0, last)
    below = inside.floor()
    to_next = probabilities * (inside - below)
    index = below.long()
    shares = torch.zeros_like(probabilities).scatter_add(1, index, probabilities - to_next)
    return shares.scatter_add(1, (index + 1).clamp(max=last), to_next)


def cross_entropy(outputs: Outputs, action: Tensor, target: Tensor) -> Losses:
    """The cross-entropy of `target` [B, K] and the logits of `action` [B]."""
    logits, atoms = outputs.distribution_of(action)
    log_probabilities = functional.log_softmax(logits, dim=-1)
    loss = -(target * log_probabilities).sum(dim=-1)
    return Losses(loss, loss.detach(), (log_probabilities.detach().exp() * atoms).sum(dim=-1))
