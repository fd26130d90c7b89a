"""The figures of a comparison, in colors that color-blind readers can tell apart.

They are drawn without pyplot, so they need no window system and have no global state.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dqn_runner.analysis.comparison import Comparison, GroupStatistics, Ranking, threshold_of
from dqn_runner.analysis.groups import COLORS, common_axis
from dqn_runner.analysis.statistics import (
    AGGREGATES,
    Kind,
    band,
    iqm,
    kind_of,
    performance_profile,
    with_scores,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Groups with the same color have different lines.
LINES = ("-", "--", ":", "-.")
SHADE: dict[str, Any] = {"alpha": 0.18, "linewidth": 0}

# More curves cannot be told apart, so only the best groups are drawn.
MOST_GROUPS = 12
LONGEST_LINE = 70  # characters, in a legend


def figures(comparison: Comparison) -> dict[str, Figure]:
    """Every figure for which the runs have data, by name.

    With several environments each has its own figures: `CartPole-v1/learning_curves`.
    """
    drawn: dict[str, Figure | None] = {}
    for ranking in comparison.rankings:
        folder = f"{folder_of(ranking)}/" if len(comparison.rankings) > 1 else ""
        drawn |= {folder + name: figure for name, figure in _figures(ranking).items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def folder_of(ranking: Ranking) -> str:
    """The first part of the names of a ranking's figures, if there are several rankings."""
    return re.sub(r"[^\w.\-]", "_", ranking.name)


def _figures(ranking: Ranking) -> dict[str, Figure | None]:
    drawn: dict[str, Figure | None] = {}
    if not ranking.is_across:
        drawn["learning_curves"] = learning_curves(ranking)
        drawn["sample_efficiency"] = sample_efficiency(ranking)
    if not _scored(ranking):
        return drawn
    drawn["aggregates"] = aggregates(ranking)
    drawn["performance_profile"] = profiles(ranking)
    parameters = varied_parameters(ranking)
    if parameters:
        drawn["parameters"] = parameter_effects(ranking, parameters)
    if len(parameters) > 1:
        drawn["parallel_coordinates"] = parallel_coordinates(ranking, parameters)
    return drawn


