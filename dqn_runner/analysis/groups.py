"""Groups runs by what differs between them, and reads what is compared from each run."""

from __future__ import annotations

import colorsys
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dqn_runner.analysis.runs import Floats, Integers, Run
from dqn_runner.runs.metrics_file import EVALUATION, is_number

# These say nothing about what a run computes.
_NAMES = ("experiment", "seed", "tracker")
# These say how and where a run computes, and how often it is evaluated and saved.
_ASIDE = (
    *("compile", "torch_threads", "device", "buffer.storage", "env.vectorization"),
    *("log", "checkpoint", "eval", "resume"),
)

# These say what is learned, and how long: they make groups, and are no hyperparameters.
_TASK = ("env", "total_timesteps", "total_episodes")
# These follow from the budget, unless they are given; each if there is what it is the end of.
_ENDS = {"agent.lr_decay_steps": "agent.lr_schedule", "buffer.beta_steps": "buffer.name"}
# These follow from the environment and from gamma, unless they are given.
_RANGE = ("env.return_range", "agent.v_min", "agent.v_max")

SUMMARY = "summary/episode_return"  # how the names of a group's statistics begin
RETURNS = ("final", "best")  # the scores in result.json
SCORES = (*RETURNS, "area")  # what a run gets from its evaluations

# Colors that color-blind people can tell apart (Okabe and Ito 2008).
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")

_SHADING = 0.45  # how far the darkest shade of a color goes to black, and the lightest to white
_LUMA = np.array([0.2126, 0.7152, 0.0722])  # how bright red, green and blue are (Rec. 709)
_LIGHTEST = 0.7


class Group(NamedTuple):
    """Runs that differ only in their seed; `settings` distinguish the group from the others."""

    name: str
    settings: dict[str, Any]
    runs: list[Run]

    def __repr__(self) -> str:
        return f"Group({self.name!r}, {len(self.runs)} run{'s' * (len(self.runs) != 1)})"


class Curve(NamedTuple):
    """A metric over env steps, as one run logged it."""

    env_steps: Integers  # [T]
    values: Floats  # [T]

    def __repr__(self) -> str:
        steps = [f"{at:,}" for at in self.env_steps[[0, -1]]] if len(self.env_steps) else []
        return f"Curve({len(self.values)} points{', env steps ' * bool(steps)}{' to '.join(steps)})"

    def at(self, env_steps: Integers) -> Floats:
        """The values at `env_steps`, by linear interpolation; NaN outside the logged range."""
        inside = (env_steps >= self.env_steps[0]) & (env_steps <= self.env_steps[-1])
        values: Floats = np.interp(env_steps, self.env_steps, self.values)
        return np.where(inside, values, np.nan)

    def area(self) -> float:
        """The area under the curve, divided by its length: the mean value over env steps.

        Of one point its value, and NaN of none.
        """
        if len(self.values) < 2:
            return float(self.values.sum()) if len(self.values) else float("nan")
        length = self.env_steps[-1] - self.env_steps[0]
        return float(np.trapezoid(self.values, self.env_steps) / length)


def group_runs(runs: Sequence[Run], keys: Sequence[str] | None = None) -> list[Group]:
    """Group `runs` by every setting in which they differ (`differing_keys`), or only by `keys`.

    Groups are sorted by their settings. Runs without a readable configuration are left out.
    Raises KeyError for a key that no run has.
    """
    runs = [run for run in runs if run.config]
    for key in keys or ():
        if not any(key in run.config for run in runs):
            raise KeyError(key)
    chosen = list(keys) if keys is not None else differing_keys(runs)
    environments = {run.config.get("env.id", "all runs") for run in runs}
    whole = str(environments.pop()) if len(environments) == 1 else "all runs"
    members: dict[str, list[Run]] = {}
    for run in runs:
        members.setdefault(_name(run, chosen), []).append(run)
    groups = [
        Group(name or whole, {key: group[0].config.get(key) for key in chosen}, group)
        for name, group in members.items()
    ]
    return sorted(groups, key=lambda group: [_order(value) for value in group.settings.values()])


