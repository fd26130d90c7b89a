"""Several runs in one call of the update, under `torch.func.vmap`, equal each run alone."""

from __future__ import annotations

import pytest
import torch
from building import mlp, rule_of
from torch import Tensor
from torch.func import vmap

from dqn_runner.learning.learner import METRICS, LearnerState, UpdateRule, update
from dqn_runner.learning.optimizers import SGD, Adam, AdamW, RMSprop
from dqn_runner.networks.flat import FlatNetwork
from dqn_runner.types import StepInputs

R, CAPACITY, B, UPDATES = 3, 40, 8, 5
LR, TAU, GAMMA = (1e-2, 3e-3, 1e-3), (0.5, 0.1, 0.01), (0.9, 0.99, 0.5)


class Run:
    """One run's tensors: its own parameters, replay, batches and numbers."""

    def __init__(self, seed: int, rule: UpdateRule, network: FlatNetwork, dtype: torch.dtype):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=dtype)

        def integers(most: int, *shape: int) -> Tensor:
            return torch.randint(most, shape, generator=generator)

        num_params = len(network.initial_params)
        self.state = LearnerState(
            params=0.3 * normal(num_params),
            target_params=0.3 * normal(num_params),
            slots=torch.zeros(rule.optimizer.num_slots, num_params, dtype=dtype),
            num_updates=torch.zeros((), dtype=dtype),
            metric_sums=torch.zeros(len(METRICS), dtype=dtype),
            q_extremes=torch.full((2,), -torch.inf, dtype=dtype),
            target_extremes=torch.full((2,), -torch.inf, dtype=dtype),
        )
        ends = torch.rand(CAPACITY, generator=generator) < 0.2
        self.storage = (
            normal(CAPACITY, 4),
            integers(3, CAPACITY),
            normal(CAPACITY),
            torch.where(ends, 0.0, GAMMA[seed]).to(dtype),
            normal(CAPACITY, 4),
            integers(3, CAPACITY),
        )
        self.inputs = [
            StepInputs(
                integers(CAPACITY, B),
                normal(B).abs(),
                torch.empty(0, dtype=dtype),
                torch.tensor(step % (seed + 2) == 1),  # each copies at moments of its own
            )
            for step in range(UPDATES)
        ]
        numbers = {"lr": LR[seed], "tau": TAU[seed], "max_grad_norm": 0.5 + seed,
                   "return_low": -0.5 - seed, "return_high": 1.0 + seed,
                   **rule.optimizer.hyperparameters()}  # fmt: skip
        self.hyper = {name: torch.tensor(value, dtype=dtype) for name, value in numbers.items()}


def stacked(tensors: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return tuple(torch.stack(group) for group in zip(*tensors, strict=True))


def alone(rule: UpdateRule, run: Run) -> tuple[LearnerState, list[Tensor]]:
    state, priorities = run.state, []
    for inputs in run.inputs:
        state, priority = update(rule, state, run.storage, inputs, run.hyper)
        priorities.append(priority)
    return state, priorities


def together(rule: UpdateRule, runs: list[Run]) -> tuple[LearnerState, list[Tensor]]:
    def step(state, storage, inputs, hyper):
        return update(rule, state, storage, inputs, hyper)

    state = LearnerState(*stacked([run.state for run in runs]))
    storage = stacked([run.storage for run in runs])
    hyper = {name: torch.stack([run.hyper[name] for run in runs]) for name in runs[0].hyper}
    priorities = []
    for inputs in zip(*(run.inputs for run in runs), strict=True):
        state, priority = vmap(step)(state, storage, StepInputs(*stacked(list(inputs))), hyper)
        priorities.append(priority)
    return state, priorities


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["f64", "f32"]
)
@pytest.mark.parametrize("target", ["hard", "soft"])
@pytest.mark.parametrize(
    ("double", "optimizer", "loss", "sarsa"),
    [
        (False, Adam(), "huber", False),
        (True, Adam(amsgrad=True), "huber", False),
        (True, RMSprop(centered=True, momentum=0.9, eps=0.01), "mse", False),
        (False, AdamW(), "mse", True),
        (False, SGD(momentum=0.9, nesterov=True), "huber", False),
    ],
    ids=["dqn", "double", "double-rmsprop", "sarsa", "sgd"],
)
def test_runs_trained_together_equal_each_run_alone(
    double, optimizer, loss, sarsa, target, dtype, tolerance
):
    """Runs that differ in lr, tau, gamma, clips, parameters, replay and copies of the target."""
    network = FlatNetwork(mlp((4,), 3, [16, 8], norm="layer_norm").to(dtype))
    rule = rule_of(
        network, optimizer=optimizer, loss=loss, double=double, sarsa=sarsa, clip_norm=True,
        soft_target=target == "soft", clip_target=True,
    )  # fmt: skip
    runs = [Run(seed, rule, network, dtype) for seed in range(R)]
    states, priorities = together(rule, runs)
    for r, run in enumerate(runs):
        expected_state, expected_priorities = alone(rule, run)
        assert not torch.equal(expected_state.params, run.state.params)
        for name, expected in expected_state._asdict().items():
            actual = getattr(states, name)[r]
            torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance, msg=name)
        for together_, expected in zip(priorities, expected_priorities, strict=True):
            torch.testing.assert_close(together_[r], expected, rtol=tolerance, atol=tolerance)
