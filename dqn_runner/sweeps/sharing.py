"""Which jobs share an update, and which can be trained together."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from dqn_runner.types import flatten

T = TypeVar("T")

# Sections and settings that are numbers to an update, or no part of it.
_NUMBERS = {
    *("experiment", "seed", "resume", "compile", "total_timesteps", "total_episodes", "num_envs"),
    *("learning_starts", "train_frequency", "gradient_steps", "phase", "eval", "log"),
    *("checkpoint", "tracker", "epsilon", "env.max_step_seconds", "env.vectorization"),
    *("agent.lr", "agent.lr_schedule", "agent.lr_decay_steps", "agent.gamma", "agent.n_step"),
    *("agent.behaviour", "agent.temperature", "agent.reward_clip", "agent.reward_scale"),
    *("agent.v_min", "agent.v_max", "env.return_range"),
    *(f"agent.munchausen.{name}" for name in ("alpha", "temperature", "clip")),
    *(f"buffer.{name}" for name in ("name", "alpha", "beta_start", "beta_steps", "eps")),
    *(f"agent.optimizer.{name}" for name in ("betas", "eps", "weight_decay", "momentum", "alpha")),
    *("target_update.tau", "target_update.interval", "target_update.unit"),
}
# Numbers to an update, which is another function if they are null.
_NUMBERS_OR_NULL = {
    *("agent.max_grad_norm", "agent.max_grad_value", "agent.reset_interval", "network.noisy"),
}

# The rhythm of training, in which runs must agree that go in lockstep.
_RHYTHM = ("num_envs", "learning_starts", "train_frequency", "gradient_steps", "phase", "compile")


def update_function(settings: dict[str, Any]) -> str:
    """What decides which function the update is; runs that agree in it share a compilation.

    A setting that is not known to be a number counts: at worst, runs that could share do not.
    """
    shape = {
        key: value is None if key in _NUMBERS_OR_NULL else value
        for key, value in flatten(settings).items()
        if not _NUMBERS & {key, key.split(".")[0]}
    }
    return json.dumps(shape, sort_keys=True)


def lockstep(settings: dict[str, Any], *, keeps_frames: bool = False) -> str:
    """What decides which runs can be trained together; those that agree in it can.

    Where each frame is kept once, how many there are depends on `agent.n_step`.
    """
    shared = (*_RHYTHM, "agent.n_step") if keeps_frames else _RHYTHM
    rhythm = {key: value for key, value in flatten(settings).items() if key.startswith(shared)}
    return json.dumps([update_function(settings), rhythm], sort_keys=True)


def evenly(members: Sequence[T], most: int, multiple_of: int) -> list[list[T]]:
    """`members`, in their order, in groups of about the same size, at most `most`.

    Their number is a multiple of `multiple_of` if there are members enough, so that as many
    processes have as much to do.
    """
    count = -(-len(members) // most)
    count = min(-(-count // multiple_of) * multiple_of, len(members))
    rest, sizes = iter(members), [len(members[i::count]) for i in range(count)]
    return [list(islice(rest, size)) for size in sizes]


def budget(settings: Mapping[str, Any]) -> tuple[float, float]:
    """How long a run takes, in env steps and in episodes; to sort runs by."""
    steps, episodes = (settings[key] for key in ("total_timesteps", "total_episodes"))
    return steps or math.inf, episodes or math.inf


def sorted_by(key: Mapping[T, Hashable]) -> list[list[T]]:
    """The members of `key` with those together that have the same key, in their order."""
    found: dict[Hashable, list[T]] = {}
    for member, of_member in key.items():
        found.setdefault(of_member, []).append(member)
    return list(found.values())
