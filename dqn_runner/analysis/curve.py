"""curve.png: how one run learned."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path
from typing import IO

import numpy as np

from dqn_runner.analysis.runs import Floats, Integers, read_columns
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.runs.metrics_file import EVALUATION

TRAINING_COLOR, EVALUATION_COLOR = "#56b4e9", "#d55e00"
MEAN_OVER = 100  # episodes
MOST_STRETCHES = 2000  # of a line, each a fraction of a pixel wide


def draw_curve(metrics: Path, target: Path | IO[bytes]) -> None:
    """Draw the returns in a metrics.jsonl, of training episodes and of evaluations, as a PNG.

    Where lines of it hold no row, the picture says which are missing.
    """
    # Drawn on a canvas of its own, not by pyplot: no window system, no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots()
    (steps, returns), problem = read_columns(metrics, "rollout/episode_return")
    shown = few(returns)
    axes.plot(
        steps[shown],
        returns[shown],
        color=TRAINING_COLOR,
        linewidth=0.6,
        alpha=0.4,
        label="training episodes",
    )
    axes.plot(
        steps[shown],
        moving_mean(returns, MEAN_OVER, shown),
        color=TRAINING_COLOR,
        linewidth=1.8,
        label=f"their {MEAN_OVER}-episode mean",
    )
    (steps, means, spreads), also = read_columns(metrics, EVALUATION, "eval/episode_return_std")
    shown = few(means)
    axes.errorbar(
        steps[shown],
        means[shown],
        yerr=spreads[shown],
        color=EVALUATION_COLOR,
        marker="o",
        markersize=4,
        capsize=2,
        linewidth=1.6,
        label="evaluation without ε, ± std",
    )
    axes.set_xlabel("env steps")
    axes.set_ylabel("episode return")
    axes.grid(alpha=0.3)
    axes.set_title(problem or also, fontsize=7, color="#cc0000", wrap=True)
    figure.legend(frameon=False, loc="outside upper center", ncols=3)
    FigureCanvasAgg(figure)
    figure.savefig(target, format="png", dpi=150)


def show_live(run: str | os.PathLike[str], seconds: float = 5.0) -> None:
    """In a notebook's cell, show the curve of a run directory anew every `seconds` until it ends.

    Raises ModuleNotFoundError outside of IPython.
    """
    from IPython.display import Image, display

    run_dir = RunDirectory(Path(run))

    def picture() -> Image:
        png = io.BytesIO()
        draw_curve(run_dir.metrics, png)
        return Image(data=png.getvalue(), format="png")

    handle = display(picture(), display_id=True)
    while run_dir.is_locked():
        time.sleep(seconds)
        handle.update(picture())


def few(values: Floats) -> Integers:
    """The indices of those of `values` [T] that show in a picture: all where they are few.

    Else the lowest and the highest of each of `MOST_STRETCHES` stretches.
    """
    size = -(-len(values) // MOST_STRETCHES)
    starts = range(0, len(values), max(1, size))
    stretches = [values[start : start + size] for start in starts]
    ends = [[s.argmin(), s.argmax()] for s in stretches]
    return np.unique(np.array(starts)[:, None] + np.array(ends).reshape(-1, 2)).astype(np.int64)


def moving_mean(values: Floats, window: int, at: Integers) -> Floats:
    """Mean [I] of the last `window` of `values` [T] up to each index `at` [I], of fewer where there
    are fewer.
    """
    sums = np.concatenate([[0.0], values.cumsum()])
    ends = at + 1
    starts = np.maximum(ends - window, 0)
    means: Floats = (sums[ends] - sums[starts]) / (ends - starts)
    return means
