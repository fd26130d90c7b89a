"""Policies of networks with buffers: kept by checkpoints, loaded, resumed, or refused."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dqn_runner.policy import load_policy
from dqn_runner.runs.metrics_file import read_metrics


class Projected(nn.Module):
    """A linear network on random features that stay as they were drawn."""

    def __init__(self, obs_shape, num_actions):
        super().__init__()
        self.register_buffer("projection", torch.randn(obs_shape[0], 8))
        self.head = nn.Linear(8, num_actions)

    def forward(self, obs):
        return self.head(torch.tanh(obs @ self.projection))


class Reshaped(nn.Linear):
    """A network with as many outputs as CartPole has actions, whatever it is asked for."""

    def __init__(self, obs_shape, num_actions):
        super().__init__(obs_shape[0], 2)


class Normalized(nn.Sequential):
    """A network with running statistics."""

    def __init__(self, obs_shape, num_actions):
        super().__init__(
            nn.Linear(obs_shape[0], 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, num_actions)
        )


def settings_of(network):
    return ("~network", f"+network.name={__name__}:{network}")


def rows(run):
    return [
        {key: value for key, value in row.items() if not key.startswith("time/")}
        for row in read_metrics(run / "metrics.jsonl")
    ]


@pytest.mark.parametrize("compile", ["never", pytest.param("always", marks=pytest.mark.slow)])
def test_a_network_with_buffers_trains_resumes_and_is_loaded(command, quick, compile):
    settings = (
        *quick,
        *settings_of("Projected"),
        f"compile={compile}",
        "agent.lr_schedule=constant",
    )
    assert command(*settings, "hydra.run.dir=whole").code == 0
    short = (*settings, "total_timesteps=200", "hydra.run.dir=resumed")
    assert command(*short).code == 0
    assert command("resume=resumed", "total_timesteps=300", "--trust").code == 0
    assert rows(Path("whole"))[-1] == rows(Path("resumed"))[-1]

    state = torch.load("whole/checkpoints/last.pt", weights_only=True)["agent"]
    (projection,) = state["buffers"]
    weight, bias = state["params"][:16].view(2, 8), state["params"][16:]
    obs = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    q_values = torch.tanh(torch.from_numpy(obs) @ projection) @ weight.T + bias
    policy = load_policy("whole", trust=True)
    assert policy.on_rows(obs).tolist() == q_values.argmax(dim=1).tolist()
    assert len(set(policy.on_rows(obs).tolist())) == 2


def test_a_policy_of_large_weights_is_that_of_its_checkpoint(command, quick):
    """Whose numbers lie as those of the layers in turn, each layer's by rows."""
    sizes = [(300, 4), (300,), (300, 300), (300,), (2, 300), (2,)]
    settings = ("agent=dqn", "agent.lr=1e-6", "network.norm=none", "network.hidden_sizes=[300,300]")
    outcome = command(*quick, *settings, "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    policy = load_policy("run")
    state = torch.load("run/checkpoints/last.pt", weights_only=True)
    best = torch.load("run/checkpoints/best.pt", weights_only=True)
    assert torch.equal(best["agent"]["params"], state["best"]["params"])
    pieces = state["agent"]["params"].split([math.prod(size) for size in sizes])
    w1, b1, w2, b2, w3, b3 = (p.view(s) for p, s in zip(pieces, sizes, strict=True))
    obs = 3 * torch.randn(300, 4)
    values = torch.relu(torch.relu(obs @ w1.T + b1) @ w2.T + b2) @ w3.T + b3
    assert [policy(row.numpy()) for row in obs] == values.argmax(dim=1).tolist()
    assert len(values.argmax(dim=1).unique()) == 2


def test_runs_of_two_seeds_differ_in_their_buffers_and_share_a_compilation(
    command, quick, cache_names
):
    for seed in (0, 1):
        settings = (*quick, *settings_of("Projected"), "compile=always", f"seed={seed}")
        assert command(*settings, f"hydra.run.dir=seed{seed}").code == 0
    states = [torch.load(f"seed{s}/checkpoints/last.pt", weights_only=True) for s in (0, 1)]
    first, second = (state["agent"]["buffers"][0] for state in states)
    assert not torch.equal(first, second)
    assert len(cache_names) == 2
    assert len(set(cache_names)) == 1


def test_a_network_that_an_update_cannot_use_is_refused_before_anything_is_made(command, quick):
    outcome = command(*quick, *settings_of("Normalized"), "hydra.run.dir=run")
    assert outcome.code == 2
    assert outcome.err == (
        f"dqn-train: error: network.name={__name__}:Normalized: layer 1 (BatchNorm1d) normalizes "
        "over the batch and keeps running statistics, which an update cannot do; use "
        "torch.nn.LayerNorm or torch.nn.GroupNorm\n"
    )
    assert not Path("run").exists()


@pytest.mark.parametrize("agent", ["c51", "qr_dqn", "hl_gauss"])
def test_a_network_of_the_users_own_gives_the_outputs_of_each_agent(command, quick, agent):
    """`num_actions` is the number of actions times that of atoms, quantiles or bins."""
    settings = (*quick, f"agent={agent}", *settings_of("Projected"))
    assert command(*settings, "hydra.run.dir=run").code == 0
    state = torch.load("run/checkpoints/last.pt", weights_only=True)["agent"]
    outputs = len(state["params"]) // 9
    (projection,) = (buffer for buffer in state["buffers"] if buffer.dim() == 2)
    weight, bias = state["params"][: 8 * outputs].view(outputs, 8), state["params"][8 * outputs :]
    obs = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    logits = (torch.tanh(torch.from_numpy(obs) @ projection) @ weight.T + bias).view(100, 2, -1)
    if agent == "qr_dqn":
        q_values = logits.mean(-1)
    else:
        (atoms,) = (b for b in state["buffers"] if b.dim() == 1)
        q_values = logits.softmax(-1) @ atoms
    policy = load_policy("run", trust=True)
    assert policy.on_rows(obs).tolist() == q_values.argmax(dim=1).tolist()


def test_iqn_refuses_a_network_of_the_users_own(command, quick):
    outcome = command(*quick, "agent=iqn", *settings_of("Projected"), "hydra.run.dir=run")
    assert outcome.code == 2
    assert outcome.err == (
        "dqn-train: error: agent=iqn: needs a network of this package, such as network=mlp, for τ "
        f"joins the features before the last layers; network.name={__name__}:Projected gives its "
        "outputs alone\n"
    )
    assert not Path("run").exists()


def test_a_network_of_too_few_outputs_is_refused_before_anything_is_made(command, quick):
    settings = ("agent=c51", "agent.num_atoms=11", *settings_of("Reshaped"))
    outcome = command(*quick, *settings, "hydra.run.dir=run")
    assert outcome.code == 2
    assert outcome.err == (
        f"dqn-train: error: network.name={__name__}:Reshaped: gives outputs of shape [2, 2] for 2 "
        "observations; with num_actions=22 they have [2, 22]\n"
    )
    assert not Path("run").exists()
