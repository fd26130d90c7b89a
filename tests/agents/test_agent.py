"""The agent: coins of exploration, greedy choices, and the moments when the target is copied."""

import numpy as np
import pytest
import torch
from building import columns, mlp, rule_of
from scipy import special, stats
from torch import nn

from dqn_runner.agents.agent import Agent
from dqn_runner.agents.dqn import DQNSpec
from dqn_runner.agents.policies import GreedyPolicy, SoftmaxPolicy
from dqn_runner.learning.compilation import CompilationError
from dqn_runner.learning.learner import Learner
from dqn_runner.learning.optimizers import SGD
from dqn_runner.networks import flat
from dqn_runner.networks.cnn import MinAtarCNNSpec
from dqn_runner.networks.flat import FlatNetwork
from dqn_runner.networks.heads import QNetwork, ScalarHead, make_network, make_scalar_head
from dqn_runner.networks.init import initialize
from dqn_runner.networks.streams import CustomStreams
from dqn_runner.networks.torsos import AsObserved
from dqn_runner.target_update import Hard, Soft
from dqn_runner.types import Batch, ObsSpec, Progress

N, A = 8, 20


class Linear(nn.Module):
    """A network of the user's own, which acts through torch."""

    def __init__(self, obs_shape, num_actions):
        super().__init__()
        self.q = nn.Linear(obs_shape[0], num_actions)

    def forward(self, obs):
        return self.q(obs)


def spec_of(**settings):
    """An agent's settings; those not named are of no account here."""
    given = {"lr": 2.0, "gamma": 0.5, "n_step": 1, "double": False, "loss": "mse",
             "max_grad_norm": None, "max_grad_value": None, "optimizer": {"name": "adam"},
             **settings}  # fmt: skip
    return DQNSpec.model_validate(given)


def make_agent(
    target_update=None, seed=0, build=lambda: mlp((4,), A, [8], "tanh"), temperature=None
):
    network = FlatNetwork(initialize(build, 1))
    target_update = target_update or Hard(interval=10, unit="update")
    soft = isinstance(target_update, Soft)
    rule = rule_of(network, optimizer=SGD(), soft_target=soft)
    numbers = {"lr": 0.1, **SGD().hyperparameters()}
    if soft:
        numbers["tau"] = target_update.tau
    learner = Learner(rule, numbers, network.initial_params)
    rng = np.random.default_rng(seed)
    return Agent(network, A, learner, target_update, rng, temperature=temperature)


def learn(agent, batch, rows=None):
    """An update on those rows of the batch, or on all of them; returns their priorities."""
    rows = torch.arange(30) if rows is None else rows
    return agent.learn(columns(batch), rows, torch.ones(len(rows)))


def some_obs(count=N):
    return np.random.default_rng(3).normal(size=(count, 4)).astype(np.float32)


def some_storage():
    generator = torch.Generator().manual_seed(0)
    return Batch(
        obs=torch.randn(30, 4, generator=generator),
        action=torch.randint(A, (30,), generator=generator),
        reward=torch.randn(30, generator=generator),
        discount=torch.full((30,), 0.9),
        next_obs=torch.randn(30, 4, generator=generator),
    )


def deviations(epsilon, steps, seed=0):
    """Whether each action [steps, N] differs from the greedy one, and the actions themselves."""
    agent, obs = make_agent(seed=seed), some_obs()
    greedy = agent.policy(obs)
    actions = np.stack([agent.act(obs, epsilon) for _ in range(steps)])
    return actions != greedy, actions


def test_greedy_is_the_first_action_of_highest_value():
    agent, obs = make_agent(), some_obs(50)
    params = agent.learner.state.params
    weight1, bias1, weight2, bias2 = (piece.numpy() for piece in params.split([32, 8, 8 * A, A]))
    hidden = np.tanh(obs @ weight1.reshape(8, 4).T + bias1)
    q_values = hidden @ weight2.reshape(A, 8).T + bias2
    expected = [max(range(A), key=row.__getitem__) for row in q_values.tolist()]
    assert agent.policy(obs).tolist() == expected
    assert len(set(expected)) > 1
    ties = GreedyPolicy(lambda obs: np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]))
    assert ties(obs).tolist() == [1, 0]


