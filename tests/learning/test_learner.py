"""The update against a plain training loop, known chains, value iteration and its compiled self."""

import copy

import numpy as np
import pytest
import torch
from building import columns, learn, mlp, q_values, rule_of
from torch import nn

from dqn_runner.buffers.n_step import NStepAssembler
from dqn_runner.buffers.rows import RowStorage, gather
from dqn_runner.learning.learner import Learner
from dqn_runner.learning.optimizers import SGD, Adam
from dqn_runner.networks.flat import FlatNetwork
from dqn_runner.networks.init import initialize
from dqn_runner.types import Batch, EnvStep, ObsSpec

LR, NORM, VALUE = 0.05, 0.4, 0.03
METRICS = ("td_loss", "q_mean", "grad_norm", "q_min", "q_max")


class Net(nn.Module):
    """A small smooth network in double precision."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()

    def forward(self, obs):
        return self.layers(obs)


class Table(nn.Module):
    """Q-values themselves: for one-hot observations row s of the weights' transpose is Q(s, ·)."""

    def __init__(self, num_states, num_actions):
        super().__init__()
        self.q = nn.Linear(num_states, num_actions, bias=False)

    def forward(self, obs):
        return self.q(obs)


def random_storage(seed, size=50, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    obs, next_obs = torch.randn(2, size, 4, generator=generator, dtype=dtype)
    action = torch.randint(3, (size,), generator=generator)
    reward = 2 * torch.randn(size, generator=generator, dtype=dtype)
    discount = 0.9 * (torch.rand(size, generator=generator, dtype=dtype) > 0.2)
    return Batch(obs, action, reward, discount, next_obs)


def learner_for(
    network, *, optimizer=None, lr=LR, double=False, loss="mse", norm=None, value=None, tau=None,
    clip_target=False, sarsa=False,
):  # fmt: skip
    optimizer = optimizer or Adam()
    rule = rule_of(
        network, optimizer=optimizer, loss=loss, double=double, sarsa=sarsa,
        clip_norm=norm is not None, clip_value=value is not None, soft_target=tau is not None,
        clip_target=clip_target,
    )  # fmt: skip
    numbers = {"lr": lr, **optimizer.hyperparameters()}
    optional = {"max_grad_norm": norm, "max_grad_value": value, "tau": tau}
    numbers |= {name: number for name, number in optional.items() if number is not None}
    if clip_target:
        numbers |= {"return_low": 0.0, "return_high": 0.0}
    return Learner(rule, numbers, network.initial_params, network.buffers)


class PlainLoop:
    """The same algorithm as one would write it with modules and torch.optim."""

    def __init__(self, module, *, optimizer, double, loss, norm, value, tau):
        self.online, self.target = module, copy.deepcopy(module)
        self.online.requires_grad_(True)
        self.optimizer: torch.optim.Optimizer
        if isinstance(optimizer, Adam):
            self.optimizer = torch.optim.Adam(self.online.parameters(), lr=LR)
        else:
            momentum = optimizer.momentum
            self.optimizer = torch.optim.SGD(self.online.parameters(), lr=LR, momentum=momentum)
        self.double, self.loss, self.norm, self.value, self.tau = double, loss, norm, value, tau

    def update(self, storage, indices):
        """Returns TD errors and the metrics.

        Loss, mean Q-value, gradient norm before clipping, lowest and highest Q-value.
        """
        td_errors, losses, q_values = [], [], []
        for index in indices.tolist():
            obs, action, reward, discount, next_obs = (column[index] for column in storage[:5])
            with torch.no_grad():
                target_row = self.target(next_obs.unsqueeze(0))[0].tolist()
                selector = self.online if self.double else self.target
                row = selector(next_obs.unsqueeze(0))[0].tolist()
                next_value = target_row[row.index(max(row))]
            target = reward.item() + discount.item() * next_value
            q_value = self.online(obs.unsqueeze(0))[0, int(action)]
            prediction, wanted = q_value.reshape(1), torch.tensor([target], dtype=q_value.dtype)
            loss_class = nn.MSELoss if self.loss == "mse" else nn.SmoothL1Loss
            losses.append(loss_class()(prediction, wanted))
            td_errors.append(target - q_value.item())
            q_values.append(q_value.item())
        loss = torch.stack(losses).mean()
        self.optimizer.zero_grad()
        loss.backward()
        parameters = list(self.online.parameters())
        grad_norm = sum(p.grad.square().sum().item() for p in parameters) ** 0.5
        if self.value is not None:
            nn.utils.clip_grad_value_(parameters, self.value)
        if self.norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.norm)
        self.optimizer.step()
        if self.tau is not None:
            for mine, follows in zip(self.target.parameters(), parameters, strict=True):
                mine.data = (1 - self.tau) * mine.data + self.tau * follows.data
        extremes = min(q_values), max(q_values)
        return td_errors, (loss.item(), np.mean(q_values), grad_norm, *extremes)

    def flat(self, module):
        return torch.cat([p.detach().flatten() for p in module.parameters()])


