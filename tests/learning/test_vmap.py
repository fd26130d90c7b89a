"""Several runs in one call of the update, and a run compiled, equal each run alone and eager."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from building import AGENTS, agent_of, cnn, mlp, numbers_of, rule_for
from torch import Tensor
from torch.func import vmap

from dqn_runner.agents.spec import AgentSpec
from dqn_runner.learning import compilation
from dqn_runner.learning import learner as learner_module
from dqn_runner.learning.learner import METRICS, Learner, LearnerState, UpdateRule, update
from dqn_runner.networks import flat
from dqn_runner.networks.flat import FlatNetwork
from dqn_runner.types import StepInputs

R, CAPACITY, B, UPDATES = 3, 40, 8, 5
BY_COLUMNS = 40  # weights of more numbers than this are kept so, in some tests
LR, TAU, GAMMA = (1e-2, 3e-3, 1e-3), (0.5, 0.1, 0.01), (0.9, 0.99, 0.5)


NUM_ACTIONS = 3


class Run:
    """One run's tensors: its own parameters, range of returns, replay, batches, noise, numbers."""

    def __init__(
        self,
        seed: int,
        agent: AgentSpec,
        rule: UpdateRule,
        dtype: torch.dtype,
        obs_shape: tuple[int, ...],
        *,
        counts: bool,
    ):
        generator, network = torch.Generator().manual_seed(seed), rule.network
        noise_rng = np.random.default_rng(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=dtype)

        def integers(most: int, *shape: int) -> Tensor:
            return torch.randint(most, shape, generator=generator)

        def observations() -> Tensor:
            """Images of bytes, unless numbers are to be of double precision."""
            if len(obs_shape) == 1 or dtype != torch.float32:
                return normal(CAPACITY, *obs_shape)
            return integers(256, CAPACITY, *obs_shape).to(torch.uint8)

        num_params = len(network.initial_params)
        size = 0.3 if len(obs_shape) == 1 else 0.05  # convolutions sum up more inputs
        self.state = LearnerState(
            params=size * normal(num_params),
            target_params=size * normal(num_params),
            num_updates=torch.zeros(num_params if counts else (), dtype=dtype),
            metric_sums=torch.zeros(len(METRICS), dtype=dtype),
            q_extremes=torch.full((2,), -torch.inf, dtype=dtype),
            target_extremes=torch.full((2,), -torch.inf, dtype=dtype),
            slots=tuple(torch.zeros(rule.optimizer.num_slots, num_params, dtype=dtype)),
        )
        ends = torch.rand(CAPACITY, generator=generator) < 0.2
        self.storage = (
            observations(),
            integers(NUM_ACTIONS, CAPACITY),
            normal(CAPACITY),
            torch.where(ends, 0.0, GAMMA[seed]).to(dtype),
            observations(),
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
            )
            for _ in range(UPDATES)
        ]
        # Before which updates a hard target is copied: each run at moments of its own.
        self.copies = [not rule.soft_target and step % (seed + 2) == 1 for step in range(UPDATES)]
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
    for inputs, copies in zip(run.inputs, run.copies, strict=True):
        if copies:
            state = state._replace(target_params=state.params)
        state, priority = update(rule, state, run.storage, inputs, run.hyper, run.buffers)
        priorities.append(priority)
    return state, priorities


def together(rule: UpdateRule, runs: list[Run]) -> tuple[LearnerState, list[Tensor]]:
    def step(state, storage, inputs, hyper, buffers):
        return update(rule, state, storage, inputs, hyper, buffers)

    state = LearnerState.of(
        iter(stacked([run.state.tensors for run in runs])), rule.optimizer.num_slots
    )
    storage = stacked([run.storage for run in runs])
    buffers = stacked([run.buffers for run in runs]) if runs[0].buffers else ()
    hyper = {name: torch.stack([run.hyper[name] for run in runs]) for name in runs[0].hyper}
    priorities = []
    copies = torch.tensor([run.copies for run in runs]).unbind(1)
    for inputs, copied in zip(zip(*(run.inputs for run in runs), strict=True), copies, strict=True):
        together = StepInputs(*stacked(list(inputs)))
        targets = torch.where(copied.unsqueeze(1), state.params, state.target_params)
        state = state._replace(target_params=targets)
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
# A network's settings with a name are those of a CNN, on images of this shape.
IMAGES = {
    "minatar_cnn": (4, 4, 2),
    "nature_cnn": (36, 36),
    "impala_cnn": (5, 4),
    "data_efficient_cnn": (26, 26, 2),
}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    **{f"{name}-{option}": (name, *OPTIONS[option]) for name in AGENTS for option in OPTIONS},
    **{name: ("dqn", {"optimizer": optimizer}, {}) for name, optimizer in OPTIMIZERS.items()},
    "mse": ("dqn", {"loss": "mse"}, {}),
    # Adam would turn a gradient of almost 0 into a step of full length, and its last bits too.
    **{name: ("dqn", {"optimizer": OPTIMIZERS["sgd"]}, {"name": name}) for name in IMAGES},
    "bfloat16": (
        "dqn",
        {"optimizer": OPTIMIZERS["sgd"]},
        {"name": "data_efficient_cnn", "precision": "bfloat16"},
    ),
    **{
        f"{name}-cnn": (
            name,
            {"optimizer": OPTIMIZERS["sgd"]},
            {"name": "data_efficient_cnn", "dueling": True, "noisy": 0.5},
        )
        for name in AGENTS
    },
}


