"""What the contestants of replay.py have in common: the same items, and how they are measured.

Each prints a line of JSON. Its arguments are the number of items and of cycles.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

ITEMS, CYCLES = int(sys.argv[1]), int(sys.argv[2])
BATCH, ALPHA, BETA, EPS = 64, 0.6, 0.4, 1e-6
BINS = 500  # of neighbors, in which what is drawn is counted

_rng = np.random.default_rng(0)
PRIORITIES = _rng.exponential(size=ITEMS).astype(np.float32)
COLUMNS: dict[str, np.ndarray] = {
    "obs": _rng.standard_normal((ITEMS, 4), np.float32),
    "action": _rng.integers(2, size=ITEMS),
    "reward": _rng.standard_normal(ITEMS, np.float32),
    "discount": np.full(ITEMS, 0.99, np.float32),
    "next_obs": _rng.standard_normal((ITEMS, 4), np.float32),
}
NEW_PRIORITIES = _rng.exponential(size=(CYCLES, BATCH)).astype(np.float32)


def measure(
    draw: Callable[[], tuple[Any, Any]], update: Callable[[Any, Any], object], new: Iterable[Any]
) -> None:
    """Print how true the drawing is, and the median microseconds of drawing and of updating.

    `draw` gathers a batch too, and returns indices and weights. `new` has the priorities of each
    cycle as `update` takes them.
    """
    print(json.dumps(truth(draw) | speed(draw, update, new)))


def truth(draw: Callable[[], tuple[Any, Any]]) -> dict[str, float]:
    """Chi-square per degree of freedom against the exact probabilities, and errors of weights.

    About 1 for independent draws, less for stratified ones, more for a wrong distribution. Weights
    are compared within a batch, as libraries divide them by different numbers.
    """
    exact = (PRIORITIES.astype(np.float64) + EPS) ** ALPHA
    exact /= exact.sum()
    counts, error = np.zeros(BINS), 0.0
    for _ in range(CYCLES):
        indices, weights = (np.asarray(part).ravel().astype(np.float64) for part in draw())
        rows = indices.astype(np.int64)
        counts += np.bincount(rows * BINS // ITEMS, minlength=BINS)
        formula = (exact[rows].min() / exact[rows]) ** BETA
        error = max(error, float(np.abs(weights / weights.max() - formula).max()))
    bins = np.arange(ITEMS) * BINS // ITEMS
    expected = CYCLES * BATCH * np.bincount(bins, weights=exact, minlength=BINS)
    chi_square = ((counts - expected) ** 2 / expected).sum()
    return {"chi_square": float(chi_square) / (BINS - 1), "weight_error": error}


def speed(
    draw: Callable[[], tuple[Any, Any]], update: Callable[[Any, Any], object], new: Iterable[Any]
) -> dict[str, float]:
    """Median microseconds of a draw, of an update, and of both."""
    times = np.zeros((CYCLES, 2))
    for cycle, priorities in enumerate(new):
        start = time.perf_counter()
        indices, _ = draw()
        drawn = time.perf_counter()
        update(indices, priorities)
        times[cycle] = drawn - start, time.perf_counter() - drawn
    medians = 1e6 * np.median(np.column_stack([times, times.sum(axis=1)]), axis=0)
    return dict(zip(("draw", "update", "both"), medians.tolist(), strict=True))
