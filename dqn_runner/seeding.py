"""The independent random streams of a run, all spawned from its seed."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class RandomStreams(NamedTuple):
    """One generator for each source of randomness, so that none changes another.

    A longer evaluation draws only from `evaluation`; a recorded video draws from none of them.
    """

    env: np.random.Generator
    evaluation: np.random.Generator
    exploration: np.random.Generator
    replay: np.random.Generator
    network: np.random.Generator


def random_streams(seed: int) -> RandomStreams:
    """Spawn the streams of `seed`; seeds next to each other share none (numpy's SeedSequence)."""
    children = np.random.SeedSequence(seed).spawn(len(RandomStreams._fields))
    return RandomStreams(*(np.random.default_rng(child) for child in children))


def draw_seed(rng: np.random.Generator) -> int:
    """Draw a seed in [0, 2^31), such as an episode's."""
    return int(rng.integers(2**31))


def evaluation_stream(seed: int) -> np.random.Generator:
    """A stream for evaluation after training; no training draws from it, whatever its seed."""
    key = len(RandomStreams._fields)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(key,)))


def get_state(rng: np.random.Generator) -> dict[str, Any]:
    """The state of a stream, as plain numbers and strings."""
    return dict(rng.bit_generator.state)


def set_state(rng: np.random.Generator, state: dict[str, Any]) -> None:
    """Set a stream to a state that `get_state` returned."""
    rng.bit_generator.state = state