def save(drawn: dict[str, Figure], folder: Path) -> list[Path]:
    """Write each figure as PNG and SVG; returns the paths."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    paths = []
    for name, figure in drawn.items():
        FigureCanvasAgg(figure)
        for suffix in ("png", "svg"):
            paths.append(folder / f"{name}.{suffix}")
            paths[-1].parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(paths[-1], format=suffix, dpi=150, metadata=_no_date(suffix))
    return paths


def _no_date(suffix: str) -> dict[str, Any]:
    # Without a date the same runs give the same file.
    return {"Date": None} if suffix == "svg" else {}


def learning_curves(ranking: Ranking) -> Figure | None:
    """Evaluation return over env steps: mean over seeds, with its interval."""
    return _curves(ranking, np.mean, "mean evaluation return")


def sample_efficiency(ranking: Ranking) -> Figure | None:
    """Evaluation return over env steps: IQM over seeds, with its interval."""
    return _curves(ranking, iqm, "IQM of evaluation return")


def _curves(ranking: Ranking, statistic: Callable[..., Any], label: str) -> Figure | None:
    figure = _figure(6.4, 4.4)
    axes = figure.subplots()
    kinds = set()
    for i, group in enumerate(ranking.groups[:MOST_GROUPS]):
        curves = [points for points in group.curves if len(points.env_steps)]
        if not curves:
            continue
        steps = common_axis(curves)
        values = np.stack([points.at(steps) for points in curves])
        middle, low, high = band(values, statistic)
        kind = kind_of(len(curves))
        style = _style(i)
        axes.plot(steps, middle, label=_label(group, len(curves)), linewidth=1.8, **style)
        if kind == "min-max":
            axes.plot(steps, low, steps, high, color=style["color"], linewidth=0.7, alpha=0.6)
        else:
            axes.fill_between(steps, low, high, color=style["color"], **SHADE)
        kinds.add(kind)
    if not kinds:
        return None
    level = threshold_of(ranking.groups[0].group.runs[0], ranking.options)
    if np.isfinite(level):
        axes.axhline(level, color="0.5", linewidth=0.8, linestyle=(0, (2, 2)))
    axes.set(title=_title(ranking, kinds), xlabel="env steps", ylabel=label)
    axes.grid(alpha=0.3)
    _legend(figure, axes, ranking)
    return figure


def aggregates(ranking: Ranking) -> Figure:
    """IQM, mean and median of the first metric's scores, as points with intervals."""
    metric = ranking.options.metrics[0]
    shown = _scored(ranking)[:MOST_GROUPS][::-1]
    figure = _figure(10.0, 1.6 + 0.4 * len(shown))
    panels = figure.subplots(1, len(AGGREGATES), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, AGGREGATES, strict=True):
        for row, group in enumerate(shown):
            value, low, high = group.estimates[metric][name]
            color = _style(len(shown) - 1 - row)["color"]
            thin = group.interval_kind() == "min-max"
            line = {"linewidth": 1.0} if thin else {"linewidth": 5.0, "alpha": 0.35}
            axes.plot([low, high], [row, row], color=color, **line)
            axes.plot(value, row, marker="o", color=color)
        axes.set(title=name, xlabel=ranking.score_name(metric))
        axes.grid(alpha=0.3, axis="x")
    panels[0].set_yticks(range(len(shown)), [_label(group) for group in shown])
    panels[0].set_ylim(-0.6, len(shown) - 0.4)
    figure.suptitle(_title(ranking, {group.interval_kind() for group in shown}), fontsize=10)
    return figure


def profiles(ranking: Ranking) -> Figure:
    """The share of runs that score above each level, with its interval."""
    metric = ranking.options.metrics[0]
    shown = _scored(ranking)[:MOST_GROUPS]
    known = np.concatenate([task for g in shown for task in with_scores(g.scores[metric])])
    margin = 0.02 * (np.ptp(known) or 1.0)
    levels = np.linspace(known.min() - margin, known.max() + margin, 101)
    figure = _figure(6.4, 4.4)
    axes = figure.subplots()
    for i, group in enumerate(shown):
        share, low, high = performance_profile(group.scores[metric], levels)
        style = _style(i)
        axes.step(levels, share, where="post", label=_label(group), linewidth=1.8, **style)
        axes.fill_between(levels, low, high, step="post", color=style["color"], **SHADE)
    kinds: set[Kind] = {group.interval_kind() for group in shown} - {"min-max"}
    axes.set(title=_title(ranking, kinds), xlabel=ranking.score_name(metric))
    axes.set(ylabel="share of runs above", ylim=(-0.03, 1.03))
    axes.grid(alpha=0.3)
    _legend(figure, axes, ranking)
    return figure


def varied_parameters(ranking: Ranking | Comparison) -> list[str]:
    """The settings that differ between groups."""
    settings = [group.group.settings for group in ranking.groups]
    return list(settings[0]) if len(settings) > 1 else []


