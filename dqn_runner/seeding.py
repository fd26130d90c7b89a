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
    noise: np.random.Generator


# What each stream is spawned by; a new one takes the next number, so that it moves no other.
_KEYS = {"env": 0, "evaluation": 1, "exploration": 2, "replay": 3, "network": 4, "noise": 6}
_EVALUATION_AFTERWARDS = 5


def random_streams(seed: int) -> RandomStreams:
    """Spawn the streams of `seed`; seeds next to each other share none (numpy's SeedSequence)."""
    return RandomStreams(**{name: _stream(seed, key) for name, key in _KEYS.items()})


def _stream(seed: int, key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(key,)))


def draw_seed(rng: np.random.Generator) -> int:
    """Draw a seed in [0, 2^31), such as an episode's."""
    return int(rng.integers(2**31))


def evaluation_stream(seed: int) -> np.random.Generator:
    """A stream for evaluation after training; no training draws from it, whatever its seed."""
    return _stream(seed, _EVALUATION_AFTERWARDS)


def get_state(rng: np.random.Generator) -> dict[str, Any]:
    """The state of a stream, as plain numbers and strings."""
    return dict(rng.bit_generator.state)


def set_state(rng: np.random.Generator, state: dict[str, Any]) -> None:
    """Set a stream to a state that `get_state` returned."""
    rng.bit_generator.state = state
