"""How weights are drawn, against torch's own functions and the formulas of the literature."""

import numpy as np
import pytest
import torch
from building import mlp
from pydantic import TypeAdapter
from scipy import stats
from torch import nn

from dqn_runner.config.root import parse
from dqn_runner.errors import ConfigError
from dqn_runner.networks.init import InitSpec, TorchInit, initialize


def test_initialisation_is_the_one_torch_gives_its_layers():
    torch.manual_seed(9)
    layers = nn.Sequential(
        nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)
    )
    for mine, theirs in zip(
        initialize(lambda: mlp((4,), 3, [16, 8]), 9).parameters(), layers.parameters(), strict=True
    ):
        assert torch.equal(mine, theirs)


INITS = {
    # settings, and what torch is asked to do with each weight
    "uniform": ({"low": -0.1, "high": 0.3}, lambda w: nn.init.uniform_(w, -0.1, 0.3)),
    "normal": ({"std": 0.2}, lambda w: nn.init.normal_(w, 0.0, 0.2)),
    "orthogonal": ({"gain": 1.5}, lambda w: nn.init.orthogonal_(w, 1.5)),
    "xavier_uniform": ({"gain": 0.5}, lambda w: nn.init.xavier_uniform_(w, 0.5)),
    "xavier_normal": ({}, lambda w: nn.init.xavier_normal_(w, 1.0)),
    "kaiming_uniform": ({}, lambda w: nn.init.kaiming_uniform_(w, nonlinearity="relu")),
    "kaiming_normal": ({}, lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu")),
}


def init_of(name):
    return TypeAdapter(InitSpec).validate_python({"name": name, **INITS[name][0]})


@pytest.mark.parametrize("name", INITS)
def test_weights_are_what_torchs_own_initialisation_draws_and_biases_stay(name):
    """Layers made first, then the weights in order, from one seed."""
    torch.manual_seed(4)
    layers = [nn.Linear(4, 16), nn.Linear(16, 8), nn.Linear(8, 3)]
    for layer in layers:
        INITS[name][1](layer.weight)
    module = initialize(lambda: mlp((4,), 3, [16, 8], "relu", init_of(name)), 4)
    expected = [parameter for layer in layers for parameter in (layer.weight, layer.bias)]
    for mine, theirs in zip(module.parameters(), expected, strict=True):
        assert torch.equal(mine, theirs)


def large_weight(name):
    init = None if name == "torch" else init_of(name)
    module = initialize(lambda: mlp((200,), 100, [300, 300], "relu", init), 0)
    return module.get_parameter("torso.layers.0.weight").detach().double().numpy()  # [300, 200]


@pytest.mark.parametrize(
    ("name", "distribution"),
    [
        ("uniform", stats.uniform(-0.1, 0.4)),
        ("normal", stats.norm(0, 0.2)),
        ("xavier_uniform", stats.uniform(-0.5 * (6 / 500) ** 0.5, (6 / 500) ** 0.5)),
        ("xavier_normal", stats.norm(0, (2 / 500) ** 0.5)),
        ("kaiming_uniform", stats.uniform(-((6 / 200) ** 0.5), 2 * (6 / 200) ** 0.5)),
        ("kaiming_normal", stats.norm(0, (2 / 200) ** 0.5)),
        ("torch", stats.uniform(-((1 / 200) ** 0.5), 2 * (1 / 200) ** 0.5)),
    ],
)
def test_weights_have_the_distribution_of_the_literature(name, distribution):
    """The formulas, with 200 inputs and 300 outputs."""
    assert stats.kstest(large_weight(name).flatten(), distribution.cdf).pvalue > 1e-3


def test_orthogonal_weights_are_orthogonal():
    weight = large_weight("orthogonal")
    np.testing.assert_allclose(weight.T @ weight, 1.5**2 * np.eye(200), atol=1e-5)


def test_an_older_configuration_without_norm_has_none(compose):
    data = compose().plain()
    del data["network"]["norm"]
    assert parse(data).network.model_dump()["norm"] == "none"


def test_null_stands_for_torchs_own_initialisation(compose):
    data = compose().plain()
    data["network"]["init"] = None
    assert parse(data).network.model_dump()["init"] == TorchInit().model_dump()


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"name": "uniform", "low": 0.1, "high": 0.1},
            r"network\.init.*low=0.1: must be less than",
        ),
        ({"name": "uniform", "low": 0.1}, r"network\.init\.high: must be given"),
        ({"name": "normal", "std": 0}, r"network\.init\.std=0: .*greater than 0"),
        ({"name": "orthogonal", "low": 0.1}, r"low=0.1: orthogonal takes only name, gain"),
        ({"name": "zeros"}, r"network\.init\.name=zeros: must be one of torch, uniform, normal"),
    ],
)
def test_wrong_initialisations_are_refused(compose, settings, line):
    data = compose().plain()
    data["network"]["init"] = settings
    with pytest.raises(ConfigError, match=line):
        parse(data)


def test_initialisation_leaves_torchs_global_generator_as_it_was():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    initialize(lambda: mlp((4,), 3, [16, 8]), 77)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_initialisation_restores_the_generator_when_building_fails():
    def fail():
        torch.rand(1)
        raise RuntimeError("no such network")

    before = torch.random.get_rng_state()
    with pytest.raises(RuntimeError):
        initialize(fail, 1)
    assert torch.equal(torch.random.get_rng_state(), before)