CLIPS = [(None, None), (NORM, None), (None, VALUE), (0.1, VALUE)]
CHOICES = [
    {"double": double, "loss": loss, "norm": norm, "value": value, "tau": tau}
    for double in (False, True)
    for loss in ("mse", "huber")
    for norm, value in CLIPS
    for tau in (None, 0.2)
]


@pytest.mark.parametrize(
    "choices", CHOICES, ids=lambda choices: "-".join(map(str, choices.values()))
)
@pytest.mark.parametrize("optimizer", [Adam(), SGD(momentum=0.9)], ids=["adam", "sgd"])
def test_updates_equal_a_plain_training_loop(choices, optimizer):
    """Eight updates, with a target copied once if it is a hard one; values clip before norms."""
    settings = {**choices, "optimizer": optimizer}
    plain = PlainLoop(initialize(Net, 3), **settings)
    learner = learner_for(FlatNetwork(initialize(Net, 3)), **settings)
    storage, rng = random_storage(0), np.random.default_rng(1)
    for k in range(8):
        indices = torch.from_numpy(rng.integers(50, size=10))
        priority = learn(learner, storage, indices)
        expected_td_error, expected_metrics = plain.update(storage, indices)
        assert priority.shape == (10,)
        assert not priority.requires_grad
        assert priority.tolist() == pytest.approx(np.abs(expected_td_error).tolist(), abs=1e-8)
        metrics = learner.read_metrics()
        assert list(metrics) == [f"train/{name}" for name in METRICS]
        assert list(metrics.values()) == pytest.approx(expected_metrics, abs=1e-8)
        if choices["tau"] is None and k == 3:
            learner.copy_target()
            plain.target.load_state_dict(plain.online.state_dict())
        state = learner.state
        assert torch.allclose(state.params, plain.flat(plain.online), rtol=0, atol=1e-8)
        wanted = plain.flat(plain.target)
        assert torch.allclose(state.target_params, wanted, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("norm", "value"), [(NORM, None), (None, VALUE)])
def test_the_clips_of_the_comparison_bite(norm, value):
    """Otherwise the comparison with the plain loop would say nothing about clipping."""
    storage, indices = random_storage(0), torch.arange(10)
    free, clipped = (
        learner_for(FlatNetwork(initialize(Net, 3)), optimizer=SGD(), **clip)
        for clip in ({}, {"norm": norm, "value": value})
    )
    for learner in (free, clipped):
        learn(learner, storage, indices)
    step = clipped.state.params - FlatNetwork(initialize(Net, 3)).initial_params
    if norm is not None:
        assert step.norm().item() == pytest.approx(LR * norm, rel=1e-4)
    else:
        assert step.abs().max().item() == pytest.approx(LR * value)
    assert not torch.equal(free.state.params, clipped.state.params)
    assert free.read_metrics() == clipped.read_metrics()


def test_metrics_are_means_and_extremes_since_they_were_last_read():
    learner = learner_for(FlatNetwork(initialize(Net, 0)))
    plain = PlainLoop(
        initialize(Net, 0),
        optimizer=Adam(),
        double=False,
        loss="mse",
        norm=None,
        value=None,
        tau=None,
    )
    storage = random_storage(2)
    assert learner.read_metrics() == {}
    for count in (3, 1, 5):
        expected = []
        for k in range(count):
            indices = torch.arange(10) + 7 * k
            learn(learner, storage, indices)
            expected.append(plain.update(storage, indices)[1])
        *means, q_min, q_max = np.transpose(expected)
        metrics = learner.read_metrics()
        assert [metrics[f"train/{name}"] for name in METRICS] == pytest.approx(
            [*np.mean(means, axis=1), q_min.min(), q_max.max()]
        )
        assert learner.read_metrics() == {}
    assert learner.updates == 9
    assert learner.state.num_updates.item() == 9