def group_all(runs: Sequence[Run]) -> list[Group]:
    """The groups of each environment; their names have the environment if there are several."""
    names = sorted({environment(run) for run in runs})
    groups = [
        group
        for name in names
        for group in group_runs([run for run in runs if environment(run) == name])
    ]
    if len(names) == 1:
        return groups
    return [
        group._replace(name=" ".join(dict.fromkeys([environment(group.runs[0]), group.name])))
        for group in groups
    ]


def differing_keys(runs: Sequence[Run]) -> list[str]:
    """The dotted keys that make groups of `runs`: all that differ, except `differing_aside`.

    A key that only some runs have, such as `epsilon.tau` of one schedule, or one that may follow
    from others, is left out if the other keys make the same number of groups without it.
    """
    keys = [key for key in _differing(runs) if not _is_aside(key)]
    for key in [k for k in keys if k in _RANGE or any(k not in run.config for run in runs)]:
        fewer = [other for other in keys if other != key]
        if _num_groups(runs, fewer) == _num_groups(runs, keys):
            keys = fewer
    return keys


def hyperparameters(groups: Sequence[Group]) -> list[str]:
    """The settings of `groups`, all of one environment, in which their agents differ.

    Neither the environment nor the budget is one, nor what `differing_aside` lists, even if it
    makes groups; nor the end of a schedule where it differs only because the budget does.
    """
    keys = [key for key in (groups[0].settings if groups else ()) if _is_of_agent(key)]
    runs = [run for group in groups for run in group.runs]
    for end, schedule in _ENDS.items():
        budgets = ["total_timesteps", "total_episodes", schedule]
        if _num_groups(runs, budgets) == _num_groups(runs, [*budgets, end]):
            keys = [key for key in keys if key != end]
    return [key for key in keys if _differing_in(key, runs)]


def _is_aside(key: str) -> bool:
    return key in _ASIDE or _section(key) in _ASIDE


def _is_of_agent(key: str) -> bool:
    return not _is_aside(key) and _section(key) not in (*_NAMES, *_TASK)


def budget(run: Run) -> float:
    """How many env steps `run` may take; NaN if it has not ended and counts episodes alone."""
    steps = run.config.get("total_timesteps") or (run.result or {}).get("env_steps")
    return float(steps) if is_number(steps) else float("nan")


def differing_aside(runs: Sequence[Run]) -> list[str]:
    """The dotted keys in which `runs` differ but which make no groups unless they are chosen.

    Runs of an older version may lack a key; it differs only if it differs among the others.
    """
    keys = (key for key in _differing(runs) if _is_aside(key))
    return [key for key in keys if _differing_in(key, [run for run in runs if key in run.config])]


def same_work(run: Run) -> str:
    """What `run` computes, as text; equal for two runs that repeat the same work."""
    about = {k: v for k, v in run.config.items() if not (_is_aside(k) or _section(k) == "tracker")}
    return json.dumps(about, sort_keys=True, default=str)


def environment(run: Run) -> str:
    """The id of the environment of `run`."""
    return str(run.config.get("env.id"))


def settings_color(settings: Mapping[str, Any]) -> str:
    """The color of all runs with these settings (dotted keys), whatever their seed.

    It is always the same, so that runs need not know each other; two groups can have the same.
    """
    about = {k: v for k, v in settings.items() if not (_is_aside(k) or _section(k) in _NAMES)}
    text = json.dumps(about, sort_keys=True, default=str)
    return COLORS[zlib.crc32(text.encode()) % len(COLORS)]


def run_color(settings: Mapping[str, Any]) -> str:
    """The color of the run with these settings: a shade of `settings_color`, by its seed."""
    seed = settings.get("seed", 0)
    if not is_number(seed):  # a config.yaml can be anything
        return settings_color(settings)
    # 0, 7, 4, 1, ...: seeds that follow each other have shades far apart.
    return shade(settings_color(settings), int(7 * seed % 10), 10)


