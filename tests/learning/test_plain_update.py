"""An update of each representation under each policy and with each option, against plain torch."""

from typing import Any

import numpy as np
import pytest
import torch
from building import AGENTS, agent_of, columns, mlp, numbers_of, rule_for
from plain_update import PlainLearner, plain_network

from dqn_runner.learning.learner import Learner
from dqn_runner.networks.flat import FlatNetwork
from dqn_runner.types import Batch

B, D, A, WIDTH, LAST = 12, 4, 3, 8, 6
TAU = 0.3
OPTIONS: dict[str, dict[str, Any]] = {
    "max": {},
    "double": {"double": True},
    "sarsa": {"td_target": "sarsa"},
    "munchausen": {"td_target": "munchausen", "munchausen": {"temperature": 0.3}},
    "dueling": {"dueling": True},
    "noisy": {"noisy": 0.5},
    "noisy double": {"noisy": 0.5, "double": True},
    "noisy munchausen": {"noisy": 0.5, "td_target": "munchausen"},
    "all of rainbow's": {"noisy": 0.5, "dueling": True, "double": True},
}


def random_batch(generator):
    return Batch(
        obs=torch.randn(B, D, generator=generator),
        action=torch.randint(A, (B,), generator=generator),
        reward=2 * torch.randn(B, generator=generator),
        discount=0.9 * (torch.rand(B, generator=generator) < 0.7).double(),
        next_obs=torch.randn(B, D, generator=generator),
        next_action=torch.randint(A, (B,), generator=generator),
    )


@pytest.fixture(autouse=True)
def _in_double_precision():
    """What a network makes of its settings, such as its atoms, too."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", AGENTS)
def test_updates_are_those_of_a_plain_torch_loop(name, option):
    """Three in double precision, with weights of rows, a clipped gradient and a soft target."""
    settings = dict(OPTIONS[option])
    dueling, noisy = settings.pop("dueling", False), settings.pop("noisy", None)
    agent = agent_of(name, lr=0.01, max_grad_norm=0.7, **settings)
    module = mlp((D,), A, [WIDTH, LAST], dueling=dueling, noisy=noisy, agent=agent)
    network = FlatNetwork(module)
    generator = torch.Generator().manual_seed(0)
    online, target = (
        0.5 * torch.randn(len(network.initial_params), generator=generator) for _ in range(2)
    )
    ours = Learner(rule_for(agent, network, soft_target=True), numbers_of(agent, A, TAU),
                   online, network.buffers)  # fmt: skip
    ours.state.target_params.copy_(target)
    online_network, target_network = (
        plain_network(agent, (D, WIDTH, A, LAST), params, dueling=dueling, noisy=noisy is not None)
        for params in (online, target)
    )
    theirs = PlainLearner(agent, online_network, target_network, TAU)
    rng = np.random.default_rng(1)
    for _ in range(3):
        batch, weights = random_batch(generator), torch.rand(B, generator=generator)
        noise = network.draw_noise(rng, B).double()
        num_normals = online_network.num_normals()
        pieces = [
            (piece[:num_normals], piece[num_normals:]) for piece in network.split_noise(noise, B)
        ]
        priorities = ours.update(columns(batch), torch.arange(B), weights, noise)
        expected = theirs.update(batch, weights, pieces)
        torch.testing.assert_close(priorities, expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(ours.state.params, theirs.params(), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(
            ours.state.target_params, theirs.target_params(), rtol=1e-9, atol=1e-9
        )
    assert (ours.state.params - online).abs().max() > 0.01