def test_another_learning_rate_holds_from_the_next_update_on():
    plain = PlainLoop(initialize(Net, 0), optimizer=Adam(), double=True, loss="huber", norm=None,
                      value=None, tau=0.1)  # fmt: skip
    learner = learner_for(FlatNetwork(initialize(Net, 0)), double=True, loss="huber", tau=0.1)
    storage = random_storage(2)
    for k, lr in enumerate((LR, 0.02, 0.02, 0.3)):
        plain.optimizer.param_groups[0]["lr"] = lr
        learner.set_hyperparameters({"lr": lr})
        indices = torch.arange(10) + 7 * k
        plain.update(storage, indices)
        learn(learner, storage, indices)
        assert torch.allclose(learner.state.params, plain.flat(plain.online), rtol=0, atol=1e-8)


def test_targets_are_clipped_to_the_returns_that_are_possible():
    """TD errors row by row, with bounds that cut on both sides."""
    network = FlatNetwork(initialize(Net, 5))
    learner = learner_for(network, clip_target=True)
    learner.set_hyperparameters({"return_low": -0.5, "return_high": 0.25})
    storage, indices = random_storage(4), torch.arange(50)
    q_value = q_values(network, network.initial_params, storage.obs).gather(
        1, storage.action[:, None]
    )[:, 0]
    next_value = q_values(network, network.initial_params, storage.next_obs).amax(dim=1)
    target = storage.reward + storage.discount * next_value
    assert (target > 0.25).any()
    assert (target < -0.5).any()
    assert ((target > -0.5) & (target < 0.25)).any()
    expected = [min(max(y, -0.5), 0.25) for y in target.tolist()] - q_value.numpy()
    assert learn(learner, storage, indices).tolist() == pytest.approx(
        np.abs(expected).tolist(), abs=1e-9
    )


def test_target_stays_until_it_is_copied():
    learner = learner_for(FlatNetwork(initialize(Net, 0)))
    initial = learner.state.params.clone()
    for _ in range(5):
        learn(learner, random_storage(0), torch.arange(10))
    assert torch.equal(learner.state.target_params, initial)
    assert not torch.equal(learner.state.params, initial)
    learner.copy_target()
    copied = learner.state.params.clone()
    learn(learner, random_storage(0), torch.arange(10))
    assert torch.equal(learner.state.target_params, copied)


def test_a_copy_that_was_due_in_an_older_run_is_made():
    learner, other = (learner_for(FlatNetwork(initialize(Net, seed))) for seed in (0, 1))
    learn(learner, random_storage(0), torch.arange(10))
    other.set_state({**learner.get_state(), "copy_is_due": True})
    assert torch.equal(other.state.target_params, learner.state.params)
    assert not torch.equal(learner.state.target_params, learner.state.params)


def test_the_network_it_was_built_from_is_left_alone():
    network = FlatNetwork(initialize(Net, 0))
    initial = network.initial_params.clone()
    learn(learner_for(network), random_storage(0), torch.arange(10))
    assert torch.equal(network.initial_params, initial)


CHAIN_Q = [[1.0, 2.0], [3.0, 5.0], [7.0, 6.0], [9.0, 11.0]]


