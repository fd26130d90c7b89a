"""Two streams, a state's value and its actions' advantages, against the paper's formula."""

import numpy as np
import pytest
import torch
from building import HEADS, mlp

from dqn_runner.networks.init import initialize

A = 3
OUTPUTS = {"scalar": 1, "categorical": 11, "quantile": 9, "implicit quantile": 1}


def dueling(head="scalar", seed=0, **settings):
    build = lambda: mlp((4,), A, [16, 8], dueling=True, head=head, **settings)  # noqa: E731
    return initialize(build, seed).requires_grad_(False)


def some_obs(count=32):
    return torch.from_numpy(np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32))


def layer(weight, bias, x):
    return weight.double().numpy() @ x + bias.double().numpy()


def stream(part, x):
    """A hidden layer, relu, and the outputs, in double precision."""
    hidden = np.maximum(layer(part.hidden.weight, part.hidden.bias, x), 0)
    return layer(part.outputs.weight, part.outputs.bias, hidden)


def test_values_are_those_of_equation_9_of_wang_and_others():
    """Q(s, a) = V(s) + A(s, a) - the mean of A(s, a') over a', row by row and action by action."""
    module, obs = dueling(), some_obs()
    actual = module(obs).q_values
    shared = module.torso(obs).double().numpy()
    streams = module.head.streams
    for row, features in enumerate(shared):
        (value,), advantages = stream(streams.value, features), stream(streams.actions, features)
        for action in range(A):
            expected = value + advantages[action] - sum(advantages) / A
            assert actual[row, action].item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("head", HEADS)
def test_the_mean_over_actions_is_the_value_of_the_state(head):
    """Output by output, in front of whatever the head makes of them."""
    module, obs = dueling(head), some_obs()
    streams, features = module.head.streams, module.torso(obs)
    outputs = streams(features)
    assert outputs.shape == (32, A, OUTPUTS[head])
    torch.testing.assert_close(outputs.mean(dim=1), streams.value(features))
    assert outputs.std(dim=1).min() > 1e-6


@pytest.mark.parametrize("head", HEADS)
def test_what_all_advantages_have_in_common_changes_nothing(head):
    module, obs = dueling(head), some_obs()
    before = module(obs).q_values
    bias = module.head.streams.actions.outputs.bias.view(A, OUTPUTS[head])
    bias += torch.linspace(-2.0, 3.0, OUTPUTS[head])  # the same for each action
    torch.testing.assert_close(module(obs).q_values, before, rtol=1e-4, atol=1e-5)
    bias[0] += torch.linspace(-2.0, 3.0, OUTPUTS[head])
    assert (module(obs).q_values - before).abs().max() > 1e-2


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("noisy", [None, 0.5])
def test_each_stream_has_a_hidden_layer_of_its_own(head, noisy):
    streams = dueling(head, noisy=noisy).head.streams
    for part, outputs in ((streams.value, OUTPUTS[head]), (streams.actions, A * OUTPUTS[head])):
        assert part.hidden.weight.shape == (8, 16)
        assert part.outputs.weight.shape == (outputs, 8)
    assert not torch.equal(streams.value.hidden.weight, streams.actions.hidden.weight)
