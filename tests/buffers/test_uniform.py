"""The replay ring against a deque, and assembled transitions against whole episode records."""

from collections import deque

import numpy as np
import pytest
import torch
from scipy import stats

from dqn_runner.buffers.n_step import NStepAssembler
from dqn_runner.buffers.sarsa import SarsaAssembler
from dqn_runner.buffers.uniform import PhaseBuffer, UniformBuffer
from dqn_runner.errors import RunError
from dqn_runner.types import EnvStep, ObsSpec, Transition

CPU = torch.device("cpu")
BOX = ObsSpec((3,), np.dtype(np.float32))
PIXELS = ObsSpec((2, 4), np.dtype(np.uint8))


def random_transition(rng, spec):
    def obs():
        if spec.dtype == np.uint8:
            return rng.integers(256, size=spec.shape, dtype=np.uint8)
        return rng.normal(size=spec.shape).astype(spec.dtype)

    return Transition(obs(), int(rng.integers(5)), rng.normal(), float(rng.random()), obs())


@pytest.mark.parametrize("spec", [BOX, PIXELS], ids=["box", "uint8"])
@pytest.mark.parametrize("capacity", [1, 7, 16])
def test_the_ring_holds_what_a_bounded_deque_holds(spec, capacity):
    """After each of several rounds the stored rows are the latest ones, byte for byte."""
    rng = np.random.default_rng(capacity)
    buffer, reference = UniformBuffer(capacity, spec, CPU), deque(maxlen=capacity)
    for added in range(1, 4 * capacity + 3):
        transition = random_transition(rng, spec)
        buffer.add(transition)
        reference.append(transition)
        assert len(buffer) == buffer.size == len(reference)
        oldest = added % capacity if added > capacity else 0
        for age, expected in enumerate(reference):
            row = (oldest + age) % capacity
            stored = [column[row].numpy() for column in buffer.storage.columns]
            for value, expected_value in zip(stored, expected[:5], strict=True):
                # Float columns are single precision.
                assert np.array_equal(value, np.asarray(expected_value).astype(value.dtype))


def test_what_was_stored_does_not_follow_the_array_it_came_from():
    buffer = UniformBuffer(4, BOX, CPU)
    obs = np.ones(3, np.float32)
    buffer.add(Transition(obs, 0, 1.0, 0.9, obs))
    obs += 5
    assert buffer.storage.obs[0].tolist() == [1.0, 1.0, 1.0]
    assert buffer.storage.next_obs[0].tolist() == [1.0, 1.0, 1.0]


def test_pixels_stay_bytes_in_storage():
    storage = UniformBuffer(4, PIXELS, CPU).storage
    assert storage.obs.dtype == storage.next_obs.dtype == torch.uint8
    assert storage.action.dtype == torch.int64
    assert storage.reward.dtype == storage.discount.dtype == torch.float32


@pytest.mark.parametrize(("spec", "obs_bytes"), [(BOX, 12), (PIXELS, 8)])
def test_num_bytes_is_the_sum_over_the_columns_full_or_not(spec, obs_bytes):
    buffer = UniformBuffer(100, spec, CPU)
    expected = 100 * (2 * obs_bytes + 8 + 4 + 4)
    assert buffer.num_bytes == expected
    buffer.add(random_transition(np.random.default_rng(0), spec))
    assert buffer.num_bytes == expected


@pytest.mark.parametrize("filled", [1, 13, 20, 47])
def test_every_filled_row_is_equally_likely_and_no_other_is_drawn(filled):
    rng = np.random.default_rng(3)
    buffer = UniformBuffer(20, BOX, CPU)
    for _ in range(filled):
        buffer.add(random_transition(rng, BOX))
    rows = min(filled, 20)
    drawn = torch.cat([buffer.sample(50, rng) for _ in range(400)])
    assert drawn.dtype == torch.int64
    counts = np.bincount(drawn.numpy(), minlength=20)
    assert counts[rows:].sum() == 0
    if rows > 1:
        assert stats.chisquare(counts[:rows]).pvalue > 1e-3


def test_draws_of_one_batch_are_independent():
    """With replacement: pairs of places in a batch are uniform over all pairs of rows."""
    rng = np.random.default_rng(4)
    buffer = UniformBuffer(4, BOX, CPU)
    for _ in range(4):
        buffer.add(random_transition(rng, BOX))
    batches = np.stack([buffer.sample(2, rng).numpy() for _ in range(8000)])
    pairs = np.bincount(batches[:, 0] * 4 + batches[:, 1], minlength=16)
    assert stats.chisquare(pairs).pvalue > 1e-3


