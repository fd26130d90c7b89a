"""curve.png: how one run learned."""

from __future__ import annotations

from pathlib import Path

from dqn_runner.tracking.metrics_file import read_metrics
from dqn_runner.types import Row

TRAINING_COLOR, EVALUATION_COLOR = "#56b4e9", "#d55e00"


def draw_curve(metrics: Path, target: Path) -> None:
    """Draw the returns in a metrics.jsonl: training, and evaluation with its spread."""
    # Drawn on a canvas of its own, not by pyplot: no window system, no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = read_metrics(metrics)
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots()
    steps, returns = _series(rows, "rollout/episode_return")
    axes.plot(steps, returns, color=TRAINING_COLOR, linewidth=1.2, label="training (ε-greedy)")
    steps, means = _series(rows, "eval/episode_return_mean")
    _, spreads = _series(rows, "eval/episode_return_std")
    axes.errorbar(
        steps,
        means,
        yerr=spreads,
        color=EVALUATION_COLOR,
        marker="o",
        markersize=4,
        capsize=2,
        linewidth=1.6,
        label="evaluation (greedy), ± one standard deviation",
    )
    axes.set_xlabel("env steps")
    axes.set_ylabel("episode return")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    FigureCanvasAgg(figure)
    figure.savefig(target, format="png", dpi=150)


def _series(rows: list[Row], name: str) -> tuple[list[float], list[float]]:
    points = [(row["env_steps"], row[name]) for row in rows if name in row]
    return [x for x, _ in points], [y for _, y in points]