@pytest.mark.parametrize(
    ("n_step", "ends", "targets"),
    [
        # γ = 1/2; rewards 1, 10, 100 from states 0, 1, 2; state 3 is the last, worth 11.
        (1, "terminated", [1 + 5 / 2, 10 + 7 / 2, 100]),
        (1, "truncated", [1 + 5 / 2, 10 + 7 / 2, 100 + 11 / 2]),
        (2, "terminated", [1 + 5 + 7 / 4, 10 + 50, 100]),
        (2, "truncated", [1 + 5 + 7 / 4, 10 + 50 + 11 / 4, 100 + 11 / 2]),
        (5, "terminated", [1 + 5 + 25, 10 + 50, 100]),
        (5, "truncated", [1 + 5 + 25 + 11 / 8, 10 + 50 + 11 / 4, 100 + 11 / 2]),
    ],
)
def test_a_termination_does_not_bootstrap_and_a_truncation_does(n_step, ends, targets):
    """From environment steps to TD errors, on a chain of four states with known Q-values."""
    identity = np.eye(4, dtype=np.float32)
    storage = RowStorage(10, ObsSpec((4,), np.dtype(np.float32)), torch.device("cpu"))
    assembler = NStepAssembler(n_step, 0.5, 1)
    for state, reward in enumerate([1.0, 10.0, 100.0]):
        last = state == 2
        step = EnvStep(
            obs=identity[[state]],
            action=[state % 2],
            reward=[reward],
            terminated=[last and ends == "terminated"],
            truncated=[last and ends == "truncated"],
            next_obs=identity[[state + 1]],
            episodes=[],
        )
        for transition in assembler.transitions(step):
            storage.add(transition)
    table = Table(4, 2)
    table.q.weight.data = torch.tensor(CHAIN_Q).T.clone()
    learner = learner_for(FlatNetwork(table))
    priority = learn(learner, gather(storage.tensors, torch.arange(3)), torch.arange(3))
    predictions = [CHAIN_Q[0][0], CHAIN_Q[1][1], CHAIN_Q[2][0]]
    expected = [abs(target - q) for target, q in zip(targets, predictions, strict=True)]
    assert priority.tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("double", [False, True], ids=["plain", "double"])
@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_q_values_of_a_random_mdp_converge_to_value_iteration(double, loss):
    """Six states, two actions, four equally likely successors each, some of them terminal."""
    rng, gamma = np.random.default_rng(8), 0.9
    successor = rng.integers(6, size=(6, 2, 4))
    reward = rng.normal(size=(6, 2, 4))
    terminal = rng.random((6, 2, 4)) < 0.1
    q_star = np.zeros((6, 2))
    for _ in range(1000):
        q_star = (reward + gamma * ~terminal * q_star.max(axis=1)[successor]).mean(axis=2)
    assert np.abs(q_star).max() > 1

    rows = [(s, a, j) for s in range(6) for a in range(2) for j in range(4)]
    identity = torch.eye(6)
    storage = Batch(
        obs=identity[[s for s, _, _ in rows]],
        action=torch.tensor([a for _, a, _ in rows]),
        reward=torch.tensor([reward[row] for row in rows], dtype=torch.float32),
        discount=torch.tensor([gamma * (not terminal[row]) for row in rows]),
        next_obs=identity[[successor[row] for row in rows]],
    )
    network = FlatNetwork(initialize(lambda: Table(6, 2), 0))
    # The mean over 48 rows leaves each entry 1/6 of its error as gradient (1/12 with Huber), so
    # with this rate half of the error goes at each update.
    rate = 3.0 if loss == "mse" else 6.0
    if loss == "huber":
        # Huber's minimiser is the mean only where no error exceeds 1.
        storage = storage._replace(reward=storage.reward / 20)
        q_star = q_star / 20
    learner = learner_for(network, optimizer=SGD(), lr=rate, double=double, loss=loss, tau=0.5)
    for _ in range(300):
        learn(learner, storage, torch.arange(48))
    identified = q_values(network, learner.state.params, identity).numpy()
    np.testing.assert_allclose(identified, q_star, atol=1e-3)
    assert (identified.argmax(axis=1) == q_star.argmax(axis=1)).all()


def test_a_sarsa_update_bootstraps_from_the_action_taken_next():
    """TD errors row by row, for a target network that differs from the online one."""
    network = FlatNetwork(initialize(Net, 5))
    learner = learner_for(network, lr=0.3, sarsa=True)
    rng = np.random.default_rng(2)
    storage = random_storage(4)
    storage = storage._replace(next_action=torch.from_numpy(rng.integers(3, size=50)))
    for _ in range(3):
        learn(learner, storage, torch.arange(50))
    online_q = q_values(network, learner.state.params, storage.obs)
    target_q = q_values(network, learner.state.target_params, storage.next_obs)
    indices = torch.tensor([7, 3, 3, 49, 0])
    expected = []
    for index in indices.tolist():
        next_value = target_q[index][int(storage.next_action[index])].item()
        target = storage.reward[index].item() + storage.discount[index].item() * next_value
        expected.append(abs(target - online_q[index][int(storage.action[index])].item()))
    assert learn(learner, storage, indices).tolist() == pytest.approx(expected, abs=1e-9)
    maxima = target_q.amax(dim=1)[indices]
    taken = target_q[indices, storage.next_action[indices]]
    assert (maxima != taken).any()


