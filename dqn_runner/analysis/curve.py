"""curve.png: the returns of one run over env steps."""

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
MOST_DRAWN = 4000  # points of a curve; more are narrower than a pixel


def draw_curve(metrics: Path, target: Path | IO[bytes]) -> None:
    """Draw the returns in a metrics.jsonl, of training episodes and of evaluations, as a PNG.

    If lines of the file are damaged, the title of the picture names them.
    """
    # Without pyplot: it needs no window system and has no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots()
    (steps, returns), problem = read_columns(metrics, "rollout/episode_return")
    shown = few(steps, returns, MOST_DRAWN)
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
    shown = few(steps, means, MOST_DRAWN)
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
    """In a notebook, show a run's curve and update it every `seconds` until the run ends.

    Raises ModuleNotFoundError without IPython.
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


def few(env_steps: Floats, values: Floats, most: int) -> Integers:
    """The indices of at most `most` of the points [T] to draw: all of them, if they are so few.

    Otherwise the lowest and the highest value of each of `most // 2` stretches of env steps.
    """
    if len(values) <= most:
        return np.arange(len(values))
    starts = stretches(env_steps, most // 2)
    number = np.zeros(len(values), np.int64)
    number[starts[1:]] = 1
    by_value = np.lexsort((values, number.cumsum()))  # within each stretch
    ends = np.append(starts[1:], len(values)) - 1
    return np.unique(by_value[np.concatenate([starts, ends])])


def stretches(env_steps: Floats, number: int) -> Integers:
    """Where each of at most `number` stretches of `env_steps` [T] begins; all have equal lengths.

    Stretches without a point are left out.
    """
    rising = np.maximum.accumulate(env_steps)
    whole = rising[-1] - rising[0] or 1.0
    stretch = np.minimum((rising - rising[0]) / whole * number, number - 1).astype(np.int64)
    return np.flatnonzero(np.diff(stretch, prepend=-1))


def moving_mean(values: Floats, window: int, at: Integers) -> Floats:
    """The mean [I] of the last `window` of `values` [T] up to and including each index `at` [I].

    Near the beginning it is the mean of as many values as there are.
    """
    sums = np.concatenate([[0.0], values.cumsum()])
    ends = at + 1
    starts = np.maximum(ends - window, 0)
    means: Floats = (sums[ends] - sums[starts]) / (ends - starts)
    return means