def parts_of(
    case: str, target: str, dtype: torch.dtype, count: int
) -> tuple[UpdateRule, list[Run]]:
    """The update of a case, and runs that differ in all that is no part of it."""
    name, settings, options = CASES[case]
    clip_target = {"clip_target": True} if name == "dqn" else {}
    agent = agent_of(name, max_grad_norm=1.0, **clip_target, **settings)
    options = {"norm": "layer_norm", **options}
    if "name" in options:
        obs_shape = IMAGES[options["name"]]
        module = cnn(obs_shape=obs_shape, num_actions=NUM_ACTIONS, agent=agent, **options)
    else:
        obs_shape = (4,)
        module = mlp(obs_shape, NUM_ACTIONS, [16, 8], agent=agent, **options)
    rule = rule_for(agent, FlatNetwork(module.to(dtype)), soft_target=target == "soft")
    counts = agent.reset_interval is not None
    return rule, [Run(seed, agent, rule, dtype, obs_shape, counts=counts) for seed in range(count)]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["f64", "f32"]
)
@pytest.mark.parametrize("target", ["hard", "soft"])
@pytest.mark.parametrize("case", CASES)
def test_runs_trained_together_equal_each_run_alone(case, target, dtype, tolerance, monkeypatch):
    """Runs that differ in lr, tau, gamma, clips, temperature, range of returns, parameters, replay,
    noise and copies of the target."""
    if target == "soft":
        monkeypatch.setattr(flat, "MOST_BY_ROWS", BY_COLUMNS)
    rule, runs = parts_of(case, target, dtype, R)
    if case == "bfloat16" and dtype == torch.float32:
        tolerance = 2e-2  # eight bits; numbers of double precision are not rounded
    states, priorities = together(rule, runs)
    for r, run in enumerate(runs):
        expected_state, expected_priorities = alone(rule, run)
        assert not torch.equal(expected_state.params, run.state.params)
        actual = [tensor[r] for tensor in states.tensors]
        torch.testing.assert_close(
            actual, [*expected_state.tensors], rtol=tolerance, atol=tolerance
        )
        for together_, expected in zip(priorities, expected_priorities, strict=True):
            torch.testing.assert_close(together_[r], expected, rtol=tolerance, atol=tolerance)


def assert_compiled_equals_eager(case: str, target: str) -> None:
    """Updates by what `Learner.compile` makes, with copies of the target network."""
    rule, (run,) = parts_of(case, target, torch.float32, 1)
    numbers = {name: value.item() for name, value in run.hyper.items()}
    learner = Learner(rule, numbers, run.state.params, run.buffers)
    learner.state.target_params.copy_(run.state.target_params)
    learner.compile(run.storage, B)
    expected_state, expected_priorities = alone(rule, run)
    steps = zip(run.inputs, run.copies, expected_priorities, strict=True)
    for inputs, copies, expected in steps:
        if copies:
            learner.copy_target()
        priorities = learner.update(run.storage, inputs.indices, inputs.weights, inputs.noise)
        torch.testing.assert_close(priorities, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(learner.state.tensors, expected_state.tensors, rtol=1e-4, atol=1e-5)
    assert not torch.equal(learner.state.params, run.state.params)


@pytest.mark.parametrize(
    "case",
    [
        *(f"{name}-{option}" for name in AGENTS for option in ("munchausen", "rainbow's", "cnn")),
        "minatar_cnn",
        "bfloat16",
    ],
)
def test_what_is_compiled_equals_the_eager_update(case, monkeypatch):
    """The graph that the compiler would get, which holds none of the inputs as a constant."""

    def traced(function, constants, inputs):
        graph = compilation._trace(function, (*constants, *inputs))
        return lambda *given: graph(*constants, *given)

    monkeypatch.setattr(learner_module, "compile_ahead", traced)
    monkeypatch.setattr(flat, "MOST_BY_ROWS", BY_COLUMNS)
    assert_compiled_equals_eager(case, "hard")


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        "dqn-munchausen",
        "c51-rainbow's",
        "qr_dqn-dueling",
        "iqn-rainbow's",
        "hl_gauss-double",
        "nature_cnn",
        "iqn-cnn",
    ],
)
def test_compiled_equals_the_eager_update(case, monkeypatch, tmp_path):
    """By the compiler itself, some twenty seconds each."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(flat, "MOST_BY_ROWS", BY_COLUMNS)
    assert_compiled_equals_eager(case, "soft")
