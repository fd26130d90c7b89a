"""The figures of a comparison, for print and for the colour-blind.

Drawn on canvases of their own, not by pyplot: no window system, no global state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dqn_runner.analysis.comparison import Comparison, GroupStatistics, threshold_of
from dqn_runner.analysis.groups import common_axis
from dqn_runner.analysis.statistics import AGGREGATES, band, performance_profile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito 2008; what shares a colour differs in its line.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
LINES = ("-", "--", ":", "-.")

# More curves than this cannot be told apart; the best groups are drawn.
MOST_GROUPS = 12


def figures(comparison: Comparison) -> dict[str, Figure]:
    """Every figure that these runs have something for, by name."""
    drawn = {
        "learning_curves": learning_curves(comparison),
        "aggregates": aggregates(comparison),
        "performance_profile": profiles(comparison),
        "sample_efficiency": sample_efficiency(comparison),
    }
    parameters = varied_parameters(comparison)
    if parameters:
        drawn["parameters"] = parameter_effects(comparison, parameters)
    if len(parameters) > 1:
        drawn["parallel_coordinates"] = parallel_coordinates(comparison, parameters)
    return {name: figure for name, figure in drawn.items() if figure is not None}


def save(drawn: dict[str, Figure], folder: Path) -> list[Path]:
    """Write each figure as PNG and SVG; returns the paths."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in drawn.items():
        FigureCanvasAgg(figure)
        for suffix in ("png", "svg"):
            paths.append(folder / f"{name}.{suffix}")
            figure.savefig(paths[-1], format=suffix, dpi=150, metadata=_no_date(suffix))
    return paths


def _no_date(suffix: str) -> dict[str, Any]:
    # The same runs give the same file.
    return {"Date": None} if suffix == "svg" else {}


def learning_curves(comparison: Comparison) -> Figure | None:
    """Evaluation return over env steps: mean over seeds with its interval, a panel an env."""
    return _curve_panels(
        comparison, lambda values: band(values, np.mean), "mean evaluation return", threshold=True
    )


def sample_efficiency(comparison: Comparison) -> Figure | None:
    """IQM of the evaluation return over env steps with its interval, a panel an environment."""
    return _curve_panels(comparison, band, "IQM of evaluation return", threshold=True)


def _curve_panels(
    comparison: Comparison,
    summary: Callable[..., Any],
    label: str,
    threshold: bool,
) -> Figure | None:
    shown = comparison.groups[:MOST_GROUPS]
    environments = sorted(
        {str(run.config.get("env.id")) for group in shown for run in group.group.runs}
    )
    figure = _figure(6.4 * len(environments), 4.4)
    panels = figure.subplots(1, len(environments), squeeze=False)[0]
    drawn = False
    for axes, environment in zip(panels, environments, strict=True):
        for i, group in enumerate(shown):
            members = [
                (run, points)
                for run, points in zip(group.group.runs, group.curves, strict=True)
                if str(run.config.get("env.id")) == environment and len(points.env_steps)
            ]
            if not members:
                continue
            steps = common_axis([points for _, points in members])
            values = np.stack([points.at(steps) for _, points in members])
            middle, low, high = summary(values)
            style = _style(i)
            axes.plot(steps, middle, label=_label(group), linewidth=1.8, **style)
            axes.fill_between(steps, low, high, color=style["color"], alpha=0.18, linewidth=0)
            level = threshold_of(members[0][0], comparison.options)
            drawn = True
        if threshold and drawn and np.isfinite(level):
            axes.axhline(level, color="0.5", linewidth=0.8, linestyle=(0, (2, 2)))
        axes.set(title=environment, xlabel="env steps", ylabel=label)
        axes.grid(alpha=0.3)
    _legend(figure, panels[0], comparison)
    return figure if drawn else None


def aggregates(comparison: Comparison) -> Figure | None:
    """IQM, mean and median of the final (or chosen) score, as points with intervals."""
    shown = comparison.groups[:MOST_GROUPS][::-1]
    if not shown:
        return None
    metric = comparison.options.metrics[0]
    figure = _figure(10.0, 1.4 + 0.4 * len(shown))
    panels = figure.subplots(1, len(AGGREGATES), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, AGGREGATES, strict=True):
        for row, group in enumerate(shown):
            value, low, high = group.estimates[metric][name]
            color = _style(len(shown) - 1 - row)["color"]
            axes.plot([low, high], [row, row], color=color, linewidth=5, alpha=0.35)
            axes.plot(value, row, marker="o", color=color)
        axes.set_title(name)
        axes.set_xlabel(f"{metric} return")
        axes.grid(alpha=0.3, axis="x")
    panels[0].set_yticks(range(len(shown)), [_label(group) for group in shown])
    panels[0].set_ylim(-0.6, len(shown) - 0.4)
    return figure


