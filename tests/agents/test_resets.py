"""Resets of the last layers: what changes, what does not, and how learning goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from building import columns, mlp, rule_of
from rich.console import Console
from torch import Tensor

from dqn_runner.agents.agent import Agent, Resets
from dqn_runner.config.root import parse
from dqn_runner.learning.learner import Learner
from dqn_runner.learning.optimizers import SGD, Adam, RMSprop
from dqn_runner.networks import flat as flat_module
from dqn_runner.networks.flat import FlatNetwork
from dqn_runner.networks.heads import make_network as make_q_network
from dqn_runner.networks.init import initialize
from dqn_runner.networks.noisy import NoisyLinear
from dqn_runner.runs.lifecycle import run
from dqn_runner.seeding import draw_seed
from dqn_runner.target_update import Hard
from dqn_runner.types import Batch, ObsSpec

INTERVAL, OBS, ACTIONS = 5, 4, 3
CUT = OBS * 8 + 8  # the parameters of the first of two hidden layers


def make_network(seed: int) -> FlatNetwork:
    return FlatNetwork(initialize(lambda: mlp((OBS,), ACTIONS, [8, 6]), seed))


def make_agent(optimizer: Any, interval: int | None = INTERVAL) -> Agent:
    network, rng = make_network(1), np.random.default_rng(7)
    rule = rule_of(network, optimizer=optimizer)
    numbers = {"lr": 0.01, **optimizer.hyperparameters()}
    learner = Learner(rule, numbers, network.initial_params, counts=interval is not None)
    resets = interval and Resets(interval, rng, lambda: make_network(draw_seed(rng)).initial_params)
    target_update, exploration = Hard(interval=3, unit="update"), np.random.default_rng(0)
    return Agent(network, ACTIONS, learner, target_update, exploration, resets=resets or None)


def some_storage() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return columns(
        Batch(
            obs=torch.randn(30, OBS, generator=generator),
            action=torch.randint(ACTIONS, (30,), generator=generator),
            reward=torch.randn(30, generator=generator),
            discount=torch.full((30,), 0.9),
            next_obs=torch.randn(30, OBS, generator=generator),
        )
    )


def learn(agent: Agent, updates: int) -> None:
    for _ in range(updates):
        agent.learn(some_storage(), torch.arange(30), torch.ones(30))


@pytest.mark.parametrize("optimizer", [Adam(amsgrad=True), RMSprop(), SGD(momentum=0.9)])
def test_the_last_layers_are_drawn_anew_and_the_others_go_on(optimizer):
    agent, other = make_agent(optimizer), make_agent(optimizer, interval=None)
    learn(agent, INTERVAL)
    learn(other, INTERVAL)
    state, without = agent.learner.state, other.learner.state
    drawn = make_network(draw_seed(np.random.default_rng(7))).initial_params
    for params, before in (
        (state.params, without.params),
        (state.target_params, without.target_params),
    ):
        assert torch.equal(params[:CUT], before[:CUT])
        assert torch.equal(params[CUT:], drawn[CUT:])
        assert not torch.isclose(params[CUT:], before[CUT:]).all()
    slots, slots_without = torch.stack(state.slots), torch.stack(without.slots)
    assert torch.equal(slots[:, :CUT], slots_without[:, :CUT])
    assert slots[:, :CUT].any()
    assert not slots[:, CUT:].any()
    assert slots_without[:, CUT:].any()


def test_resets_come_every_so_many_updates_and_each_draws_other_weights():
    agent, last, at = make_agent(Adam()), [], []
    for update in range(1, 3 * INTERVAL + 1):
        learn(agent, 1)
        if not torch.stack(agent.learner.state.slots)[:, CUT:].any():
            at.append(update)
            last.append(agent.learner.state.params[CUT:].clone())
    assert at == [INTERVAL, 2 * INTERVAL, 3 * INTERVAL]
    assert not torch.isclose(last[0], last[1]).all()


def test_the_optimizer_begins_anew_with_the_last_layers():
    """They go on as if all of it were new: Adam's first steps are not those of a late count."""
    agent = make_agent(Adam())
    learn(agent, INTERVAL)
    now = agent.learner.state
    fresh = make_agent(Adam(), interval=None)
    fresh.learner.state.params.copy_(now.params)
    fresh.learner.state.target_params.copy_(now.target_params)
    agent.learner.copy_target()
    fresh.learner.copy_target()
    learn(agent, 1)
    learn(fresh, 1)
    assert torch.equal(now.params[CUT:], fresh.learner.state.params[CUT:])
    assert not torch.equal(now.params[:CUT], fresh.learner.state.params[:CUT])
    size = now.params[CUT:] - make_network(draw_seed(np.random.default_rng(7))).initial_params[CUT:]
    assert size.abs().max() <= 0.01 * 1.001  # Adam's first step is at most the learning rate