def parameter_effects(ranking: Ranking, parameters: Sequence[str]) -> Figure:
    """The score of every run over each parameter, with the mean at each value."""
    columns = min(3, len(parameters))
    rows = -(-len(parameters) // columns)
    figure = _figure(4.2 * columns, 3.6 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    metric, shown = ranking.options.metrics[0], _scored(ranking)
    for axes, parameter in zip(panels, parameters, strict=False):
        values = [group.group.settings[parameter] for group in shown]
        position, ticks = _axis(values)
        means: dict[float, list[float]] = {}
        for group, x in zip(shown, map(position, values), strict=True):
            scores = _scores(group, metric)
            axes.plot([x] * len(scores), scores, "o", color=COLORS[0], alpha=0.4, markersize=4)
            means.setdefault(x, []).extend(scores)
        xs = sorted(means)
        axes.plot(xs, [np.mean(means[x]) for x in xs], "_-", color=COLORS[1], markersize=14)
        axes.set(xlabel=parameter, ylabel=ranking.score_name(metric))
        _set_ticks(axes, ticks)
        axes.grid(alpha=0.3)
    for axes in list(panels):
        axes.set_axis_off()
    return figure


def parallel_coordinates(ranking: Ranking, parameters: Sequence[str]) -> Figure:
    """A line for each group, through its parameters to its IQM, and colored by its IQM."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    metric, shown = ranking.options.metrics[0], _scored(ranking)
    figure = _figure(2.2 * (len(parameters) + 1), 4.4)
    axes = figure.subplots()
    iqms = np.array([group.estimates[metric]["IQM"].value for group in shown])
    norm, colormap = Normalize(iqms.min(), iqms.max()), colormaps["cividis"]
    heights = []
    for x, parameter in enumerate(parameters):
        values = [group.group.settings[parameter] for group in shown]
        position, ticks = _axis(values)
        places = np.array([position(value) for value in values])
        span = (places.min(), np.ptp(places) or 1.0)
        heights.append((places - span[0]) / span[1])
        for place, text in ticks or [(p, f"{v:g}") for p, v in zip(places, values, strict=True)]:
            height = (place - span[0]) / span[1]
            axes.annotate(text, (x, height), xytext=(4, 0), textcoords="offset points", fontsize=8)
    heights.append(norm(iqms))
    for i in range(len(shown)):
        line = [height[i] for height in heights]
        axes.plot(range(len(line)), line, color=colormap(norm(iqms[i])), linewidth=1.8)
    axes.set_xticks(
        range(len(parameters) + 1), [*parameters, f"IQM of {ranking.score_name(metric)}"]
    )
    axes.set_yticks([])
    axes.grid(alpha=0.5, axis="x")
    figure.colorbar(
        ScalarMappable(norm, colormap), ax=axes, label=f"IQM of {ranking.score_name(metric)}"
    )
    return figure


def _scored(ranking: Ranking) -> list[GroupStatistics]:
    return [group for group in ranking.groups if group.num_scores()]


def _scores(group: GroupStatistics, metric: str) -> list[float]:
    return [float(x) for task in group.scores[metric] for x in task if np.isfinite(x)]


def _axis(values: Sequence[Any]) -> tuple[Callable[[Any], float], list[tuple[float, str]]]:
    """The position of each value on an axis, and the ticks to label.

    Numbers are placed by size, or by logarithm if they span a factor of 10; names are spaced
    evenly. Numbers placed by size need no ticks.
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


def _label(group: GroupStatistics, runs: int | None = None) -> str:
    name = textwrap.fill(group.group.name, LONGEST_LINE, break_on_hyphens=False)
    return f"{name} (n={group.num_scores() if runs is None else runs})"


def _title(ranking: Ranking, kinds: set[Kind]) -> str:
    """The environment, and what the shaded areas or thin lines are."""
    meanings = {"95 %": "shaded: 95 % interval", "min-max": "thin: lowest and highest seed"}
    legend = "; ".join(meaning for kind, meaning in meanings.items() if kind in kinds)
    return f"{ranking.name}\n{legend}" if legend else ranking.name


def _legend(figure: Figure, axes: Axes, ranking: Ranking) -> None:
    handles, labels = axes.get_legend_handles_labels()
    left_out = len(ranking.groups) - MOST_GROUPS
    title = f"the best {MOST_GROUPS} of {len(ranking.groups)} groups" if left_out > 0 else None
    if len(handles) > 1 or title:
        figure.legend(handles, labels, title=title, loc="outside lower center", frameon=False)