def profiles(comparison: Comparison) -> Figure | None:
    """The share of runs that score above each level, with its interval."""
    metric = comparison.options.metrics[0]
    shown = comparison.groups[:MOST_GROUPS]
    scores = [task for group in shown for task in group.scores[metric]]
    known = np.concatenate(scores)[np.isfinite(np.concatenate(scores))] if scores else np.array([])
    if len(known) == 0:
        return None
    margin = 0.02 * (np.ptp(known) or 1.0)
    levels = np.linspace(known.min() - margin, known.max() + margin, 101)
    figure = _figure(6.4, 4.4)
    axes = figure.subplots()
    for i, group in enumerate(shown):
        share, low, high = performance_profile(group.scores[metric], levels)
        style = _style(i)
        axes.plot(
            levels, share, label=_label(group), linewidth=1.8, drawstyle="steps-post", **style
        )
        axes.fill_between(
            levels, low, high, color=style["color"], alpha=0.18, linewidth=0, step="post"
        )
    axes.set(xlabel=f"{metric} return", ylabel="share of runs above", ylim=(-0.03, 1.03))
    axes.grid(alpha=0.3)
    _legend(figure, axes, comparison)
    return figure


def varied_parameters(comparison: Comparison) -> list[str]:
    """The settings that differ between groups: what a sweep searched."""
    settings = [group.group.settings for group in comparison.groups]
    return list(settings[0]) if len(settings) > 1 else []


def parameter_effects(comparison: Comparison, parameters: Sequence[str]) -> Figure:
    """Each parameter against the score of every run, with the mean at each value."""
    columns = min(3, len(parameters))
    rows = -(-len(parameters) // columns)
    figure = _figure(4.2 * columns, 3.6 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    metric = comparison.options.metrics[0]
    for axes, parameter in zip(panels, parameters, strict=False):
        values = [group.group.settings[parameter] for group in comparison.groups]
        position, ticks = _axis(values)
        means: dict[float, list[float]] = {}
        for group, x in zip(comparison.groups, map(position, values), strict=True):
            scores = _scores(group, metric)
            axes.plot([x] * len(scores), scores, "o", color=COLORS[0], alpha=0.4, markersize=4)
            means.setdefault(x, []).extend(scores)
        xs = sorted(means)
        axes.plot(xs, [np.mean(means[x]) for x in xs], "_-", color=COLORS[1], markersize=14)
        axes.set(xlabel=parameter, ylabel=f"{metric} return")
        _set_ticks(axes, ticks)
        axes.grid(alpha=0.3)
    for axes in list(panels):
        axes.set_axis_off()
    return figure


def parallel_coordinates(comparison: Comparison, parameters: Sequence[str]) -> Figure:
    """A line a group through its parameters to its IQM, which also colours it."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    metric = comparison.options.metrics[0]
    figure = _figure(2.2 * (len(parameters) + 1), 4.4)
    axes = figure.subplots()
    iqms = np.array([group.estimates[metric]["IQM"].value for group in comparison.groups])
    norm, colormap = Normalize(np.nanmin(iqms), np.nanmax(iqms)), colormaps["cividis"]
    heights = []
    for x, parameter in enumerate(parameters):
        values = [group.group.settings[parameter] for group in comparison.groups]
        position, ticks = _axis(values)
        places = np.array([position(value) for value in values])
        span = (places.min(), np.ptp(places) or 1.0)
        heights.append((places - span[0]) / span[1])
        for place, text in ticks or [(p, f"{v:g}") for p, v in zip(places, values, strict=True)]:
            height = (place - span[0]) / span[1]
            axes.annotate(text, (x, height), xytext=(4, 0), textcoords="offset points", fontsize=8)
    heights.append(norm(iqms))
    for i in range(len(comparison.groups)):
        line = [height[i] for height in heights]
        axes.plot(range(len(line)), line, color=colormap(norm(iqms[i])), linewidth=1.8)
    axes.set_xticks(range(len(parameters) + 1), [*parameters, f"IQM of {metric} return"])
    axes.set_yticks([])
    axes.grid(alpha=0.5, axis="x")
    figure.colorbar(ScalarMappable(norm, colormap), ax=axes, label=f"IQM of {metric} return")
    return figure


def _scores(group: GroupStatistics, metric: str) -> list[float]:
    return [float(x) for task in group.scores[metric] for x in task if np.isfinite(x)]


def _axis(values: Sequence[Any]) -> tuple[Callable[[Any], float], list[tuple[float, str]]]:
    """Where each value stands: numbers by size, or logarithm where they span decades; names evenly.

    Returns also the ticks to label, none for numbers by size.
    """
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        if min(values) > 0 and max(values) / min(values) >= 10:
            return lambda v: float(np.log10(v)), [
                (float(np.log10(v)), f"{v:g}") for v in set(values)
            ]
        return float, []
    names = sorted({str(value) for value in values})
    return lambda v: float(names.index(str(v))), [(float(i), name) for i, name in enumerate(names)]


def _set_ticks(axes: Axes, ticks: list[tuple[float, str]]) -> None:
    if ticks:
        axes.set_xticks([place for place, _ in ticks], [text for _, text in ticks])
        axes.minorticks_off()


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _style(i: int) -> dict[str, Any]:
    return {"color": COLORS[i % len(COLORS)], "linestyle": LINES[i // len(COLORS) % len(LINES)]}


def _label(group: GroupStatistics) -> str:
    return f"{group.group.name} (n={group.num_scores()})"


def _legend(figure: Figure, axes: Axes, comparison: Comparison) -> None:
    handles, labels = axes.get_legend_handles_labels()
    left_out = len(comparison.groups) - MOST_GROUPS
    title = f"the best {MOST_GROUPS} of {len(comparison.groups)} groups" if left_out > 0 else None
    if len(handles) > 1 or title:
        figure.legend(handles, labels, title=title, loc="outside lower center", frameon=False)
