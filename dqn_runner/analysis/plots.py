"""Curves, scores and profiles of the groups of a ranking, each as a figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from dqn_runner.analysis.comparison import GroupStatistics, Ranking, threshold_of
from dqn_runner.analysis.groups import COLORS, Curve, budget, common_axis, environment
from dqn_runner.analysis.picture import Picture, column, em, height_of, wrapped
from dqn_runner.analysis.runs import Floats
from dqn_runner.analysis.statistics import (
    AGGREGATES,
    Estimate,
    Kind,
    aggregate,
    band_over_tasks,
    interval_kind,
    iqm,
    kind_of,
    performance_profile,
    share_reached,
    with_scores,
)

# So that many groups can be told apart without their colors.
LINES = ("-", "--", ":", "-.")
SHADE: dict[str, Any] = {"alpha": 0.18, "linewidth": 0}

# More curves cannot be told apart, so only the best groups are drawn; rows have room for more.
MOST_LINES = 12
MOST_ROWS = 30
NAMES = 0.3  # of a figure's width is for the names of groups
PANELS = 3  # side by side
SHARES = np.linspace(0.0, 1.0, 101)  # of the budget


def learning_curves(ranking: Ranking) -> Picture | None:
    """Evaluation return over env steps: mean over seeds, with its interval.

    For several environments the IQM of their normalized returns, over the share of the budget.
    """
    picture, axes = _one_panel()
    counts, kinds = [], set()
    for i, group in enumerate(ranking.groups[:MOST_LINES]):
        steps, tasks = _shares(group, ranking) if ranking.is_across else _steps(group)
        if not tasks or (ranking.is_across and len(tasks) < len(ranking.environments)):
            continue
        middle, low, high = band_over_tasks(tasks, iqm if ranking.is_across else np.mean)
        counts += [len(task) for task in tasks]
        kind = kind_of(min(map(len, tasks)))
        style = _style(group, i)
        label = _label(group, sum(len(task) for task in tasks))
        axes.plot(steps, middle, label=label, **style)
        if kind == "min-max":
            axes.plot(steps, low, steps, high, color=style["color"], linewidth=0.7, alpha=0.6)
        else:
            axes.fill_between(steps, low, high, color=style["color"], **SHADE)
        kinds.add(kind)
    if not kinds:
        return None
    if ranking.is_across:
        axes.set(xlabel="share of the budget", ylabel="IQM of normalized\nevaluation return")
    else:
        _over_env_steps(axes, "mean evaluation return")
        _draw_threshold(axes, _threshold(ranking))
    return _finished(picture, axes, ranking, counts, _meaning(kinds))


def _steps(group: GroupStatistics) -> tuple[Floats, list[Floats]]:
    """Env steps [T] and evaluations [seeds, T] of a group in one environment."""
    curves = [points for points in group.curves if len(points.env_steps)]
    steps = common_axis(curves)
    values = [np.stack([points.at(steps) for points in curves])] if curves else []
    return steps.astype(np.float64), values


def _shares(group: GroupStatistics, ranking: Ranking) -> tuple[Floats, list[Floats]]:
    """Shares of the budget [T], and for each environment normalized evaluations [seeds, T]."""
    tasks: dict[str, list[Floats]] = {}
    for run, points in zip(group.group.runs, group.curves, strict=True):
        bounds = ranking.options.bounds_of(environment(run))
        if bounds and len(points.env_steps) and np.isfinite(budget(run)):
            values = points.at((SHARES * budget(run)).astype(np.int64))
            scaled = (values - bounds[0]) / (bounds[1] - bounds[0])
            tasks.setdefault(environment(run), []).append(scaled)
    return SHARES, [np.stack(values) for _, values in sorted(tasks.items())]


def sample_efficiency(ranking: Ranking) -> Picture | None:
    """The share of seeds whose evaluations have reached the threshold, over env steps.

    A seed counts from its first evaluation at or above the threshold. The line of a group ends, at
    a cross, where the first seed stopped that had not reached it: from there on the share is not
    known. None without a threshold, and for several environments.
    """
    level = _threshold(ranking)
    if ranking.is_across or not np.isfinite(level):
        return None
    picture, axes = _one_panel()
    counts, kinds, stopped = [], set(), False
    for i, group in enumerate(ranking.groups[:MOST_LINES]):
        steps, lasts = _crossings(group.steps_to_threshold, group.curves)
        if not len(steps):
            continue
        at, share, low, high = share_reached(steps, lasts)
        style = _style(group, i)
        axes.step(at, share, where="post", label=_label(group, len(steps)), **style)
        axes.fill_between(at, low, high, step="post", color=style["color"], **SHADE)
        if at[-1] < lasts.max():
            axes.plot(at[-1], share[-1], "x", color=style["color"])
            stopped = True
        counts.append(len(steps))
        kinds.add(kind_of(len(steps)))
    if not counts:
        return None
    _over_env_steps(axes, "share of seeds")
    axes.set_ylim(-0.03, 1.03)
    reached = f"share of seeds that have reached threshold {level:g}"
    cross = "×: a seed stopped here and had not reached it" if stopped else ""
    meanings = [reached, _meaning(kinds - {"min-max"}), cross]
    return _finished(picture, axes, ranking, counts, *meanings)


def _crossings(steps: Floats, curves: Sequence[Curve]) -> tuple[Floats, Floats]:
    """When each run with evaluations reached the threshold [runs], and its last one [runs]."""
    known = [i for i, points in enumerate(curves) if len(points.env_steps)]
    return steps[known], np.array([float(curves[i].env_steps[-1]) for i in known])


def aggregates(ranking: Ranking) -> Picture:
    """IQM, mean and median of the first metric's scores, as points with intervals."""
    metric, shown = ranking.options.metrics[0], scored(ranking)[:MOST_ROWS]
    estimates = {name: [group.estimates[metric][name] for group in shown] for name in AGGREGATES}
    return _points(ranking, estimates, [[group.interval_kind() for group in shown]] * PANELS)