@pytest.mark.parametrize("temperature", [None, 0.5])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0])
def test_only_allowed_actions_are_taken(epsilon, temperature):
    agent, obs = make_agent(temperature=temperature), some_obs()
    mask = np.random.default_rng(0).random((N, A)) < 0.3
    mask[0] = np.arange(A) == 7
    actions = np.stack([agent.act(obs, epsilon, mask) for _ in range(400)])
    assert all(mask[i, action] for row in actions for i, action in enumerate(row))
    if epsilon == 1.0:  # the allowed ones equally often
        counts = np.bincount(actions[:, 1], minlength=A)[mask[1]]
        assert stats.chisquare(counts).pvalue > 1e-3


def test_the_greedy_action_is_the_best_of_those_allowed():
    agent, obs = make_agent(), some_obs(50)
    learner = agent.learner
    outputs = learner.rule.network(learner.state.params, (), torch.from_numpy(obs))
    mask = np.random.default_rng(0).random((50, A)) < 0.3
    mask[:, 3] = True
    pairs = zip(outputs.q_values.tolist(), mask, strict=True)
    expected = [max(np.flatnonzero(allowed), key=row.__getitem__) for row, allowed in pairs]
    assert agent.policy(obs, mask).tolist() == expected
    assert (agent.policy(obs) != expected).any()


def test_without_exploration_every_action_is_greedy():
    deviates, actions = deviations(0.0, 500)
    assert not deviates.any()
    assert actions.shape == (500, N)


def test_with_epsilon_one_actions_are_uniform():
    _, actions = deviations(1.0, 5000)
    for i in range(N):
        assert stats.chisquare(np.bincount(actions[:, i], minlength=A)).pvalue > 1e-4


@pytest.mark.parametrize("epsilon", [0.01, 0.3, 0.9])
def test_each_environment_explores_with_probability_epsilon(epsilon):
    """A random action is the greedy one once in A times, so ε·(1 - 1/A) of them deviate."""
    deviates, _ = deviations(epsilon, 8000)
    for i in range(N):
        count = int(deviates[:, i].sum())
        assert stats.binomtest(count, 8000, epsilon * (1 - 1 / A)).pvalue > 1e-4


def test_the_coins_of_the_environments_are_independent():
    """The number that explore at a step is binomial, and no two environments are correlated."""
    deviates, _ = deviations(0.3, 20_000)
    probability = 0.3 * (1 - 1 / A)
    counts = np.bincount(deviates.sum(axis=1), minlength=N + 1)
    expected = 20_000 * stats.binom.pmf(range(N + 1), N, probability)
    joined = [[*column[:6], column[6:].sum()] for column in (counts, expected)]
    assert stats.chisquare(*joined).pvalue > 1e-4
    correlation = np.corrcoef(deviates.T.astype(float)) - np.eye(N)
    assert np.abs(correlation).max() < 4.5 / np.sqrt(20_000)


def test_coins_are_independent_from_step_to_step():
    deviates, _ = deviations(0.3, 20_000)
    series = deviates.astype(float) - deviates.mean()
    lagged = (series[1:] * series[:-1]).mean(axis=0) / series.var()
    assert np.abs(lagged).max() < 4.5 / np.sqrt(20_000)


def test_where_an_environment_explores_its_action_is_uniform_whatever_the_coin():
    """Coin and action come from separate draws: among deviations all other actions are equal."""
    deviates, actions = deviations(0.3, 20_000)
    greedy = make_agent().policy(some_obs())
    for i in range(N):
        counts = np.bincount(actions[deviates[:, i], i], minlength=A)
        assert counts[greedy[i]] == 0
        assert stats.chisquare(np.delete(counts, greedy[i])).pvalue > 1e-4


def test_exploration_draws_from_its_own_generator_alone():
    first = deviations(0.5, 50, seed=4)[1]
    np.random.seed(1)
    torch.manual_seed(1)
    assert np.array_equal(deviations(0.5, 50, seed=4)[1], first)
    assert not np.array_equal(deviations(0.5, 50, seed=5)[1], first)


