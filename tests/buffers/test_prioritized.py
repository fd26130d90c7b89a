"""Prioritized sampling against the paper's formulas, written out, and an O(n) sampler."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from building import build
from scipy import stats
from torch import Tensor

from dqn_runner.buffers.prioritized import PrioritizedSampler, PrioritizedSpec
from dqn_runner.buffers.rows import RowStorage
from dqn_runner.config import root
from dqn_runner.networks.flat import FlatNetwork
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.training.loop import Training
from dqn_runner.types import Array, ObsSpec, Progress, Transition

ALPHA, EPS = 0.7, 0.01


class Filled:
    """A storage and its sampler; all p's also in a plain array."""

    def __init__(self, capacity: int, added: int = 0, **settings: float) -> None:
        self.storage = RowStorage(
            capacity, ObsSpec((1,), np.dtype(np.float32)), torch.device("cpu")
        )
        given = {"alpha": ALPHA, "beta_start": 0.4, "beta_steps": 100, "eps": EPS, **settings}
        spec = PrioritizedSpec.model_validate({"capacity": capacity, **given})
        self.sampler = PrioritizedSampler(self.storage, spec)
        self.p = np.zeros(capacity)
        self.largest = 1.0
        self.rng = np.random.default_rng(0)
        self.add(added)

    def add(self, count: int) -> None:
        obs = np.zeros(1, np.float32)
        for _ in range(count):
            self.p[self.storage.num_added % self.storage.capacity] = self.largest
            self.storage.add(Transition(obs, 0, 0.0, 0.9, obs))

    def update(self, indices: Array, priorities: Array) -> None:
        priorities = np.asarray(priorities, np.float32)
        for index, priority in zip(indices, priorities, strict=True):
            self.p[index] = (float(priority) + EPS) ** ALPHA
            self.largest = max(self.largest, self.p[index])
        self.sampler.update(torch.as_tensor(indices), torch.as_tensor(priorities))

    def drawn(self, batch_size: int) -> tuple[Array, Array]:
        indices, weights = self.sampler.draw(batch_size, self.rng)
        assert (indices.dtype, weights.dtype) == (torch.int64, torch.float32)
        return indices.numpy(), weights.numpy()


def naive_draw(p: Array, batch_size: int, rng: np.random.Generator) -> Array:
    """Appendix B.2.1 in O(n), with the same uniform numbers."""
    edges = np.linspace(0.0, p.sum(), batch_size + 1)
    chosen = edges[:-1] + rng.random(batch_size) * np.diff(edges)
    return np.searchsorted(np.cumsum(p), chosen, side="right")


def test_it_draws_what_a_naive_sampler_draws_whatever_was_added_and_updated():
    filled, rng = Filled(500), np.random.default_rng(5)
    for _ in range(200):
        filled.add(int(rng.integers(1, 20)))
        twin = np.random.default_rng()
        twin.bit_generator.state = filled.rng.bit_generator.state
        indices, _ = filled.drawn(64)
        assert np.array_equal(indices, naive_draw(filled.p, 64, twin))
        filled.update(indices, rng.exponential(size=64) * 10.0 ** rng.integers(-3, 3))
    assert filled.storage.num_added > 1500  # the ring was written over several times


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_each_transition_is_drawn_in_proportion_to_its_priority(alpha):
    """Equation 1: P(i) = p_i^alpha / sum of p_k^alpha, with p_i = |TD error| + eps."""
    filled = Filled(60, 60, alpha=alpha)
    priorities = np.random.default_rng(1).exponential(size=60).astype(np.float32)
    filled.update(np.arange(60), priorities)
    expected = (priorities.astype(float) + EPS) ** alpha
    expected /= expected.sum()
    # A batch of one draws each time on its own, as the chi-square test needs it.
    counts = np.bincount([filled.drawn(1)[0][0] for _ in range(40_000)], minlength=60)
    assert stats.chisquare(counts, 40_000 * expected).pvalue > 1e-3
    # A stratified batch has the same expectation, and spreads less.
    counts = np.bincount(np.concatenate([filled.drawn(40)[0] for _ in range(1000)]), minlength=60)
    assert stats.chisquare(counts, 40_000 * expected).pvalue > 1e-3


