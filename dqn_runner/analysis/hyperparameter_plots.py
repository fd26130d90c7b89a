"""Scores over the settings in which the groups of one environment differ."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from dqn_runner.analysis.comparison import GroupStatistics, Ranking
from dqn_runner.analysis.groups import COLORS
from dqn_runner.analysis.picture import Picture, column, em, height_of, text_width, wrapped
from dqn_runner.analysis.plots import scored, title_of
from dqn_runner.runs.metrics_file import is_number

BEHIND_TEXT = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5}
PANELS = 3  # side by side
MOST_MEANS = 12  # with more values, most have one run, and a line through them says nothing
SHORTEST_UPRIGHT = 1.5  # inches; upright names are as long, or longer so that none covers another


class Axis(NamedTuple):
    """The places of some values, and the texts to write at the places."""

    places: list[float]  # one for each value
    ticks: dict[float, str]  # in the order of their places
    are_numbers: bool

    def spaced(self, share: float) -> dict[float, str]:
        """The ticks that are at least `share` of the axis apart, with both ends; all names."""
        if not self.are_numbers:
            return self.ticks
        first, *between = self.ticks
        last = between.pop() if between else first
        distance, kept = share * (last - first), [first]
        for place in between:
            if place - kept[-1] >= distance and last - place >= distance:
                kept.append(place)
        return {place: self.ticks[place] for place in dict.fromkeys([*kept, last])}


def effects(ranking: Ranking, parameters: Sequence[str]) -> Picture:
    """The score of every run over each parameter, with the mean at each value."""
    columns = min(PANELS, len(parameters))
    width, height = column()
    picture = Picture(width if columns == 1 else 2 * width)
    panels = picture.subplots(-(-len(parameters) // columns), columns, sharey=True, squeeze=False)
    metric, shown = ranking.options.metrics[0], scored(ranking)
    inside = picture.get_figwidth() / columns - 5 * em()
    for axes, parameter in zip(panels.flat, parameters, strict=False):
        axis = _axis([group.group.settings[parameter] for group in shown])
        _draw_scores(axes, axis, shown, metric)
        _label_ticks(axes, axis, inside)
        axes.set_xlabel(wrapped(parameter, inside))
    for axes in panels[:, 0]:
        axes.set_ylabel(wrapped(ranking.score_name(metric), height))
    for axes in panels.flat[len(parameters) :]:
        axes.set_axis_off()
    means = "dots: runs; lines: their mean at each value"
    picture.entitle(title_of(ranking, [group.num_scores() for group in shown]), means)
    return picture.fit(height)


def _draw_scores(axes: Axes, axis: Axis, shown: Sequence[GroupStatistics], metric: str) -> None:
    scores: dict[float, list[float]] = {}
    for group, x in zip(shown, axis.places, strict=True):
        own = [float(score) for task in group.scores[metric] for score in task]
        scores.setdefault(x, []).extend(score for score in own if np.isfinite(score))
    for x, own in scores.items():
        axes.plot([x] * len(own), own, "o", color=COLORS[0], alpha=0.4)
    xs = sorted(scores)
    if len(xs) <= MOST_MEANS:
        axes.plot(xs, [np.mean(scores[x]) for x in xs], "_-", color=COLORS[1], markersize=14)
    axes.margins(x=0.1)


def _label_ticks(axes: Axes, axis: Axis, inside: float) -> None:
    """Label numbers as far as there is room, and every name: upright if it must be."""
    room = 0.8 * inside  # beside margins
    widest = max(map(text_width, axis.ticks.values())) + em()
    ticks = axis.spaced(widest / room)
    texts, beside = list(ticks.values()), room / max(len(ticks) - 1, 1)
    upright = not axis.are_numbers and widest > beside
    if upright:
        length = SHORTEST_UPRIGHT
        texts = [wrapped(text, length) for text in ticks.values()]
        while max(map(height_of, texts)) > beside and length < widest:
            length *= 1.5
            texts = [wrapped(text, length) for text in ticks.values()]
    axes.set_xticks(list(ticks), texts, rotation=90 if upright else 0)


def parallel(ranking: Ranking, parameters: Sequence[str]) -> Picture:
    """A line for each group, through its parameters to its IQM, and colored by its IQM."""
    metric, shown = ranking.options.metrics[0], scored(ranking)
    picture = Picture(2 * column()[0])
    axes = picture.subplots()
    iqms = np.array([group.estimates[metric]["IQM"].value for group in shown])
    norm, colormap = Normalize(iqms.min(), iqms.max()), colormaps["cividis"]
    inside = 0.7 * picture.get_figwidth() / len(parameters) - 1.5 * em()  # between two axes
    name = f"IQM of {ranking.score_name(metric)}"
    every = [_axis([group.group.settings[key] for group in shown]) for key in parameters]
    height = max([1.2 * column()[1], *(_high(axis, inside) for axis in every)])
    for x, axis in enumerate(every):
        _write_values(axes, x, axis, inside, height)
    heights = [*map(_scaled, every), norm(iqms)]
    for i in range(len(shown)):
        axes.plot([own[i] for own in heights], color=colormap(norm(iqms[i])))
    names = [wrapped(text, inside) for text in (*parameters, name)]
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks([])
    axes.grid(alpha=0.8, axis="x")
    picture.colorbar(ScalarMappable(norm, colormap), ax=axes, label=wrapped(name, height))
    picture.entitle(title_of(ranking, [group.num_scores() for group in shown]))
    return picture.fit(height)


def _high(axis: Axis, inside: float) -> float:
    """The height that the names on `axis` need; numbers are left out where there is no room."""
    names = {} if axis.are_numbers else axis.ticks
    return 1.2 * sum(height_of(wrapped(name, inside)) for name in names.values())


def _write_values(axes: Axes, x: float, axis: Axis, inside: float, height: float) -> None:
    shown = axis.spaced(1.5 * em() / height)
    for y, text in zip(_scaled(axis, list(shown)), shown.values(), strict=True):
        axes.annotate(
            wrapped(text, inside), (x, y), xytext=(4, 0), textcoords="offset points",
            verticalalignment="center", bbox=BEHIND_TEXT,
        )  # fmt: skip


def _scaled(axis: Axis, places: Sequence[float] | None = None) -> list[float]:
    """`places` (default: those of the values) on an axis from 0 to 1."""
    lowest, highest = min(axis.places), max(axis.places)
    places = axis.places if places is None else places
    return [(place - lowest) / ((highest - lowest) or 1.0) for place in places]


def _axis(values: Sequence[Any]) -> Axis:
    """Numbers by size, or by logarithm if they span a factor of 10.

    Whatever else there is in equal distances, numbers first.
    """
    if all(map(_is_size, values)):
        is_wide = min(values) > 0 and max(values) / min(values) >= 10
        places = [float(np.log10(value) if is_wide else value) for value in values]
        texts = dict(zip(places, map(_number, values), strict=True))
        return Axis(places, dict(sorted(texts.items())), are_numbers=True)
    names = {_text(value): value for value in values}
    order = sorted(names, key=lambda name: (*_order(names[name]), name))
    places = [float(order.index(_text(value))) for value in values]
    return Axis(places, {float(i): name for i, name in enumerate(order)}, are_numbers=False)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _number(value: float) -> str:
    return f"{value:g}" if value == round(value) else f"{value:.3g}"


def _order(value: Any) -> tuple[bool, float]:
    return (False, float(value)) if _is_size(value) else (True, 0.0)


def _is_size(value: Any) -> bool:
    return is_number(value) and not isinstance(value, bool)