def test_what_is_drawn_does_not_depend_on_what_was_learned():
    """Two agents of one seed explore at the same moments, whatever their networks prefer."""
    agent, learned, obs = make_agent(), make_agent(), some_obs()
    for _ in range(20):
        learn(learned, some_storage())
    differ = agent.policy(obs) != learned.policy(obs)
    assert differ.any()
    for _ in range(200):
        one, other = np.array(agent.act(obs, 0.5)), np.array(learned.act(obs, 0.5))
        followed = (one == agent.policy(obs)) & (other == learned.policy(obs))
        assert (followed | (one == other)).all()


ANY_OBS = np.zeros((2, 4), np.float32)
Q_VALUES = np.array([[1.0, 2.0, 0.5, 2.0], [-3.0, 0.0, 4.0, 4.5]], np.float32)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 5.0])
def test_softmax_draws_in_proportion_to_the_exponentials(temperature):
    policy = SoftmaxPolicy(lambda obs: Q_VALUES, temperature, np.random.default_rng(0))
    actions = np.stack([policy(ANY_OBS) for _ in range(20_000)])
    assert actions.shape == (20_000, 2)
    for row, q_values in enumerate(Q_VALUES):
        expected = 20_000 * special.softmax(q_values.astype(float) / temperature)
        counts = np.bincount(actions[:, row], minlength=4)
        likely = expected > 5
        assert counts[~likely].sum() <= 40
        expected = expected[likely] * counts[likely].sum() / expected[likely].sum()
        assert stats.chisquare(counts[likely], expected).pvalue > 1e-4
    assert abs(stats.pearsonr(*actions.T).statistic) < 4.5 / np.sqrt(20_000)  # a draw for each row


def test_softmax_stays_finite_for_values_of_any_size():
    large = np.float32(3e38)
    q_values = np.array([[large, -large, large], [-large, -large, -large]], np.float32)
    policy = SoftmaxPolicy(lambda obs: q_values, 1e-3, np.random.default_rng(1))
    with np.errstate(all="raise"):
        actions = np.stack([policy(ANY_OBS) for _ in range(6000)])
    first, second = (np.bincount(actions[:, row], minlength=3) for row in range(2))
    assert first[1] == 0
    assert stats.binomtest(int(first[0]), 6000).pvalue > 1e-4
    assert stats.chisquare(second).pvalue > 1e-4


def test_softmax_of_the_lowest_temperature_is_greedy():
    policy = SoftmaxPolicy(lambda obs: Q_VALUES[1:], 1e-6, np.random.default_rng(2))
    assert {int(policy(ANY_OBS)[0]) for _ in range(500)} == {3}


@pytest.mark.parametrize("epsilon", [0.0, 0.4, 1.0])
def test_a_softmax_agent_mixes_random_actions_with_its_policy(epsilon):
    """Each environment: ε uniform, and the rest of it softmax of Q over temperature."""
    agent, obs = make_agent(temperature=0.1), some_obs()
    q_values = agent.policy._q_function(obs).astype(float)
    actions = np.stack([agent.act(obs, epsilon) for _ in range(8000)])
    for i in range(N):
        expected = epsilon / A + (1 - epsilon) * special.softmax(q_values[i] / 0.1)
        counts = np.bincount(actions[:, i], minlength=A)
        assert stats.chisquare(counts, 8000 * expected).pvalue > 1e-4


def test_a_seeded_softmax_policy_depends_on_its_seeds_alone():
    agent, obs = make_agent(temperature=0.5), some_obs(200)
    first = agent.policy.seeded([3, 4])(obs).tolist()
    agent.act(obs, 0.5)
    np.random.seed(1)
    assert agent.policy.seeded([3, 4])(obs).tolist() == first
    copied = agent.policy_of(agent.learner.state.params.clone())
    assert copied.seeded([3, 4])(obs).tolist() == first
    assert agent.policy.seeded([3, 5])(obs).tolist() != first


def test_evaluating_a_softmax_policy_does_not_move_exploration():
    agents, obs = [make_agent(temperature=0.5) for _ in range(2)], some_obs()
    for _ in range(10):
        agents[1].policy.seeded([1])(obs)
        assert agents[0].act(obs, 0.3) == agents[1].act(obs, 0.3)