def test_one_number_is_drawn_from_each_of_the_equal_ranges():
    filled = Filled(8, 8)
    filled.update(np.arange(8), np.full(8, 3.0))
    for _ in range(20):
        assert filled.drawn(8)[0].tolist() == list(range(8))
        assert filled.drawn(16)[0].tolist() == [i // 2 for i in range(16)]


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_importance_weights_are_those_of_the_paper(beta):
    """Section 3.4: (1/N · 1/P(i))^beta, divided by the largest of the batch."""
    filled = Filled(100, 50, beta_start=beta)
    filled.update(np.arange(50), np.random.default_rng(2).exponential(size=50))
    indices, weights = filled.drawn(32)
    num, probability = 50, filled.p / filled.p.sum()
    expected = np.array([(1 / num * 1 / probability[i]) ** beta for i in indices])
    expected /= max(expected)
    assert weights == pytest.approx(expected, rel=1e-6)
    assert weights.max() == 1.0


def test_weights_of_full_strength_undo_the_drawing():
    """With beta=1 the weighted mean over what is drawn estimates the plain mean over all."""
    filled, values = Filled(30, 30, beta_start=1.0), np.arange(30.0)
    filled.update(np.arange(30), values)
    drawn = [filled.drawn(16) for _ in range(4000)]
    # Each batch is divided by another number, so scale with what all weights have in common.
    scaled = [(i, w * (1.0 / filled.p[i]).max()) for i, w in drawn]
    total = sum((w * values[i]).sum() for i, w in scaled) / sum(w.sum() for _, w in scaled)
    assert total == pytest.approx(values.mean(), rel=0.02)


@pytest.mark.parametrize(
    ("env_steps", "beta"), [(0, 0.4), (25, 0.55), (50, 0.7), (100, 1.0), (1000, 1.0)]
)
def test_beta_goes_linearly_to_1(env_steps, beta):
    filled = Filled(10, 10)
    filled.update(np.arange(10), np.arange(10.0))
    filled.sampler.anneal(env_steps)
    indices, weights = filled.drawn(8)
    expected = (filled.p[indices].min() / filled.p[indices]) ** beta
    assert weights == pytest.approx(expected, rel=1e-6)


def test_new_transitions_have_the_largest_priority_that_there_ever_was():
    filled = Filled(20, 5)
    filled.update(np.array([2]), np.array([7.0]))
    filled.update(np.array([2]), np.array([0.5]))  # the largest is gone, and still counts
    filled.add(3)
    filled.drawn(1)
    ever = (7.0 + EPS) ** ALPHA
    small = (0.5 + EPS) ** ALPHA
    expected = [1.0, 1.0, small, 1.0, 1.0, ever, ever, ever, *[0.0] * 12]
    assert filled.sampler._tree.priorities == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("late", [3, 8, 30])
def test_an_overwritten_transition_leaves_its_priority_to_nobody(late):
    filled = Filled(8, 8)
    filled.update(np.arange(8), np.arange(8.0))
    filled.add(late)  # more than the storage holds, if it is 30
    filled.drawn(1)
    assert filled.sampler._tree.priorities == pytest.approx(filled.p, rel=1e-6)
    assert (filled.p == filled.largest).sum() >= min(late, 8)


def test_only_what_is_filled_is_drawn():
    filled = Filled(1000)
    for _ in range(40):
        filled.add(1)
        indices, _ = filled.drawn(64)
        assert indices.max() < len(filled.storage)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_priorities_that_are_no_numbers_leave_the_others_as_they_are(wrong):
    filled = Filled(50, 50)
    filled.update(np.arange(50), np.linspace(0.0, 5.0, 50))
    filled.sampler.update(torch.tensor([1, 3, 5]), torch.tensor([9.0, wrong, 2.0]))
    filled.p[1], filled.p[5] = (9.0 + EPS) ** ALPHA, (2.0 + EPS) ** ALPHA
    assert filled.sampler._tree.priorities == pytest.approx(filled.p, rel=1e-6)
    filled.sampler.update(torch.tensor([4]), torch.tensor([wrong]))
    assert filled.sampler._tree.priorities == pytest.approx(filled.p, rel=1e-6)
    filled.add(1)
    _, weights = filled.drawn(32)
    assert np.isfinite(weights).all()
    assert filled.sampler._tree.priorities[0] == pytest.approx((9.0 + EPS) ** ALPHA)


def test_the_largest_float_is_a_priority_like_any_other():
    filled = Filled(50, 50, alpha=1.0)
    most = float(np.finfo(np.float32).max)
    filled.sampler.update(torch.arange(50), torch.full((50,), most))
    indices, weights = filled.drawn(50)
    assert sorted(indices) == list(range(50))
    assert weights.tolist() == [1.0] * 50


def test_a_sampler_goes_on_where_another_was():
    one, other = Filled(300, 250), Filled(300, 250)
    for _ in range(20):
        one.update(one.drawn(16)[0], one.rng.exponential(size=16))
        one.add(7)
    state = one.sampler.get_state()
    other.storage.set_state(one.storage.get_state())
    other.sampler.set_state(state)
    other.rng.bit_generator.state = one.rng.bit_generator.state
    other.largest = one.largest
    for _ in range(20):
        pairs = list(zip(one.drawn(16), other.drawn(16), strict=True))
        assert all(np.array_equal(*pair) for pair in pairs)
        for each in (one, other):
            each.update(pairs[0][0], each.rng.exponential(size=16))
            each.add(3)


@pytest.mark.parametrize(
    "broken",
    [
        {"priorities": torch.ones(9, dtype=torch.float64)},
        {"priorities": torch.ones(10)},
        {"priorities": torch.full((10,), torch.nan, dtype=torch.float64)},
        {"priorities": torch.full((10,), torch.inf, dtype=torch.float64)},
        {"priorities": torch.zeros(10, dtype=torch.float64)},
        {"largest": torch.tensor(torch.nan)},
        {"largest": torch.tensor(torch.inf)},
    ],
)
def test_a_state_that_cannot_be_is_refused(broken):
    filled = Filled(10, 10)
    good = filled.sampler.get_state()
    with pytest.raises(ValueError, match="priorit"):
        filled.sampler.set_state({**good, **broken})


def test_a_buffer_without_a_name_is_uniform(compose):
    """As in the config.yaml of older runs."""
    plain = compose().plain()
    assert plain["buffer"].pop("name") == "uniform"
    assert root.parse(plain) == compose()


class Recorded:
    """The real loop, with what was drawn, and what the learner was given and gave back."""

    def __init__(self, config, path, monkeypatch):
        self.config, self.parts = build(config, RunDirectory(path))
        self.drawn: list[tuple[Tensor, Tensor]] = []
        self.learned: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self.moments: list[tuple[int, int]] = []
        draw, learn = self.parts.sampler.draw, self.parts.agent.learner.update
        self.progress = Progress()

        def log_draw(batch_size, rng):
            self.drawn.append(draw(batch_size, rng))
            self.moments.append((self.progress.env_steps, self.parts.storage.num_added))
            return self.drawn[-1]

        def log_learn(storage, indices, weights, noise):
            before = self.parts.agent.learner.state.params.clone()
            priorities = learn(storage, indices, weights, noise)
            self.learned.append((before, indices, weights, priorities))
            return self.learned[-1][-1]

        monkeypatch.setattr(self.parts.sampler, "draw", log_draw)
        monkeypatch.setattr(self.parts.agent.learner, "update", log_learn)
        Training(self.config, self.parts, self.progress, []).run()


@pytest.mark.parametrize("num_envs", [1, 8])
def test_in_training_beta_follows_the_env_steps_up_to_the_budget(
    compose, tmp_path, monkeypatch, num_envs
):
    config = compose(
        "buffer=prioritized", "total_timesteps=400", f"num_envs={num_envs}", "train_frequency=8"
    )
    run = Recorded(config, tmp_path, monkeypatch)
    assert isinstance(run.config.buffer, PrioritizedSpec)
    assert run.config.buffer.beta_steps == 400
    assert run.moments[-1][0] == 400
    # What each p was when it was drawn, from the priorities that the learner gave back.
    p, largest, seen = np.zeros(1000), 1.0, 0
    for (env_steps, added), (indices, weights), learned in zip(
        run.moments, run.drawn, run.learned, strict=True
    ):
        p[seen:added], seen = largest, added
        rows, beta = indices.numpy(), 0.4 + 0.6 * env_steps / 400
        expected = (p[rows].min() / p[rows]) ** beta
        assert weights.numpy() == pytest.approx(expected, rel=1e-5)
        p[rows] = (learned[3].double().abs().numpy() + 1e-6) ** 0.6
        largest = max(largest, p[rows].max())
    assert weights.min() < 1.0


def test_the_weights_reach_the_loss(compose, tmp_path, monkeypatch):
    """Each step of SGD against the gradient of the weighted loss, by autograd from the batch."""
    config = compose(
        "buffer=prioritized", "agent.optimizer={name: sgd}", "agent.max_grad_norm=null",
        "agent.lr_schedule=constant", "agent.lr=0.01", "agent.clip_target=false",
        "agent.double=false", "agent.n_step=1", "target_update=hard",
        "target_update.interval=100000", "network.norm=none", "buffer.beta_start=1",
        "agent.loss=mse",
    )  # fmt: skip
    run = Recorded(config, tmp_path, monkeypatch)
    learner, columns = run.parts.agent.learner, run.parts.storage.tensors
    network = learner.rule.network
    assert isinstance(network, FlatNetwork)
    first, differ = run.learned[0][0], 0
    after = [params for params, *_ in run.learned[1:]] + [learner.state.params]
    for (params, indices, weights, _), now in zip(run.learned, after, strict=True):
        obs, action, reward, discount, next_obs = (column[indices] for column in columns)
        value = network(first, (), next_obs).q_values.amax(dim=1)

        def step(weights, params=params, obs=obs, action=action, target=reward + discount * value):
            leaf = params.clone().requires_grad_()
            q = network(leaf, (), obs).q_values.gather(1, action[:, None])[:, 0]
            (weights * (target - q) ** 2).mean().backward()
            return params - 0.01 * leaf.grad

        assert torch.allclose(now, step(weights), atol=1e-6)
        differ += not torch.allclose(now, step(torch.ones_like(weights)), atol=1e-5)
    assert differ > len(run.learned) / 2


def test_uniform_priorities_are_uniform_replay_in_other_words(compose, tmp_path, monkeypatch):
    """alpha=0: every transition is as likely, and every weight is 1."""
    run = Recorded(compose("buffer=prioritized", "buffer.alpha=0"), tmp_path, monkeypatch)
    assert all((weights == 1.0).all() for _, weights in run.drawn)


def test_phases_are_refused_with_the_reason(command, quick):
    outcome = command(
        *quick, "buffer=prioritized", "phase.episodes=3", "phase.epochs=2", "learning_starts=0"
    )
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert "buffer.name=prioritized: phase.episodes=3 needs buffer=uniform, for " in line


def test_its_settings_belong_to_it(command, quick):
    outcome = command(*quick, "buffer.alpha=0.5")
    assert outcome.code == 2
    assert "it goes with buffer=prioritized" in outcome.err


def test_a_run_that_diverges_ends_in_the_line_that_says_so(command, quick):
    outcome = command(
        *quick, "buffer=prioritized", "agent.lr=1e30", "agent.optimizer={name: sgd}",
        "agent.max_grad_norm=null", "agent.clip_target=false", "network.norm=none",
    )  # fmt: skip
    assert outcome.code == 1
    (line,) = [line for line in outcome.err.splitlines() if "error" in line]
    assert "learning diverged before env step " in line


def test_what_a_checkpoint_keeps_of_it_is_what_the_run_says(train):
    path = train("run", "buffer=prioritized", "buffer.capacity=128")
    config = json.loads(json.dumps(root.read(path / "config.yaml").plain()))
    assert config["buffer"]["beta_steps"] == 300
    state = torch.load(Path(path, "checkpoints", "last.pt"), weights_only=True)["sampler"]
    assert state["priorities"].shape == (128,)
    assert 0.0 < state["priorities"].min() <= state["priorities"].max() <= state["largest"]