def run_state(run: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    return state["agent"]


def test_a_run_that_is_compiled_resets_as_one_that_is_not(train):
    """The last reset is at the last of 251 updates: what it left is to be seen."""
    same = ["agent.reset_interval=251", "network.hidden_sizes=[8,6]", "buffer.capacity=300"]
    states = [run_state(train(name, *same, f"compile={name}")) for name in ("never", "always")]
    first = CUT + (16 if len(states[0]["params"]) > 129 else 0)  # layer norm's
    for state in states:
        assert state["updates"] == 251
        assert not state["slots"][:, first:].any()
        assert torch.equal(state["params"][first:], state["target_params"][first:])
    for name in ("params", "target_params", "slots", "num_updates"):
        torch.testing.assert_close(states[0][name], states[1][name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("agent", ["dqn", "c51", "qr_dqn", "iqn", "hl_gauss"])
@pytest.mark.parametrize("network", [[], ["network.dueling=true", "network.noisy=0.5"]])
def test_the_last_layers_of_each_representation(compose, agent, network):
    """The streams, one or two and with their noise, but not the embedding of IQN's fractions."""
    config, obs = compose(f"agent={agent}", *network), ObsSpec((OBS,), np.dtype(np.float32))
    module = make_q_network(config.network, obs, ACTIONS, config.agent.head)
    module.requires_grad_(False)
    for parameter in module.parameters():
        parameter.fill_(0.0)
    for name, layer in module.head.streams.named_modules():
        if isinstance(layer, torch.nn.Linear | NoisyLinear | torch.nn.LayerNorm):
            assert name.startswith(("actions.", "value.")), name
            for parameter in layer.parameters():
                parameter.fill_(1.0)
    flat = FlatNetwork(module)
    expected = torch.zeros_like(flat.initial_params)
    expected[flat.last_layers] = 1.0
    assert torch.equal(flat.initial_params, expected)
    assert 0.0 < expected.mean() < 1.0


@pytest.mark.parametrize("agent", ["c51", "iqn"])
def test_a_run_resets_whatever_it_learns(train, agent, monkeypatch):
    settings = ["network.dueling=true", "network.noisy=0.5", "network.hidden_sizes=[16,16]"]
    monkeypatch.setattr(flat_module, "MOST_BY_ROWS", 40)  # more lie by columns
    state = run_state(train("run", f"agent={agent}", *settings, "agent.reset_interval=251"))
    reset = state["num_updates"] == 0
    assert 0 < reset.sum() < len(reset)
    assert state["slots"][:, ~reset].any()
    assert not state["slots"][:, reset].any()
    assert torch.equal(state["params"][reset], state["target_params"][reset])


class Own(torch.nn.Sequential):
    """A network of the user's own."""

    def __init__(self, obs_shape: tuple[int, ...], num_actions: int) -> None:
        super().__init__(torch.nn.Linear(obs_shape[0], 8), torch.nn.Linear(8, num_actions))


@pytest.mark.usefixtures("curves_for_swanlab")
def test_a_network_of_the_users_own_is_drawn_anew_as_a_whole(compose, tmp_path):
    settings = compose("agent.reset_interval=251").plain()
    config = parse({**settings, "network": {"name": f"{__name__}:Own"}})
    run(config, tmp_path, Console(quiet=True))
    state = run_state(tmp_path)
    assert not state["slots"].any()
    assert not state["num_updates"].any()
    assert torch.equal(state["params"], state["target_params"])