def run_colors(runs: Sequence[Run]) -> dict[Path, tuple[str, str]]:
    """For each of `runs` the color of its group, and its own shade of it."""
    groups = group_all([run for run in runs if run.config])
    return {
        run.path: (color, shade(color, i, len(group.runs)))
        for group, color in zip(groups, group_colors(len(groups)), strict=True)
        for i, run in enumerate(group.runs)
    }


def summary_name(name: str, seeds: int) -> str:
    """The name of a group's statistics beside the names of runs."""
    return f"{name}, 1 seed" if seeds == 1 else f"{name}, IQM of {seeds} seeds"


def group_colors(number: int) -> list[str]:
    """A color for each of `number` groups: `COLORS` first, then hues as far apart as possible."""
    golden = 0.618034  # of a turn: no later hue comes close to an earlier one
    further = (
        colorsys.hls_to_rgb((0.75 + i * golden) % 1, 0.42, 0.65)
        for i in range(number - len(COLORS))
    )
    return [*COLORS, *(_hex(rgb) for rgb in further)][:number]


def shade(color: str, i: int, of: int) -> str:
    """The `i`-th of `of` variants of `color` (#rrggbb), from dark to light; the only one is itself.

    The lightest can still be seen as a line on white.
    """
    if of < 2:
        return color
    base = np.array([int(color[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    luma = base @ _LUMA
    dark = base * (1 - _SHADING)
    light = base + (1 - base) * np.clip((_LIGHTEST - luma) / (1 - luma), 0, _SHADING)
    return _hex(dark + (light - dark) * i / (of - 1))


def _hex(rgb: Iterable[float]) -> str:
    return "#" + "".join(f"{round(255 * x):02x}" for x in rgb)


def _differing(runs: Sequence[Run]) -> list[str]:
    known = dict.fromkeys(key for run in runs for key in run.config)
    return [key for key in known if _section(key) not in _NAMES and _differing_in(key, runs)]


def _differing_in(key: str, runs: Sequence[Run]) -> bool:
    return len({value_text(run, key) for run in runs}) > 1


def _section(key: str) -> str:
    return key.partition(".")[0]


def _num_groups(runs: Sequence[Run], keys: Sequence[str]) -> int:
    return len({_name(run, keys) for run in runs})


def _name(run: Run, keys: Sequence[str]) -> str:
    has = [f"{key}={value_text(run, key)}" for key in keys if key in run.config]
    return " ".join(has or [f"{key}=–" for key in keys])  # empty without keys


def value_text(run: Run, key: str) -> str:
    """The value of a setting as a group's name shows it; empty if `run` has none."""
    value = run.config.get(key, "")
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _order(value: Any) -> tuple[int, float, str]:
    return (0, float(value), "") if is_number(value) else (1, 0.0, str(value))


def curve(run: Run, metric: str = EVALUATION) -> Curve:
    """The logged points of `metric`, without repeated env steps."""
    env_steps, values = run.series(metric)
    env_steps, first = np.unique(env_steps, return_index=True)
    return Curve(env_steps, values[first])


def score(run: Run, metric: str, points: Curve) -> float:
    """One number for `run`: `final`, `best` or `area`, or the last value of another metric.

    `area` is that of `points`, the run's evaluations, as `Curve.area` has it. The other returns are
    those of result.json, over fresh episodes. Without a result.json, `final` is the last of these
    evaluations, and `best` is missing: the best of many evaluations is too high until it is scored
    again. NaN if there is no number.
    """
    if metric in RETURNS:
        if run.result is not None:
            return float(run.result[metric]["mean"])
        if metric == "final" and len(points.values):
            return float(points.values[-1])
        return float("nan")
    if metric == "area":
        return points.area()
    _, values = run.series(metric)
    return float(values[-1]) if len(values) else float("nan")


def common_axis(curves: Sequence[Curve], most: int = 200) -> Integers:
    """Env steps at which to compare `curves`: all of theirs, or `most` in equal distances."""
    curves = [points for points in curves if len(points.env_steps)]
    if not curves:
        return np.array([], np.int64)
    own = np.unique(np.concatenate([points.env_steps for points in curves]))
    if len(own) > most:
        own = np.unique(np.linspace(own[0], own[-1], most).astype(np.int64))
    return own
