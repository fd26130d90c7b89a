"""Which jobs can be trained together, and how they are spread over groups."""

from __future__ import annotations

import pytest

from dqn_runner.sweeps.sharing import evenly, lockstep

TOGETHER = (
    *("seed=7", "agent.lr=0.3", "agent.gamma=0.5", "total_timesteps=99", "target_update.tau=0.3"),
    *("epsilon=fixed", "epsilon=linear epsilon.decay_steps=9", "buffer=prioritized"),
    *("eval.interval=7", "log.interval=7", "checkpoint.interval=7", "agent.max_grad_norm=3"),
    *("agent.optimizer.eps=1e-3", "agent.reward_scale=2", "tracker.name=other", "agent.n_step=5"),
)
APART = (
    *("env=acrobot", "network.hidden_sizes=[8]", "network.norm=none", "agent=hl_gauss"),
    *("agent.optimizer.name=sgd", "batch_size=17", "train_frequency=2", "gradient_steps=2"),
    *("learning_starts=51", "num_envs=2", "buffer.capacity=77", "target_update=hard"),
    *("agent.max_grad_norm=null", "agent.double=false", "compile=always"),
    *("device=cuda", "phase.episodes=3 phase.epochs=1 learning_starts=0"),
)


@pytest.mark.parametrize("settings", [*TOGETHER, *APART])
def test_what_keeps_runs_apart(compose, settings):
    one, other = (
        compose("agent.max_grad_norm=5"),
        compose("agent.max_grad_norm=5", *settings.split()),
    )
    assert (lockstep(one.plain()) == lockstep(other.plain())) == (settings in TOGETHER)


@pytest.mark.parametrize(
    ("count", "most", "processes", "sizes"),
    [
        (30, 8, 2, [8, 8, 7, 7]),
        (20, 8, 2, [5, 5, 5, 5]),  # not 7, 7 and 6, of which two would go one after the other
        (16, 8, 2, [8, 8]),
        (10, 8, 2, [5, 5]),
        (3, 8, 2, [2, 1]),
        (2, 8, 2, [1, 1]),
        (2, 8, 4, [1, 1]),
        (9, 1, 2, [1] * 9),
        (7, 100, 1, [7]),
        (0, 8, 2, []),
    ],
)
def test_groups_are_even_and_a_multiple_of_the_processes(count, most, processes, sizes):
    groups = evenly(range(count), most, processes)
    assert [len(group) for group in groups] == sizes
    assert [member for group in groups for member in group] == list(range(count))


def test_frames_are_kept_for_as_many_steps_as_a_return_has(compose):
    one, other = (compose(f"agent.n_step={n}").plain() for n in (1, 3))
    assert lockstep(one) == lockstep(other)
    assert lockstep(one, keeps_frames=True) != lockstep(other, keeps_frames=True)