@pytest.mark.parametrize("interval", [1, 3, 5])
def test_a_hard_target_in_updates_is_copied_after_every_interval(interval):
    agent, storage = make_agent(Hard(interval=interval, unit="update")), some_storage()
    expected = agent.learner.state.params.clone()
    for update in range(1, 13):
        learn(agent, storage)
        agent.observe_env_steps(100 * update - 100, 100 * update)
        if update % interval == 0:
            expected = agent.learner.state.params.clone()
        assert torch.equal(agent.learner.state.target_params, expected)


def test_a_hard_target_in_env_steps_is_copied_if_the_interval_is_crossed():
    """Eight steps at a time and an interval of 20: copies at 24, 40, 64, 80, …."""
    agent, storage = make_agent(Hard(interval=20, unit="env_step")), some_storage()
    expected = agent.learner.state.params.clone()
    copied_at = []
    for before in range(0, 120, 8):
        learn(agent, storage)
        assert torch.equal(agent.learner.state.target_params, expected)
        agent.observe_env_steps(before, before + 8)
        if any(t % 20 == 0 for t in range(before + 1, before + 9)):
            expected = agent.learner.state.params.clone()
            copied_at.append(before + 8)
    assert copied_at == [24, 40, 64, 80, 104, 120]


def test_a_copy_that_is_due_is_part_of_the_state():
    """Saved between the step at which it fell due and the next update, it is not forgotten."""
    agent, storage = make_agent(Hard(interval=20, unit="env_step")), some_storage()
    learn(agent, storage)
    agent.observe_env_steps(10, 20)
    online = agent.learner.state.params.clone()
    resumed = make_agent(Hard(interval=20, unit="env_step"))
    resumed.set_state(agent.get_state())
    learn(resumed, storage)
    assert torch.equal(resumed.learner.state.target_params, online)


def test_a_soft_target_moves_at_each_update_and_never_jumps():
    agent, storage = make_agent(Soft(tau=0.25)), some_storage()
    expected = agent.learner.state.params.clone()
    for update in range(10):
        learn(agent, storage)
        agent.observe_env_steps(1000 * update, 1000 * update + 1000)
        expected = 0.75 * expected + 0.25 * agent.learner.state.params
        assert torch.allclose(agent.learner.state.target_params, expected, atol=1e-6)


def test_learning_returns_the_sizes_of_the_td_errors_of_the_rows():
    agent, storage = make_agent(), some_storage()
    q_function = agent.policy._q_function
    rows = torch.tensor([4, 0, 17])
    expected = []
    for row in rows.tolist():
        q_row = q_function(storage.obs[row : row + 1].numpy())[0]
        next_row = q_function(storage.next_obs[row : row + 1].numpy())[0]
        target = storage.reward[row].item() + 0.9 * next_row.max()
        expected.append(target - q_row[storage.action[row]])
    assert learn(agent, storage, rows).tolist() == pytest.approx(
        np.abs(expected).tolist(), abs=1e-5
    )


BUILDS = {"mlp": lambda: mlp((4,), A, [8], "tanh"), "custom": lambda: Linear((4,), A)}


@pytest.mark.parametrize("name", BUILDS)
def test_the_greedy_policy_follows_learning_and_that_of_a_copy_does_not(name):
    agent, obs, storage = make_agent(build=BUILDS[name]), some_obs(200), some_storage()
    before = agent.policy(obs).tolist()
    copied = agent.policy_of(agent.learner.state.params.clone())
    assert copied(obs).tolist() == before
    for _ in range(30):
        learn(agent, storage)
    assert copied(obs).tolist() == before
    assert agent.policy(obs).tolist() != before


def test_the_state_is_what_was_learned():
    agent = make_agent()
    for _ in range(3):
        learn(agent, some_storage())
    state = agent.get_state()
    assert state["updates"] == 3
    other = make_agent()
    other.set_state(state)
    assert other.act(some_obs(), 0.5) == agent.act(some_obs(), 0.5)
    for name, tensors in agent.learner.state._asdict().items():
        assert torch.equal(state[name], torch.stack(tensors) if name == "slots" else tensors)


