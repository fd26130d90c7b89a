"""The points of one metric of one run, in bounded memory however long the run is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dqn_runner.analysis.curve import few, stretches
from dqn_runner.analysis.groups import Curve
from dqn_runner.analysis.runs import Floats

MOST_POINTS = 1000  # of a metric; more than a chart is wide

Point = tuple[float, float, float]  # env steps, value, seconds since the run began


class Points:
    """The points of a metric: all of them, or the extremes if there are more than `MOST_POINTS`.

    Other threads may read while `append` runs: arrays are replaced, never changed.
    """

    def __init__(self) -> None:
        self._points = np.empty((0, 3))
        # Env steps, value, and how many points were averaged; only of points that are not all kept.
        self._means: Floats | None = None
        self.last: Point | None = None

    @classmethod
    def of(cls, curve: Curve, seconds: float) -> Points:
        """The points of a curve that is not a run's own."""
        points = cls()
        points.append([(s, v, seconds) for s, v in zip(*curve, strict=True) if np.isfinite(v)])
        return points

    def append(self, new: Sequence[Point]) -> None:
        """Add points, in the order in which they were logged."""
        if not new:
            return
        self.last = new[-1]
        added = np.array(new, float)
        if self._means is not None:
            self._means = np.concatenate([self._means, _counted(added)])
        self._points = np.concatenate([self._points, added])
        if len(self._points) > 2 * MOST_POINTS:
            means = _counted(self._points) if self._means is None else self._means
            self._means = _averaged(means, MOST_POINTS)
            self._points = self._thinned(MOST_POINTS)

    def shown(self, most: int = MOST_POINTS) -> Floats:
        """At most `most` points [T, 3]: the lowest and highest of each stretch of env steps."""
        return self._thinned(most)

    def curve(self) -> Curve:
        """Env steps and values, for statistics over runs.

        Long runs are averaged over equal stretches of env steps: extremes would mislead.
        """
        means = self._points if self._means is None else _averaged(self._means, MOST_POINTS)
        steps, first = np.unique(means[:, 0].astype(np.int64), return_index=True)
        return Curve(steps, means[first, 1])

    def _thinned(self, most: int) -> Floats:
        points = self._points
        return points[few(points[:, 0], points[:, 1], most)] if len(points) > most else points


def _counted(points: Floats) -> Floats:
    """Points [T, 3] as means [T, 3] of one point each."""
    return np.column_stack([points[:, :2], np.ones(len(points))])


def _averaged(means: Floats, most: int) -> Floats:
    """Weighted means [<= most, 3] of `means` [T, 3] over stretches of env steps."""
    starts = stretches(means[:, 0], most)
    weights = np.add.reduceat(means[:, 2], starts)
    sums = np.add.reduceat(means[:, :2] * means[:, 2:], starts)
    return np.column_stack([sums / weights[:, None], weights])