def environments(ranking: Ranking) -> Picture:
    """IQM of the normalized scores in each of several environments, as points with intervals."""
    metric, shown = ranking.options.metrics[0], scored(ranking)[:MOST_ROWS]
    tasks = [with_scores(group.scores[metric]) for group in shown]
    estimates = {
        f"IQM in {name}": [aggregate([of_group[i]])["IQM"] for of_group in tasks]
        for i, name in enumerate(ranking.environments)
    }
    kinds = [
        [interval_kind([of_group[i]]) for of_group in tasks]
        for i in range(len(ranking.environments))
    ]
    return _points(ranking, estimates, kinds)


def _points(
    ranking: Ranking, panels: Mapping[str, Sequence[Estimate]], kinds: Sequence[Sequence[Kind]]
) -> Picture:
    """A panel for each title of `panels`, with a row for each group."""
    shown = scored(ranking)[:MOST_ROWS]
    columns = min(PANELS, len(panels))
    picture = Picture(2 * column()[0])
    every = picture.subplots(-(-len(panels) // columns), columns, sharey=True, squeeze=False)
    names = [wrapped(_label(group), NAMES * picture.get_figwidth()) for group in shown]
    inside = (1 - NAMES) * picture.get_figwidth() / columns - 2 * em()
    for axes in every.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, (title, estimates), own in zip(every.flat, panels.items(), kinds, strict=False):
        rows = zip(shown, estimates, own, strict=True)
        for row, (group, (value, low, high), kind) in enumerate(rows):
            thin = kind == "min-max"
            line = {"linewidth": 1.0} if thin else {"linewidth": 5.0, "alpha": 0.35}
            axes.plot([low, high], [row, row], color=group.color, **line)
            axes.plot(value, row, marker="o", color=group.color)
        axes.set_title(wrapped(title, inside))
        axes.set_xlabel(wrapped(ranking.score_name(ranking.options.metrics[0]), inside))
        axes.grid(visible=False, axis="y")
        axes.tick_params(labelbottom=True)
    every[0, 0].set_yticks(range(len(shown)), names)
    every[0, 0].set_ylim(len(shown) - 0.4, -0.6)  # the best group is at the top
    meaning = _meaning({kind for own in kinds for kind in own})
    _entitle(picture, ranking, MOST_ROWS, _seeds(shown), meaning)
    return picture.fit(max(0.5 * column()[1], len(shown) * (max(map(height_of, names)) + em())))


def performance_profiles(ranking: Ranking) -> Picture:
    """The share of runs that score above each level, with its interval."""
    metric, shown = ranking.options.metrics[0], scored(ranking)[:MOST_LINES]
    known = np.concatenate([task for g in shown for task in with_scores(g.scores[metric])])
    margin = 0.02 * (np.ptp(known) or 1.0)
    levels = np.linspace(known.min() - margin, known.max() + margin, 101)
    picture, axes = _one_panel()
    for i, group in enumerate(shown):
        share, low, high = performance_profile(group.scores[metric], levels)
        style = _style(group, i)
        axes.step(levels, share, where="post", label=_label(group), **style)
        axes.fill_between(levels, low, high, step="post", color=style["color"], **SHADE)
    axes.set(xlabel=ranking.score_name(metric), ylabel="share of runs above", ylim=(-0.03, 1.03))
    meaning = _meaning({group.interval_kind() for group in shown} - {"min-max"})
    return _finished(picture, axes, ranking, _seeds(shown), meaning)


def scored(ranking: Ranking) -> list[GroupStatistics]:
    """The groups that have scores, the best first."""
    return [group for group in ranking.groups if group.num_scores()]


def title_of(ranking: Ranking, counts: Iterable[int]) -> str:
    """The environment, and how many seeds each group has there."""
    fewest, most = min(counts := [*counts]), max(counts)
    amount = f"{fewest}" if fewest == most else f"{fewest}–{most}"
    seeds = f"n = {amount} seed{'s' * (most != 1)}"
    if ranking.is_across:
        return f"{', '.join(ranking.environments)}, {seeds} each"
    return f"{ranking.name}, {seeds}"


def _seeds(groups: Sequence[GroupStatistics]) -> list[int]:
    """How many seeds with scores `groups` have, in each environment."""
    return [
        len(task)
        for group in groups
        for task in with_scores(group.scores[next(iter(group.scores))])
    ]


def _threshold(ranking: Ranking) -> float:
    return threshold_of(ranking.groups[0].group.runs[0], ranking.options)


def _draw_threshold(axes: Axes, level: float) -> None:
    if not np.isfinite(level):
        return
    axes.axhline(level, color="0.4", linewidth=0.8, linestyle=(0, (2, 2)))
    axes.margins(y=0.12)  # room for the text if nothing is above the line
    # At the left, where curves are seldom at the threshold yet.
    axes.annotate(
        f"threshold {level:g}",
        (0.0, level),
        xycoords=("axes fraction", "data"),
        xytext=(3, 1),
        textcoords="offset points",
        verticalalignment="bottom",
        color="0.3",
    )


def _over_env_steps(axes: Axes, label: str) -> None:
    axes.set(xlabel="env steps", ylabel=label)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 50k


def _one_panel() -> tuple[Picture, Axes]:
    picture = Picture(column()[0])
    return picture, picture.subplots()


def _finished(
    picture: Picture, axes: Axes, ranking: Ranking, counts: Iterable[int], *lines: str
) -> Picture:
    """The figure with its title and legend, as high as it needs to be."""
    _entitle(picture, ranking, MOST_LINES, counts, *lines)
    picture.explain(axes)
    return picture.fit(column()[1])


def _entitle(
    picture: Picture, ranking: Ranking, most: int, counts: Iterable[int], *lines: str
) -> None:
    """The figure's title: `most` groups are drawn, if there are so many."""
    number = len(ranking.groups)
    best = f"the best {most} of {number} groups" if number > most else ""
    picture.entitle(title_of(ranking, counts), *lines, best)


def _meaning(kinds: set[Kind]) -> str:
    """What the shaded areas or thin lines are."""
    meanings = {"95 %": "shaded: 95 % interval", "min-max": "thin: lowest and highest seed"}
    return "; ".join(meaning for kind, meaning in meanings.items() if kind in kinds)


def _style(group: GroupStatistics, i: int) -> dict[str, Any]:
    return {"color": group.color, "linestyle": LINES[i // len(COLORS) % len(LINES)]}


def _label(group: GroupStatistics, runs: int | None = None) -> str:
    return f"{group.group.name} (n={group.num_scores() if runs is None else runs})"
