"""Optimizers as pure functions of flat vectors [P]; the formulas are those of torch.optim.

Each Spec says how many state vectors it keeps (`num_slots`), which of its settings enter the
update as numbers (`hyperparameters`, so that one compiled update serves every value of them), and
how one step goes: `step(params, grad, slots, count, hyper)`, where count is 1 at the first
step, returns the new parameters and slots.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor

from dqn_runner.spec import NonNegativeFloat, PositiveFloat, Spec, drop_nulls

Decay = Annotated[float, Field(gt=0, lt=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Hyper = Mapping[str, Tensor]  # the number of each hyperparameter, []
Slots = tuple[Tensor, ...]  # state vectors, each [P]


class _AdamFamily(Spec):
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square, per update."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator of a step."""
    weight_decay: NonNegativeFloat
    """Share of the weights that is added to the gradient."""
    amsgrad: bool = False
    """Divide by the largest second moment so far."""

    decoupled: ClassVar[bool]

    @property
    def num_slots(self) -> int:
        """How many state vectors it keeps."""
        return 3 if self.amsgrad else 2

    def hyperparameters(self) -> dict[str, float]:
        """The settings that enter the update as numbers."""
        beta1, beta2 = self.betas
        return {"beta1": beta1, "beta2": beta2, "eps": self.eps, "weight_decay": self.weight_decay}

    def step(
        self, params: Tensor, grad: Tensor, slots: Slots, count: Tensor, hyper: Hyper
    ) -> tuple[Tensor, Slots]:
        """The parameters [P] and slots after one step."""
        lr, beta1, beta2 = hyper["lr"], hyper["beta1"], hyper["beta2"]
        if self.decoupled:
            params = params * (1 - lr * hyper["weight_decay"])
        else:
            grad = grad + hyper["weight_decay"] * params
        first = slots[0].lerp(grad, 1 - beta1)
        second = slots[1].lerp(grad.square(), 1 - beta2)
        largest = torch.maximum(slots[2], second) if self.amsgrad else second
        # 1 - β^t by expm1, which stays exact in single precision if t is small.
        bias1 = -torch.expm1(count * beta1.log())
        bias2 = -torch.expm1(count * beta2.log())
        params = params - lr / bias1 * first / (largest.sqrt() / bias2.sqrt() + hyper["eps"])
        return params, (first, second, largest)[: self.num_slots]


class Adam(_AdamFamily):
    """Kingma and Ba 2015, algorithm 1; `weight_decay` is added to the gradient."""

    name: Literal["adam"] = "adam"
    """The algorithm."""
    weight_decay: NonNegativeFloat = 0.0
    """Share of the weights that is added to the gradient."""

    decoupled: ClassVar[bool] = False


class AdamW(_AdamFamily):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2)."""

    name: Literal["adamw"] = "adamw"
    """The algorithm."""
    weight_decay: NonNegativeFloat = 0.01
    """Share of the weights that an update takes away, times the learning rate."""

    decoupled: ClassVar[bool] = True


class RMSprop(Spec):
    """Hinton's RMSprop; `centered` divides by the gradient's variance, as Mnih et al. 2015 do."""

    name: Literal["rmsprop"] = "rmsprop"
    """The algorithm."""
    alpha: Decay = 0.99
    """Decay of the running mean of the squared gradient, per update."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator of a step."""
    weight_decay: NonNegativeFloat = 0.0
    """Share of the weights that is added to the gradient."""
    momentum: Momentum = 0.0
    """Share of the last step that is added to this one."""
    centered: bool = False
    """Divide by the variance of the gradient, not by its mean square."""

    @property
    def num_slots(self) -> int:
        """How many state vectors it keeps."""
        return 3

    def hyperparameters(self) -> dict[str, float]:
        """The settings that enter the update as numbers."""
        return {
            "alpha": self.alpha,
            "eps": self.eps,
            "weight_decay": self.weight_decay,
            "momentum": self.momentum,
        }

    def step(
        self, params: Tensor, grad: Tensor, slots: Slots, count: Tensor, hyper: Hyper
    ) -> tuple[Tensor, Slots]:
        """The parameters [P] and slots after one step."""
        grad = grad + hyper["weight_decay"] * params
        square = slots[0].lerp(grad.square(), 1 - hyper["alpha"])
        mean = slots[1].lerp(grad, 1 - hyper["alpha"])
        spread = square - mean.square() if self.centered else square
        velocity = hyper["momentum"] * slots[2] + grad / (spread.sqrt() + hyper["eps"])
        return params - hyper["lr"] * velocity, (square, mean, velocity)


class SGD(Spec):
    """Stochastic gradient descent with (Nesterov) momentum (Sutskever et al. 2013)."""

    name: Literal["sgd"] = "sgd"
    """The algorithm."""
    weight_decay: NonNegativeFloat = 0.0
    """Share of the weights that is added to the gradient."""
    momentum: Momentum = 0.0
    """Share of the last step that is added to this one."""
    nesterov: bool = False
    """Nesterov's momentum; needs a momentum above 0."""

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> SGD:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov=True: needs a momentum above 0")
        return self

    @property
    def num_slots(self) -> int:
        """How many state vectors it keeps."""
        return 1

    def hyperparameters(self) -> dict[str, float]:
        """The settings that enter the update as numbers."""
        return {"weight_decay": self.weight_decay, "momentum": self.momentum}

    def step(
        self, params: Tensor, grad: Tensor, slots: Slots, count: Tensor, hyper: Hyper
    ) -> tuple[Tensor, Slots]:
        """The parameters [P] and slots after one step."""
        grad = grad + hyper["weight_decay"] * params
        velocity = hyper["momentum"] * slots[0] + grad
        direction = grad + hyper["momentum"] * velocity if self.nesterov else velocity
        return params - hyper["lr"] * direction, (velocity,)


_KINDS: dict[str, type[Spec]] = {"adam": Adam, "adamw": AdamW, "rmsprop": RMSprop, "sgd": SGD}
OptimizerSpec = Annotated[
    Adam | AdamW | RMSprop | SGD,
    Field(discriminator="name"),
    BeforeValidator(drop_nulls(_KINDS)),
]