def test_sampling_depends_on_the_given_generator_alone():
    buffer = UniformBuffer(20, BOX, CPU)
    for _ in range(20):
        buffer.add(random_transition(np.random.default_rng(0), BOX))
    first = buffer.sample(32, np.random.default_rng(9))
    np.random.seed(1)
    torch.manual_seed(1)
    assert torch.equal(first, buffer.sample(32, np.random.default_rng(9)))


def test_a_batch_of_rows_is_those_rows_of_each_column():
    rng = np.random.default_rng(5)
    buffer = UniformBuffer(8, BOX, CPU)
    added = [random_transition(rng, BOX) for _ in range(8)]
    for transition in added:
        buffer.add(transition)
    batch = buffer.storage.rows(torch.tensor([6, 0, 6]))
    for b, row in enumerate([6, 0, 6]):
        assert np.array_equal(batch.obs[b].numpy(), added[row].obs)
        assert int(batch.action[b]) == added[row].action
        assert float(batch.reward[b]) == np.float32(added[row].reward)
        assert float(batch.discount[b]) == np.float32(added[row].discount)
        assert np.array_equal(batch.next_obs[b].numpy(), added[row].next_obs)


@pytest.mark.parametrize("kind", [UniformBuffer, PhaseBuffer])
def test_next_actions_have_a_column_where_they_are_asked_for(kind):
    without, buffer = kind(4, BOX, CPU), kind(4, BOX, CPU, next_actions=True)
    assert without.storage.next_action is None
    assert buffer.num_bytes == without.num_bytes + 4 * 8
    rng = np.random.default_rng(6)
    for next_action in (3, 0, 2):
        buffer.add(random_transition(rng, BOX)._replace(next_action=next_action))
    batch = buffer.storage.rows(torch.tensor([2, 0, 1]))
    assert batch.next_action.tolist() == [2, 3, 0]
    assert batch.next_action.dtype == torch.int64


def test_a_phase_buffer_refuses_what_exceeds_its_limit_and_is_empty_after_clearing():
    rng = np.random.default_rng(7)
    buffer = PhaseBuffer(5, BOX, CPU)
    for _ in range(2):
        added = [random_transition(rng, BOX) for _ in range(5)]
        for transition in added:
            buffer.add(transition)
        kept = [column.clone() for column in buffer.storage.columns]
        line = r"buffer\.capacity=5: .* do not fit; .*phase\.episodes .* 40 bytes a transition"
        with pytest.raises(RunError, match=line):
            buffer.add(random_transition(rng, BOX))
        assert len(buffer) == 5
        for column, before in zip(buffer.storage.columns, kept, strict=True):
            assert torch.equal(column, before)
        assert buffer.storage.reward.tolist() == [np.float32(t.reward) for t in added]
        buffer.clear()
        assert len(buffer) == 0
    buffer.add(random_transition(rng, BOX))
    assert set(buffer.sample(100, rng).tolist()) == {0}


def random_rollout(rng, num_envs, length):
    """Steps of environments in which no two observations are equal, ends and finals included.

    An observation is (environment, step, 0), or (environment, step, 1) if it is a final one.
    """
    end_probability = np.linspace(0.05, 0.5, num_envs)  # some rarely end, some nearly always
    steps = []
    for t in range(length):
        terminated = rng.random(num_envs) < end_probability / 2
        truncated = rng.random(num_envs) < end_probability / 2
        obs = np.array([[i, t, 0] for i in range(num_envs)], np.float32)
        ended = terminated | truncated
        next_obs = np.array([[i, t + 1, int(ended[i])] for i in range(num_envs)], np.float32)
        action = rng.integers(4, size=num_envs)
        reward = rng.normal(size=num_envs)
        steps.append(EnvStep(obs, action, reward, terminated, truncated, next_obs, []))
    return steps


def episodes_of(steps, i):
    """The record of environment `i`, cut into episodes; the last may be unfinished."""
    episodes = [[]]
    for step in steps:
        one = [column[i] for column in step[:6]]
        episodes[-1].append(one)
        if step.terminated[i] or step.truncated[i]:
            episodes.append([])
    return episodes


def by_brute_force(steps, i, n_step, gamma):
    """Every n-step transition of environment `i`, from its complete record."""
    result = []
    for episode in episodes_of(steps, i):
        for start in range(len(episode)):
            stop = min(start + n_step, len(episode))
            _, _, _, terminated, truncated, next_obs = episode[stop - 1]
            if stop - start < n_step and not (terminated or truncated):
                continue  # the rest of it has not happened yet
            reward = sum(gamma**k * episode[start + k][2] for k in range(stop - start))
            discount = gamma ** (stop - start) * (1 - terminated)
            result.append((episode[start][0], episode[start][1], reward, discount, next_obs))
    return result


