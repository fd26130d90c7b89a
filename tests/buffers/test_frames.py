"""Frames stored once against a plain list of the observations of every transition."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dqn_runner.buffers import frames
from dqn_runner.buffers.frames import FrameStorage, choose_storage, frame_storage_bytes, num_slots
from dqn_runner.buffers.n_step import NStepAssembler
from dqn_runner.buffers.prioritized import PrioritizedSampler, PrioritizedSpec
from dqn_runner.buffers.rows import Layout, RowStorage
from dqn_runner.buffers.sarsa import SarsaAssembler
from dqn_runner.buffers.uniform import UniformSampler, UniformSpec
from dqn_runner.errors import ConfigError, RunError
from dqn_runner.learning.compilation import compile_ahead
from dqn_runner.types import Array, EnvStep, ObsSpec, Transition

CPU = torch.device("cpu")
BYTES, BITS = np.dtype(np.uint8), np.dtype(np.bool_)
FRAME = (3, 5)  # 15 bits, which do not fill their two bytes


def spec_of(dtype: Any, stack: int, frame_shape: tuple[int, ...] = FRAME) -> ObsSpec:
    return ObsSpec(frame_shape if stack == 1 else (stack, *frame_shape), np.dtype(dtype), stack)


class RandomEnvironments:
    """N environments of random frames, whose first one fills the stack."""

    def __init__(self, spec: ObsSpec, num_envs: int, seed: int, ends: float) -> None:
        self.spec, self.ends, self.num_frames = spec, ends, 0
        self.rng = np.random.default_rng(seed)
        self.obs = np.stack([self.first() for _ in range(num_envs)])

    def frame(self) -> Array:
        self.num_frames += 1
        return self.rng.integers(2 if self.spec.dtype == BITS else 256, size=self.spec.frame_shape)

    def first(self) -> Array:
        frame = self.frame().astype(self.spec.dtype)
        return np.broadcast_to(frame, self.spec.shape).copy()

    def next(self, obs: Array) -> Array:
        frame = self.frame().astype(self.spec.dtype)
        return frame if self.spec.stack == 1 else np.concatenate([obs[1:], frame[None]])

    def step(self) -> EnvStep:
        n, rng, obs = len(self.obs), self.rng, self.obs
        next_obs = np.stack([self.next(one) for one in obs])
        terminated, truncated = rng.random(n) < self.ends, rng.random(n) < self.ends
        self.num_frames -= int(terminated.sum())  # a terminal frame is not needed
        self.obs = next_obs.copy()
        for i in np.flatnonzero(terminated | truncated):
            self.obs[i] = self.first()
        action, reward = rng.integers(4, size=n).tolist(), rng.normal(size=n).tolist()
        return EnvStep(obs, action, reward, terminated.tolist(), truncated.tolist(), next_obs, [])


def assembler_of(n_step: int, num_envs: int, *, sarsa: bool = False) -> Any:
    return SarsaAssembler(0.9, num_envs) if sarsa else NStepAssembler(n_step, 0.9, num_envs)


def fill(
    storage: FrameStorage, environments: RandomEnvironments, steps: int, *assemblers: Any
) -> list[Transition]:
    """Store what happens in `steps` steps; returns the transitions with whole observations."""
    plain: list[Transition] = []
    ours, theirs = assemblers
    for _ in range(steps):
        step = environments.step()
        final = {i: 3 for i, cut in enumerate(step.truncated) if cut}
        plain += theirs.transitions(step, final)
        for transition in ours.transitions(storage.keep(step), final):
            storage.add(transition)
    return plain


def assert_holds(batch: Any, transitions: list[Transition], spec: ObsSpec) -> None:
    """The batch is those transitions; of a terminal one the next observation does not matter."""
    assert batch.obs.shape == batch.next_obs.shape == (len(transitions), *spec.shape)
    dtype = torch.float32 if spec.dtype == BITS else torch.uint8
    assert batch.obs.dtype == batch.next_obs.dtype == dtype
    for b, expected in enumerate(transitions):
        assert np.array_equal(batch.obs[b].numpy(), expected.obs)
        assert int(batch.action[b]) == expected.action
        assert float(batch.reward[b]) == np.float32(expected.reward)
        assert float(batch.discount[b]) == np.float32(expected.discount)
        if expected.discount:
            assert np.array_equal(batch.next_obs[b].numpy(), expected.next_obs)
        if expected.next_action is not None:
            assert int(batch.next_action[b]) == expected.next_action


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from([BYTES, BITS]),
    stack=st.sampled_from([1, 2, 4]),
    num_envs=st.sampled_from([1, 8]),
    n_step=st.sampled_from([1, 3, 20]),
    sarsa=st.booleans(),
    prioritized=st.booleans(),
    capacity=st.integers(1, 40),
    ends=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    rounds=st.integers(1, 4),
    seed=st.integers(0, 2**16),
)
def test_batches_equal_a_list_of_whole_stacks(
    dtype, stack, num_envs, n_step, sarsa, prioritized, capacity, ends, rounds, seed
):
    """The ring is written over up to four times; each frame is stored once."""
    n_step = 1 if sarsa else n_step
    spec = spec_of(dtype, stack)
    storage = FrameStorage(
        capacity, spec, CPU, num_envs=num_envs, n_step=n_step, layout=Layout(next_action=sarsa)
    )
    sampler: Any = UniformSampler(storage)
    if prioritized:
        chosen = PrioritizedSpec(
            capacity=capacity, alpha=0.5, beta_start=0.4, beta_steps=10, eps=1e-3
        )
        sampler = PrioritizedSampler(storage, chosen)
    environments = RandomEnvironments(spec, num_envs, seed, ends)
    kept: deque[Transition] = deque(maxlen=capacity)
    assemblers = [assembler_of(n_step, num_envs, sarsa=sarsa) for _ in range(2)]
    rng, frame_ring = np.random.default_rng(seed), storage.rings["frames"]
    for _ in range(rounds):
        kept += fill(storage, environments, -(-capacity // num_envs) + 1, *assemblers)
        # Where no episode has begun since its reset, its first frame is still to come.
        stacks = storage._frames.stacks
        assert frame_ring.num_added == environments.num_frames - stacks.count(None)
        if not kept:
            continue
        assert len(storage) == len(kept)
        indices, _ = sampler.draw(5, rng)
        sampler.update(indices, torch.rand(5))
        oldest = storage.num_added - len(kept)
        ages = storage.places(oldest, storage.num_added).tolist()
        batch = storage.gather(storage.tensors, indices)
        assert_holds(batch, [kept[ages.index(i)] for i in indices.tolist()], spec)
    every = torch.from_numpy(storage.places(storage.num_added - len(kept), storage.num_added))
    assert_holds(storage.gather(storage.tensors, every), list(kept), spec)


def test_the_true_final_frame_is_kept_at_truncation_and_no_stack_crosses_a_start():
    """By hand: two frames a stack, frames 1 2 | 3 4, the first episode truncated after a step."""
    spec = spec_of(BYTES, 2, (1, 1))
    storage, assembler = FrameStorage(9, spec, CPU, num_envs=1, n_step=1), assembler_of(1, 1)

    def obs(*numbers):
        return np.array(numbers, np.uint8).reshape(1, 2, 1, 1)

    for now, terminated, truncated, following in [
        (obs(1, 1), False, True, obs(1, 2)),
        (obs(3, 3), False, False, obs(3, 4)),
        (obs(3, 4), True, False, obs(4, 5)),
        (obs(6, 6), False, False, obs(6, 7)),
    ]:
        step = EnvStep(now, [0], [0.0], [terminated], [truncated], following, [])
        for transition in assembler.transitions(storage.keep(step)):
            storage.add(transition)
    batch = storage.gather(storage.tensors, torch.arange(4))
    assert batch.obs.flatten(1).tolist() == [[1, 1], [3, 3], [3, 4], [6, 6]]
    assert batch.next_obs.flatten(1).tolist() == [[1, 2], [3, 4], [3, 4], [6, 7]]
    assert batch.discount.tolist() == pytest.approx([0.9, 0.9, 0.0, 0.9])
    assert storage.rings["frames"].num_added == 6  # all but 5


def test_after_a_restart_the_stack_begins_anew():
    spec = spec_of(BYTES, 2)
    storage = FrameStorage(9, spec, CPU, num_envs=2, n_step=1)
    environments = RandomEnvironments(spec, 2, 0, 0.0)
    storage.keep(environments.step())
    storage.forget(1)
    environments.obs[1] = environments.first()
    step = environments.step()
    for transition in assembler_of(1, 2).transitions(storage.keep(step)):
        storage.add(transition)
    batch = storage.gather(storage.tensors, torch.arange(2))
    assert np.array_equal(batch.obs.numpy(), step.obs)
    assert np.array_equal(batch.next_obs.numpy(), step.next_obs)


def short_episodes(storage: FrameStorage, count: int) -> list[EnvStep]:
    """Episodes of one step, all truncated."""
    environments, assembler = RandomEnvironments(storage._spec, 1, 0, 0.0), assembler_of(1, 1)
    steps = []
    for _ in range(count):
        steps.append(environments.step()._replace(terminated=[False], truncated=[True]))
        environments.obs[0] = environments.first()
        for transition in assembler.transitions(storage.keep(steps[-1])):
            storage.add(transition)
    return steps


@pytest.mark.parametrize("dtype", [BYTES, BITS])
def test_a_full_ring_of_truncations_needs_twice_the_frames(dtype):
    storage = FrameStorage(50, spec_of(dtype, 2), CPU, num_envs=1, n_step=1)
    steps = short_episodes(storage, 200)
    batch = storage.gather(storage.tensors, torch.from_numpy(storage.places(150, 200)))
    for step, obs, next_obs in zip(steps[150:], batch.obs, batch.next_obs, strict=True):
        assert np.array_equal(obs.numpy(), step.obs[0])
        assert np.array_equal(next_obs.numpy(), step.next_obs[0])


def test_too_many_truncations_of_large_frames_are_an_error_in_a_line(monkeypatch):
    """No frame is replaced that a transition needs, but all room is used."""
    monkeypatch.setattr(frames, "SPARE_BYTES", 0)
    storage = FrameStorage(50, spec_of(BYTES, 2), CPU, num_envs=1, n_step=1)
    slots = storage.rings["frames"].capacity
    with pytest.raises(RunError, match=r"^buffer\.storage=frames: .* truncated too often .*none$"):
        short_episodes(storage, 200)
    assert storage.rings["frames"].num_added == slots == 50 + 1 + 8


@pytest.mark.parametrize("dtype", [BYTES, BITS])
def test_several_storages_at_once_equal_each_alone(dtype):
    """Under torch.func.vmap, as several runs are trained at once."""
    spec, storages = spec_of(dtype, 2), []
    for seed in range(3):
        storage = FrameStorage(20, spec, CPU, num_envs=1, n_step=1)
        assemblers = [assembler_of(1, 1), assembler_of(1, 1)]
        fill(storage, RandomEnvironments(spec, 1, seed, 0.2), 30, *assemblers)
        storages.append(storage)
    tensors = [torch.stack(same) for same in zip(*[s.tensors for s in storages], strict=True)]
    indices = torch.randint(20, (3, 6), generator=torch.Generator().manual_seed(0))
    gather = storages[0].gather
    together = torch.func.vmap(lambda *given: gather(*given)[:5])(tensors, indices)
    for r, storage in enumerate(storages):
        alone = storage.gather(storage.tensors, indices[r])
        for ours, theirs in zip(together, alone[:5], strict=True):
            assert torch.equal(ours[r], theirs)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [BYTES, BITS])
@pytest.mark.parametrize("stack", [1, 4])
def test_the_compiled_gather_equals_the_eager_one(dtype, stack):
    spec = spec_of(dtype, stack)
    storage = FrameStorage(20, spec, CPU, num_envs=1, n_step=3)
    assemblers = [assembler_of(3, 1), assembler_of(3, 1)]
    fill(storage, RandomEnvironments(spec, 1, 0, 0.2), 50, *assemblers)
    weights = torch.rand(2, *spec.shape)

    def scores(*tensors):
        batch = storage.gather(tensors[:-1], tensors[-1])
        obs = torch.stack([batch.obs, batch.next_obs], dim=1).float()
        return (obs * weights).flatten(1).sum(1)

    indices = torch.tensor([19, 0, 7, 7])
    compiled = compile_ahead(scores, storage.tensors, [indices])
    assert torch.allclose(compiled(indices), scores(*storage.tensors, indices))


def test_a_million_transitions_of_atari_and_of_minatar():
    """Counted, not allocated: two thirds of an Atari replay are not stored seven times more."""
    million = 1_000_000
    atari, breakout = ObsSpec((4, 84, 84), BYTES, 4), ObsSpec((10, 10, 4), BITS)
    assert million * 84 * 84 < frame_storage_bytes(million, atari, 8, 20) <= 7_300_000_000
    assert million * 50 < frame_storage_bytes(million, breakout, 8, 20) <= 130_000_000


@pytest.mark.parametrize(("dtype", "frame"), [(BYTES, 15), (BITS, 2)])
def test_the_bytes_that_are_counted_are_those_that_are_taken(dtype, frame):
    spec = spec_of(dtype, 4)
    layout = Layout(next_action=True)
    storage = FrameStorage(30, spec, CPU, num_envs=2, n_step=3, layout=layout)
    taken = sum(tensor.nbytes for tensor in storage.tensors)
    assert storage.num_bytes == frame_storage_bytes(30, spec, 2, 3, layout) == taken
    assert taken == num_slots(30, spec, 2, 3) * frame + 30 * (2 * 4 * 4 + 2 * 8 + 2 * 4)


@pytest.mark.parametrize(
    ("spec", "in_phases", "chosen"),
    [
        (ObsSpec((84, 84), BYTES), False, "frames"),
        (ObsSpec((10, 10, 4), BITS), False, "frames"),
        (ObsSpec((4, 84, 84), BYTES, 4), False, "frames"),
        (ObsSpec((84, 84), BYTES), True, "rows"),
        (ObsSpec((128,), BYTES), False, "rows"),  # Atari's RAM
        (ObsSpec((10, 10, 4), np.dtype(np.float32)), False, "rows"),
    ],
)
def test_images_are_kept_as_frames(spec, in_phases, chosen):
    assert choose_storage("auto", spec, in_phases=in_phases) == chosen
    assert choose_storage("rows", spec, in_phases=in_phases) == "rows"
    if chosen == "rows" and not in_phases:
        with pytest.raises(ConfigError, match=r"^buffer\.storage=frames: is for images .* rows$"):
            choose_storage("frames", spec, in_phases=False)


@pytest.mark.parametrize("sampler", [UniformSpec(capacity=9), None])
def test_both_storages_draw_the_same(sampler):
    """The same indices from the same stream, and the same batches."""
    spec = spec_of(BYTES, 2)
    storage = FrameStorage(9, spec, CPU, num_envs=1, n_step=1)
    rows = RowStorage(9, spec, CPU)
    environments, assemblers = RandomEnvironments(spec, 1, 1, 0.1), [assembler_of(1, 1)] * 2
    for transition in fill(storage, environments, 30, assemblers[0], assembler_of(1, 1)):
        rows.add(transition)
    chosen = sampler or PrioritizedSpec(
        capacity=9, alpha=0.5, beta_start=0.4, beta_steps=10, eps=1e-3
    )
    drawn = [chosen.sampler(one).draw(6, np.random.default_rng(3))[0] for one in (rows, storage)]
    assert torch.equal(*drawn)
    ours, theirs = storage.gather(storage.tensors, drawn[0]), rows.gather(rows.tensors, drawn[0])
    assert torch.equal(ours.obs, theirs.obs)
    goes_on = ours.discount > 0
    assert torch.equal(ours.next_obs[goes_on], theirs.next_obs[goes_on])


def test_a_checkpoint_names_no_frames_that_there_are_not():
    spec = spec_of(BYTES, 2)
    storage, other = (FrameStorage(n, spec, CPU, num_envs=1, n_step=1) for n in (9, 8))
    fill(storage, RandomEnvironments(spec, 1, 0, 0.1), 12, assembler_of(1, 1), assembler_of(1, 1))
    frame_ring, columns = storage.rings["frames"], storage.rows(3, 9)
    for column in (0, 4):
        for slot in (-1, frame_ring.capacity):
            wrong = [values.clone() for values in columns]
            wrong[column][2, 1] = slot
            with pytest.raises(ValueError, match="frames"):
                storage.set_rows(3, 9, wrong)
    state = frame_ring.get_state()
    for stacks in ([[0, frame_ring.capacity]], [None, None]):
        with pytest.raises(ValueError, match=r"frames|stacks"):
            frame_ring.set_state({**state, "stacks": stacks})
    with pytest.raises(RunError, match="has another"):
        other.rings["frames"].set_state(state)


@pytest.mark.parametrize("stack", [1, 3])
@pytest.mark.parametrize("dtype", [BYTES, BITS])
def test_observations_lie_in_one_piece(stack, dtype):
    """A network of the user's own may look at them by `view`."""
    spec = spec_of(dtype, stack)
    storage = FrameStorage(9, spec, CPU, num_envs=1, n_step=1)
    fill(storage, RandomEnvironments(spec, 1, 0, 0.1), 9, assembler_of(1, 1), assembler_of(1, 1))
    batch = storage.gather(storage.tensors, torch.arange(5))
    assert batch.obs.is_contiguous()
    assert batch.next_obs.is_contiguous()