def schedule_of_torch(name):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=2.0)
    if name == "linear":
        return torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=40)
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40, eta_min=0.02)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_learning_rates_fall_as_torchs_schedules_do_and_then_stay(name):
    spec, torchs = spec_of(lr_schedule=name, lr_decay_steps=40), schedule_of_torch(name)
    for env_steps in range(41):
        assert spec.learning_rate(env_steps) == pytest.approx(torchs.get_last_lr()[0])
        torchs.optimizer.step()  # which torch wants to come before the schedule's
        torchs.step()
    assert spec.learning_rate(41) == spec.learning_rate(10**9) == pytest.approx(0.02)


def test_a_constant_learning_rate_is_the_default():
    assert {spec_of().learning_rate(env_steps) for env_steps in (0, 10, 10**9)} == {2.0}


def test_the_numbers_that_move_are_the_learning_rate_and_the_bounds_of_clipped_targets():
    progress = Progress(env_steps=20)
    progress.see([0.0, -1.0], [False, False])
    progress.see([3.0, 2.0], [True, False])
    decaying = {"lr_schedule": "linear", "lr_decay_steps": 40}
    assert spec_of().moving_hyperparameters(progress, 2) == {"lr": 2.0}
    numbers = spec_of(clip_target=True, **decaying).moving_hyperparameters(progress, 2)
    assert numbers == {"lr": pytest.approx(1.01), "return_low": -2.0, "return_high": 6.0}


def convolutional():
    """A noisy network on images."""
    spec = MinAtarCNNSpec(hidden_size=8, noisy=2.0)
    return make_network(spec, ObsSpec((5, 5, 2), np.dtype(np.uint8)), A, make_scalar_head)


def test_compiled_acting_is_the_same_acting(monkeypatch):
    """With the same noise, and with parameters as they change."""
    compiled, eager = make_agent(build=convolutional), make_agent(build=convolutional)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 2, 5, 5, 2), np.uint8)
    monkeypatch.setattr(compiled.learner, "compile", lambda *_: None)
    compiled.compile((), 0, images[0])
    calls, of_torch = [], flat._Holding.__call__

    def counted(self, *arguments):
        calls.append(len(arguments))
        return of_torch(self, *arguments)

    monkeypatch.setattr(flat._Holding, "__call__", counted)
    chosen = []
    for obs in images:
        chosen.append(eager.act(obs, 0.3))
        calls.clear()
        assert compiled.act(obs, 0.3) == chosen[-1]
        assert not calls
        for agent in (eager, compiled):
            agent.learner.state.params.mul_(-1.5)
    assert len({tuple(actions) for actions in chosen}) > 3
    assert compiled.act(images[0, :1], 0.0) == eager.act(images[0, :1], 0.0)  # of another shape
    assert len(calls) == 2


FLAT = ObsSpec((4,), np.dtype(np.float32))


def of_own_layers():
    """A network of the user's own below a head of ours."""
    return QNetwork(AsObserved(FLAT), ScalarHead(CustomStreams(Linear((4,), A), A, 1)))


@pytest.mark.parametrize(
    "build", [lambda: mlp((4,), A, [8]), lambda: Linear((4,), A), of_own_layers]
)
def test_only_our_networks_that_need_torch_act_compiled(monkeypatch, build):
    agent = make_agent(build=build)
    before = agent._behavior
    monkeypatch.setattr(Learner, "compiled_values", None)
    monkeypatch.setattr(Learner, "compile", lambda *_: None)
    agent.compile((), 0, some_obs())
    assert agent._behavior is before


def test_what_cannot_be_compiled_leaves_all_as_it_was(monkeypatch):
    agent = make_agent(build=convolutional)
    before = agent._behavior

    def refuse(*_):
        raise CompilationError

    monkeypatch.setattr(Learner, "compiled_values", lambda *_: None)
    monkeypatch.setattr(Learner, "compile", refuse)
    with pytest.raises(CompilationError):
        agent.compile((), 0, np.zeros((1, 5, 5, 2), np.uint8))
    assert agent._behavior is before
