"""How often the 95 % intervals of dqn-compare hold the truth, found by drawing seeds many times.

`python tests/analysis/interval_coverage.py` prints the tables of docs/statistics.md, in minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from dqn_runner.analysis.statistics import band, iqm, probability_of_improvement

Floats = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Floats]
Interval = Callable[[Floats], tuple[Floats, Floats]]  # of scores [seeds, simulations], each [...]

SEEDS = (5, 10, 20)
SIMULATIONS = 4000
POPULATION = 1_000_000


def capped(share: float) -> Draw:
    """Final returns of CartPole: so many runs at its cap, the others anywhere below."""
    return lambda rng, size: np.where(rng.random(size) < share, 500.0, rng.uniform(9, 500, size))


def collapsing(rng: np.random.Generator, size: tuple[int, ...]) -> Floats:
    """Four runs of five near the cap, one anywhere."""
    near = np.minimum(500.0, rng.normal(490, 20, size))
    return np.where(rng.random(size) < 0.8, near, rng.uniform(9, 500, size))


SCORES: dict[str, Draw] = {
    "normal": lambda rng, size: rng.normal(300, 80, size),
    "log-normal (σ = 0.8)": lambda rng, size: rng.lognormal(4, 0.8, size),
    "half at the cap": capped(0.5),
    "70 % at the cap": capped(0.7),
    "one in five collapses": collapsing,
}


def ours(statistic: Callable[..., Floats]) -> Interval:
    """The interval that dqn-compare prints."""
    return lambda scores: band(scores, statistic)[1:]


def percentile(statistic: Callable[..., Floats]) -> Interval:
    """The plain percentile bootstrap."""

    def interval(scores: Floats) -> tuple[Floats, Floats]:
        found = stats.bootstrap(
            [scores], statistic, n_resamples=2000, method="percentile", batch=250, rng=0
        )
        return found.confidence_interval.low, found.confidence_interval.high

    return interval


def student(scores: Floats, trim: float = 0.0) -> tuple[Floats, Floats]:
    """Student's t for the mean, Tukey and McLaughlin's (1963) for a trimmed one."""
    cut, n = int(trim * len(scores)), len(scores)
    kept = np.sort(scores, axis=0)[cut : n - cut]
    winsorized = np.clip(scores, kept[0], kept[-1])
    error = winsorized.std(axis=0, ddof=1) / ((1 - 2 * cut / n) * np.sqrt(n))
    reach = stats.t.isf(0.025, len(kept) - 1) * error
    return kept.mean(axis=0) - reach, kept.mean(axis=0) + reach


COLUMNS: dict[str, tuple[Callable[..., Floats], Interval]] = {
    "mean": (np.mean, ours(np.mean)),
    "Student's t": (np.mean, student),
    "percentile bootstrap": (np.mean, percentile(np.mean)),
    "IQM": (iqm, ours(iqm)),
    "trimmed t": (iqm, lambda scores: student(scores, 0.25)),
    "its percentile bootstrap": (iqm, percentile(iqm)),
    "median": (np.median, ours(np.median)),
}


def coverage(scores: str, seeds: int, column: str, simulations: int) -> float:
    """The share of `simulations` draws of so many seeds whose interval holds the truth."""
    draw, (statistic, interval) = SCORES[scores], COLUMNS[column]
    truth = float(statistic(draw(np.random.default_rng(0), (POPULATION,))))
    drawn = draw(np.random.default_rng(seeds), (seeds, simulations))
    parts = [interval(part) for part in np.array_split(drawn, -(-simulations // 500), axis=1)]
    low, high = np.concatenate(parts, axis=-1)
    return float(np.mean((low - 1e-9 <= truth) & (truth <= high + 1e-9)))


def improvement_coverage(a: str, b: str, shift: float, seeds: int, simulations: int) -> float:
    """The same for the probability that a run of `a`, shifted, scores above one of `b`."""
    rng = np.random.default_rng(seeds)
    one, other = (SCORES[name](rng, (POPULATION,)) for name in (a, b))
    truth = np.mean((one + shift > other) + 0.5 * (one + shift == other))
    inside = 0
    for _ in range(simulations):
        x, y = SCORES[a](rng, (seeds,)) + shift, SCORES[b](rng, (seeds,))
        estimate = probability_of_improvement([x], [y])
        inside += estimate.low - 1e-3 <= truth <= estimate.high + 1e-3
    return inside / simulations


PAIRS = (
    ("normal", "normal", 0.0),
    ("normal", "normal", 80.0),
    ("normal", "normal", 240.0),
    ("log-normal (σ = 0.8)", "log-normal (σ = 0.8)", 50.0),
    ("70 % at the cap", "half at the cap", 0.0),
)


def row(cells: Sequence[object]) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def main() -> None:
    row(["scores", "seeds", *COLUMNS])
    row(["---"] * (2 + len(COLUMNS)))
    for scores in SCORES:
        for seeds in SEEDS:
            shares = (coverage(scores, seeds, column, SIMULATIONS) for column in COLUMNS)
            row([scores, seeds, *(f"{share:.2f}" for share in shares)])
    print()
    row(["of", "over", "shifted by", *(f"{seeds} seeds each" for seeds in SEEDS)])
    row(["---"] * (3 + len(SEEDS)))
    for a, b, shift in PAIRS:
        shares = (improvement_coverage(a, b, shift, seeds, SIMULATIONS // 4) for seeds in SEEDS)
        row([a, b, f"{shift:.0f}", *(f"{share:.2f}" for share in shares)])


if __name__ == "__main__":
    main()
