"""What each representation learns of small problems, against closed forms and value iteration."""

import math

import numpy as np
import pytest
import torch
from building import AGENTS, agent_of, mlp, numbers_of, rule_for

from dqn_runner.agents.iqn import IQNSpec
from dqn_runner.buffers.rows import RowStorage
from dqn_runner.learning.learner import Learner
from dqn_runner.networks.flat import FlatNetwork
from dqn_runner.networks.heads import midpoints
from dqn_runner.networks.init import initialize
from dqn_runner.types import ObsSpec, Outputs, Transition

BATCH, UPDATES, TRANSITIONS = 128, 600, 10_000


def stored(draw, num_states, rng):
    """A storage of transitions (state, action, reward, discount, next state) that `draw` gives."""
    obs_spec = ObsSpec((num_states,), np.dtype(np.float32))
    storage = RowStorage(TRANSITIONS, obs_spec, torch.device("cpu"))
    one_hot = np.eye(num_states, dtype=np.float32)
    for _ in range(TRANSITIONS):
        state, action, reward, discount, following = draw(rng)
        storage.add(Transition(one_hot[state], action, reward, discount, one_hot[following]))
    return storage


def learned(agent, draw, num_states, num_actions) -> Outputs:
    """What the network says of each state at the end; the learning rate falls to 0.

    Of implicit quantiles at the midpoints of 32 equal shares.
    """
    rng = np.random.default_rng(0)
    module = initialize(lambda: mlp((num_states,), num_actions, [32, 32], agent=agent), 0)
    network = FlatNetwork(module)
    learner = Learner(
        rule_for(agent, network, soft_target=True), numbers_of(agent, num_actions, tau=0.05),
        network.initial_params, network.buffers,
    )  # fmt: skip
    storage, weights = stored(draw, num_states, rng), torch.ones(BATCH)
    for update in range(UPDATES):
        learner.set_hyperparameters({"lr": agent.lr * (1 - update / UPDATES)})
        rows = torch.from_numpy(rng.integers(TRANSITIONS, size=BATCH))
        learner.update(storage.tensors, rows, weights, network.draw_noise(rng, BATCH))
    taus = midpoints(32).repeat(num_states) if isinstance(agent, IQNSpec) else None
    return network(learner.state.params, learner.buffers, torch.eye(num_states), taus)


# A chain of two states with two arms each: mean and standard deviation of the reward, next state.
ARMS = {
    (0, 0): (1.0, 1.0, 1),
    (0, 1): (2.0, 2.0, None),  # the end
    (1, 0): (1.0, 0.5, 1),
    (1, 1): (-0.5, 1.5, 0),
}
GAMMA = 0.7


def pull(rng):
    """A transition by a random arm, whose reward is uniform."""
    state, arm = (int(i) for i in rng.integers(2, size=2))
    mean, deviation, following = ARMS[state, arm]
    reward = mean + deviation * math.sqrt(3) * rng.uniform(-1, 1)
    ends = following is None
    return state, arm, reward, 0.0 if ends else GAMMA, 0 if ends else following


def means_and_deviations():
    """Those of the return of each arm under the policy that is best, which is arm 0 for ever."""
    stay = 1.0 / (1 - GAMMA), 0.25 / (1 - GAMMA**2)  # mean, variance
    begin = 1.0 + GAMMA * stay[0], 1.0 + GAMMA**2 * stay[1]
    end = 2.0, 4.0
    back = -0.5 + GAMMA * begin[0], 2.25 + GAMMA**2 * begin[1]
    assert begin[0] > end[0]
    assert stay[0] > back[0]
    pairs = np.array([[begin, end], [stay, back]])
    return pairs[..., 0], np.sqrt(pairs[..., 1])


SETTINGS = {
    "dqn": {"loss": "mse"},
    "c51": {"v_min": -5.0, "v_max": 8.0, "num_atoms": 53},
    "qr_dqn": {"num_quantiles": 32, "kappa": 0.0},
    "iqn": {"num_tau": 8, "num_tau_next": 8, "num_tau_act": 16, "embedding_dim": 16, "kappa": 0.0},
    "hl_gauss": {"v_min": -5.0, "v_max": 8.0, "num_bins": 40},
}


def deviations(outputs):
    """The standard deviations of the distributions over atoms or by quantiles."""
    if outputs.grid.shape == (53,):
        chances, atoms = outputs.distribution.softmax(2), outputs.grid
        return ((chances * atoms.square()).sum(2) - outputs.q_values.square()).sqrt()
    return outputs.distribution.std(dim=2, correction=0)


@pytest.mark.parametrize("name", AGENTS)
def test_returns_of_a_chain_of_random_rewards(name):
    """Their means by all; their standard deviations by those that learn a distribution."""
    outputs = learned(agent_of(name, lr=5e-3, gamma=GAMMA, **SETTINGS[name]), pull, 2, 2)
    mean, deviation = means_and_deviations()
    assert outputs.q_values.numpy() == pytest.approx(mean, abs=0.15)
    if name in {"c51", "qr_dqn", "iqn"}:
        assert deviations(outputs).numpy() == pytest.approx(deviation, rel=0.1)


def random_mdp(num_states=5, num_actions=3):
    """Chances [S, A, S] of the next state, chances [S, A] of the end, and rewards [S, A]."""
    rng = np.random.default_rng(5)
    following = rng.dirichlet(np.full(num_states, 0.5), size=(num_states, num_actions))
    ends = np.where(rng.random((num_states, num_actions)) < 0.3, 0.5, 0.0)
    return following, ends, rng.uniform(-1, 2, size=(num_states, num_actions))


def by_value_iteration(following, ends, reward, gamma):
    """The values [S, A] of the best policy."""
    q = np.zeros_like(reward)
    for _ in range(200):
        q = reward + gamma * (1 - ends) * (following @ q.max(axis=1))
    return q


@pytest.mark.parametrize("name", AGENTS)
def test_values_of_a_small_mdp_are_those_of_value_iteration(name):
    following, ends, reward = random_mdp()
    num_states, num_actions = reward.shape

    def draw(rng):
        state, action = int(rng.integers(num_states)), int(rng.integers(num_actions))
        next_state = int(rng.choice(num_states, p=following[state, action]))
        ended = rng.random() < ends[state, action]
        return state, action, reward[state, action], 0.0 if ended else GAMMA, next_state

    agent = agent_of(name, lr=5e-3, gamma=GAMMA, **SETTINGS[name])
    q_values = learned(agent, draw, num_states, num_actions).q_values.numpy()
    expected = by_value_iteration(following, ends, reward, GAMMA)
    assert np.ptp(expected) > 1.0
    assert q_values == pytest.approx(expected, abs=0.15)
    assert (q_values.argmax(axis=1) == expected.argmax(axis=1)).all()
