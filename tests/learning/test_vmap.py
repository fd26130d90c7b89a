"""Several runs in one call of the update, under `torch.func.vmap`, equal each run alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from building import AGENTS, agent_of, mlp, numbers_of, rule_for
from torch import Tensor
from torch.func import vmap

from dqn_runner.agents.spec import AgentSpec
from dqn_runner.learning.learner import METRICS, LearnerState, UpdateRule, update
from dqn_runner.networks.flat import FlatNetwork
from dqn_runner.types import StepInputs

R, CAPACITY, B, UPDATES = 3, 40, 8, 5
LR, TAU, GAMMA = (1e-2, 3e-3, 1e-3), (0.5, 0.1, 0.01), (0.9, 0.99, 0.5)


NUM_ACTIONS = 3


class Run:
    """One run's tensors: its own parameters, range of returns, replay, batches, noise, numbers."""

    def __init__(
        self, seed: int, agent: AgentSpec, rule: UpdateRule, dtype: torch.dtype, *, counts: bool
    ):
        generator, network = torch.Generator().manual_seed(seed), rule.network
        noise_rng = np.random.default_rng(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=dtype)

        def integers(most: int, *shape: int) -> Tensor:
            return torch.randint(most, shape, generator=generator)

        num_params = len(network.initial_params)
        self.state = LearnerState(
            params=0.3 * normal(num_params),
            target_params=0.3 * normal(num_params),
            slots=torch.zeros(rule.optimizer.num_slots, num_params, dtype=dtype),
            num_updates=torch.zeros(num_params if counts else (), dtype=dtype),
            metric_sums=torch.zeros(len(METRICS), dtype=dtype),
            q_extremes=torch.full((2,), -torch.inf, dtype=dtype),
            target_extremes=torch.full((2,), -torch.inf, dtype=dtype),
        )
        ends = torch.rand(CAPACITY, generator=generator) < 0.2
        self.storage = (
            normal(CAPACITY, 4),
            integers(NUM_ACTIONS, CAPACITY),
            normal(CAPACITY),
            torch.where(ends, 0.0, GAMMA[seed]).to(dtype),
            normal(CAPACITY, 4),
            *([integers(NUM_ACTIONS, CAPACITY)] if agent.td_target == "sarsa" else []),
        )
        support = network.buffer("head.support", network.buffers)
        self.buffers = tuple(
            (1 + seed) * buffer if buffer is support else buffer.clone()
            for buffer in network.buffers
        )
        self.inputs = [
            StepInputs(
                integers(CAPACITY, B),
                normal(B).abs(),
                network.draw_noise(noise_rng, B).to(dtype),
                torch.tensor(step % (seed + 2) == 1),  # each copies at moments of its own
            )
            for step in range(UPDATES)
        ]
        own = {"lr": LR[seed], "tau": TAU[seed], "max_grad_norm": 0.5 + seed,
               "return_low": -0.5 - seed, "return_high": 1.0 + seed,
               "munchausen_temperature": 0.1 + seed}  # fmt: skip
        numbers = {**numbers_of(agent, NUM_ACTIONS, tau=1.0)}
        numbers |= {name: value for name, value in own.items() if name in numbers}
        self.hyper = {name: torch.tensor(value, dtype=dtype) for name, value in numbers.items()}


def stacked(tensors: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return tuple(torch.stack(group) for group in zip(*tensors, strict=True))


def alone(rule: UpdateRule, run: Run) -> tuple[LearnerState, list[Tensor]]:
    state, priorities = run.state, []
    for inputs in run.inputs:
        state, priority = update(rule, state, run.storage, inputs, run.hyper, run.buffers)
        priorities.append(priority)
    return state, priorities


def together(rule: UpdateRule, runs: list[Run]) -> tuple[LearnerState, list[Tensor]]:
    def step(state, storage, inputs, hyper, buffers):
        return update(rule, state, storage, inputs, hyper, buffers)

    state = LearnerState(*stacked([run.state for run in runs]))
    storage = stacked([run.storage for run in runs])
    buffers = stacked([run.buffers for run in runs]) if runs[0].buffers else ()
    hyper = {name: torch.stack([run.hyper[name] for run in runs]) for name in runs[0].hyper}
    priorities = []
    for inputs in zip(*(run.inputs for run in runs), strict=True):
        together = StepInputs(*stacked(list(inputs)))
        state, priority = vmap(step)(state, storage, together, hyper, buffers)
        priorities.append(priority)
    return state, priorities


# (agent's settings, network's settings)
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "max": ({}, {}),
    "double": ({"double": True}, {}),
    "sarsa": ({"td_target": "sarsa"}, {}),
    "munchausen": ({"td_target": "munchausen"}, {}),
    "dueling": ({}, {"dueling": True}),
    "noisy": ({"double": True}, {"noisy": 0.5}),
    "rainbow's": ({"double": True}, {"noisy": 0.5, "dueling": True, "norm": "none"}),
    "resets": ({"reset_interval": 3}, {}),
}
OPTIMIZERS = {
    "amsgrad": {"name": "adam", "amsgrad": True},
    "rmsprop": {"name": "rmsprop", "centered": True, "momentum": 0.9, "eps": 0.01},
    "adamw": {"name": "adamw"},
    "sgd": {"name": "sgd", "momentum": 0.9, "nesterov": True},
}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    **{f"{name}-{option}": (name, *OPTIONS[option]) for name in AGENTS for option in OPTIONS},
    **{name: ("dqn", {"optimizer": optimizer}, {}) for name, optimizer in OPTIMIZERS.items()},
    "mse": ("dqn", {"loss": "mse"}, {}),
}


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["f64", "f32"]
)
@pytest.mark.parametrize("target", ["hard", "soft"])
@pytest.mark.parametrize("case", CASES)
def test_runs_trained_together_equal_each_run_alone(case, target, dtype, tolerance):
    """Runs that differ in lr, tau, gamma, clips, temperature, range of returns, parameters, replay,
    noise and copies of the target."""
    name, settings, options = CASES[case]
    agent = agent_of(
        name, max_grad_norm=1.0, **({"clip_target": True} if name == "dqn" else {}), **settings
    )
    options = {"norm": "layer_norm", **options}
    module = mlp((4,), NUM_ACTIONS, [16, 8], agent=agent, **options)
    rule = rule_for(agent, FlatNetwork(module.to(dtype)), soft_target=target == "soft")
    counts = agent.reset_interval is not None
    runs = [Run(seed, agent, rule, dtype, counts=counts) for seed in range(R)]
    states, priorities = together(rule, runs)
    for r, run in enumerate(runs):
        expected_state, expected_priorities = alone(rule, run)
        assert not torch.equal(expected_state.params, run.state.params)
        for name, expected in expected_state._asdict().items():
            actual = getattr(states, name)[r]
            torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance, msg=name)
        for together_, expected in zip(priorities, expected_priorities, strict=True):
            torch.testing.assert_close(together_[r], expected, rtol=tolerance, atol=tolerance)