@pytest.mark.parametrize("num_envs", [1, 2, 5])
@pytest.mark.parametrize("n_step", [1, 3, 5])
def test_n_step_transitions_equal_those_of_the_complete_episodes(n_step, num_envs):
    """Tails at ends, both kinds of end, and environments that end at different times."""
    for seed in range(5):
        steps = random_rollout(np.random.default_rng([seed, n_step]), num_envs, 80)
        assembler = NStepAssembler(n_step, 0.9, num_envs)
        transitions = [t for step in steps for t in assembler.transitions(step)]
        for i in range(num_envs):
            mine = [t for t in transitions if t.obs[0] == i]
            expected = by_brute_force(steps, i, n_step, 0.9)
            assert len(mine) == len(expected)
            for transition, (obs, action, reward, discount, next_obs) in zip(
                mine, expected, strict=True
            ):
                assert np.array_equal(transition.obs, obs)
                assert transition.action == action
                assert transition.reward == pytest.approx(reward, abs=1e-12)
                assert transition.discount == pytest.approx(discount, abs=1e-12)
                assert np.array_equal(transition.next_obs, next_obs)


def one_env_step(t, reward, terminated=False, truncated=False):
    return EnvStep(
        np.array([[t]]),
        np.array([0]),
        np.array([reward]),
        np.array([terminated]),
        np.array([truncated]),
        np.array([[t + 1]]),
        [],
    )


@pytest.mark.parametrize(
    ("ends", "last_discounts"),
    [
        ({"terminated": True}, [0.0, 0.0, 0.0]),
        ({"truncated": True}, [0.125, 0.25, 0.5]),
        ({"terminated": True, "truncated": True}, [0.0, 0.0, 0.0]),
    ],
)
def test_the_tail_of_an_episode_worked_out_by_hand(ends, last_discounts):
    """Rewards 1, 2, 4, 8 with γ = 1/2 and n = 3."""
    assembler = NStepAssembler(3, 0.5, 1)
    assert list(assembler.transitions(one_env_step(0, 1.0))) == []
    assert list(assembler.transitions(one_env_step(1, 2.0))) == []
    (first,) = assembler.transitions(one_env_step(2, 4.0))
    assert (first.obs[0], first.reward, first.discount, first.next_obs[0]) == (0, 3.0, 0.125, 3)
    tail = list(assembler.transitions(one_env_step(3, 8.0, **ends)))
    assert [t.obs[0] for t in tail] == [1, 2, 3]
    assert [t.reward for t in tail] == [6.0, 8.0, 8.0]
    assert [t.discount for t in tail] == last_discounts
    assert [t.next_obs[0] for t in tail] == [4, 4, 4]
    assert list(assembler.transitions(one_env_step(10, 1.0))) == []


@pytest.mark.parametrize("num_envs", [1, 2, 5])
def test_sarsa_transitions_equal_those_of_the_complete_episodes(num_envs):
    """The next action is the next one of the episode, or one chosen at a truncated end."""

    def chosen_at(obs):
        return int(100 + 1000 * obs[0] + obs[1])

    asked = []

    def act(obs, epsilon):
        assert obs.shape == (1, 3)
        asked.append(epsilon)
        return [chosen_at(obs[0])]

    truncations = 0
    for seed in range(5):
        steps = random_rollout(np.random.default_rng([seed, 9]), num_envs, 80)
        assembler = SarsaAssembler(0.9, num_envs, act)
        transitions = [t for step in steps for t in assembler.transitions(step, 0.25)]
        for i in range(num_envs):
            expected = []
            for episode in episodes_of(steps, i):
                for k, (obs, action, reward, terminated, truncated, next_obs) in enumerate(episode):
                    if terminated:
                        expected.append((obs, action, reward, 0.0, next_obs, None))
                    elif truncated:
                        truncations += 1
                        chosen = chosen_at(next_obs)
                        expected.append((obs, action, reward, 0.9, next_obs, chosen))
                    elif k + 1 < len(episode):
                        following = episode[k + 1][1]
                        expected.append((obs, action, reward, 0.9, next_obs, following))
            mine = [t for t in transitions if t.obs[0] == i]
            assert len(mine) == len(expected)
            for transition, (obs, action, reward, discount, next_obs, next_action) in zip(
                mine, expected, strict=True
            ):
                assert np.array_equal(transition.obs, obs)
                assert np.array_equal(transition.next_obs, next_obs)
                assert (transition.action, transition.reward) == (action, reward)
                assert transition.discount == discount
                # After a termination any action will do that a network has a value for.
                assert transition.next_action == (0 if next_action is None else next_action)
    assert asked == [0.25] * truncations
    assert truncations > 10