def test_sarsa_values_converge_to_those_of_the_policy_that_acts():
    """A random MDP and policy: Q of policy evaluation by linear algebra, not of the optimum."""
    rng, gamma = np.random.default_rng(11), 0.9
    successor = rng.integers(5, size=(5, 2))
    reward = rng.normal(size=(5, 2))
    terminal = rng.random((5, 2)) < 0.2
    policy = np.array([[1, 3], [2, 2], [4, 0], [3, 1], [0, 4]]) / 4  # quarters: four rows each
    transition = np.zeros((10, 10))
    for s in range(5):
        for a in range(2):
            if not terminal[s, a]:
                after = successor[s, a]
                transition[2 * s + a, 2 * after : 2 * after + 2] = policy[after]
    q_policy = np.linalg.solve(np.eye(10) - gamma * transition, reward.flatten()).reshape(5, 2)
    q_star = np.zeros((5, 2))
    for _ in range(500):
        q_star = reward + gamma * ~terminal * q_star.max(axis=1)[successor]
    assert np.abs(q_star - q_policy).max() > 0.5

    rows = [(s, a, k) for s in range(5) for a in range(2) for k in range(4)]
    identity = torch.eye(5)
    next_action = [int(k >= 4 * policy[successor[s, a], 0]) for s, a, k in rows]
    storage = Batch(
        obs=identity[[s for s, _, _ in rows]],
        action=torch.tensor([a for _, a, _ in rows]),
        reward=torch.tensor([reward[s, a] for s, a, _ in rows], dtype=torch.float32),
        discount=torch.tensor([gamma * (not terminal[s, a]) for s, a, _ in rows]),
        next_obs=identity[[successor[s, a] for s, a, _ in rows]],
        next_action=torch.tensor(next_action),
    )
    network = FlatNetwork(initialize(lambda: Table(5, 2), 0))
    learner = learner_for(network, optimizer=SGD(), lr=2.5, tau=0.5, sarsa=True)
    for _ in range(400):
        learn(learner, storage, torch.arange(40))
    learned = q_values(network, learner.state.params, identity).numpy()
    np.testing.assert_allclose(learned, q_policy, atol=1e-3)


@pytest.mark.parametrize("target", ["double", pytest.param("sarsa", marks=pytest.mark.slow)])
def test_the_compiled_update_agrees_with_the_eager_one_and_stays_in_its_memory(
    tmp_path, monkeypatch, target
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    settings = {
        "double": target == "double",
        "sarsa": target == "sarsa",
        "loss": "huber",
        "norm": 1.0,
        "tau": 0.05,
        "lr": 1e-3,
    }

    def learner():
        network = FlatNetwork(initialize(lambda: mlp((4,), 3, [16]), 0))
        return learner_for(network, **settings)

    eager, compiled = learner(), learner()
    storage, rng = random_storage(0, size=200, dtype=torch.float32), np.random.default_rng(0)
    if target == "sarsa":
        storage = storage._replace(next_action=torch.from_numpy(rng.integers(3, size=200)))
    kept = [column.clone() for column in columns(storage)]
    addresses = [tensor.data_ptr() for tensor in compiled.state.tensors]
    untouched = [tensor.clone() for tensor in compiled.state.tensors]
    compiled.compile(columns(storage), 16)
    for tensor, expected in zip(compiled.state.tensors, untouched, strict=True):
        assert torch.equal(tensor, expected)

    for k in range(50):
        indices = torch.from_numpy(rng.integers(200, size=16))
        if k == 25:
            eager.copy_target()
            compiled.copy_target()
        expected_priority = learn(eager, storage, indices)
        priority = learn(compiled, storage, indices)
        assert torch.allclose(priority, expected_priority, rtol=1e-3, atol=1e-4)
        if k in (0, 49):
            for tensor, expected in zip(compiled.state.tensors, eager.state.tensors, strict=True):
                assert torch.allclose(tensor, expected, rtol=1e-3, atol=1e-4)
    assert [tensor.data_ptr() for tensor in compiled.state.tensors] == addresses
    assert compiled.updates == compiled.state.num_updates.item() == 50
    assert not torch.allclose(compiled.state.params, untouched[0], atol=1e-3)
    means, expected_means = compiled.read_metrics(), eager.read_metrics()
    assert means == pytest.approx(expected_means, rel=1e-3)
    for column, expected in zip(columns(storage), kept, strict=True):
        assert torch.equal(column, expected)
