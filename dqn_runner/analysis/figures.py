"""The figures of a comparison, in colors that color-blind readers can tell apart."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dqn_runner.analysis.comparison import Comparison, Ranking
from dqn_runner.analysis.groups import hyperparameters

if TYPE_CHECKING:
    from dqn_runner.analysis.picture import Picture

Style = Literal["screen", "paper"]

_SHARED: dict[Any, Any] = {
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.hspace": 0.0,
    "figure.constrained_layout.wspace": 0.0,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "text.parse_math": False,  # a setting may contain a $
    "svg.hashsalt": "dqn-compare",  # the same runs give the same file
    "pdf.fonttype": 42,  # journals refuse matplotlib's default, Type 3
    "ps.fonttype": 42,
}


def _style(font: float, column: tuple[float, float], line: float, dpi: int) -> dict[Any, Any]:
    texts = ("figure.titlesize", "axes.titlesize", "axes.labelsize", "legend.fontsize",
             "legend.title_fontsize", "xtick.labelsize", "ytick.labelsize")  # fmt: skip
    return {
        **_SHARED,
        **dict.fromkeys(texts, font),
        "font.size": font,
        "figure.figsize": column,
        "lines.linewidth": line,
        "lines.markersize": font / 2,
        "savefig.dpi": dpi,
    }


# rcParams; figure.figsize is one panel as wide as a column, and figures of several are twice that.
STYLES: dict[Style, dict[Any, Any]] = {
    "screen": _style(10.0, (7.0, 3.8), 1.8, 150),
    "paper": _style(8.0, (3.4, 2.1), 1.2, 300),
}
FORMATS: dict[Style, tuple[str, ...]] = {"screen": ("png", "svg"), "paper": ("png", "svg", "pdf")}


class Figures(dict[str, "Picture"]):
    """Figures by name; a notebook shows all of them."""

    def _repr_html_(self) -> str:
        return "".join(
            f"<h4>{escape(name)}</h4>"
            f'<img style="max-width: 100%" alt="{escape(name)}" src="data:image/png;base64,'
            f'{base64.b64encode(picture._repr_png_()).decode()}">'
            for name, picture in self.items()
        )


def figures(comparison: Comparison, style: Style = "screen") -> Figures:
    """Every figure for which the runs have data, by name.

    With several environments each has its own figures: `CartPole-v1/learning_curves`. `style` is
    `screen`, or `paper`: as wide as a column or two, with text of 8 pt.
    """
    from matplotlib import rc_context

    drawn = Figures()
    with rc_context(STYLES[style]):
        for ranking in comparison.rankings:
            folder = f"{folder_of(ranking)}/" if len(comparison.rankings) > 1 else ""
            of_ranking = _figures(ranking)
            drawn.update({folder + name: picture for name, picture in of_ranking.items()})
    return drawn


def folder_of(ranking: Ranking) -> str:
    """The first part of the names of a ranking's figures, if there are several rankings."""
    return re.sub(r"[^\w.\-]", "_", ranking.name)


def _figures(ranking: Ranking) -> dict[str, Picture]:
    from dqn_runner.analysis import hyperparameter_plots, plots

    drawn = {
        "learning_curves": plots.learning_curves(ranking),
        "sample_efficiency": plots.sample_efficiency(ranking),
    }
    scored = plots.scored(ranking)
    if scored:
        drawn["aggregates"] = plots.aggregates(ranking)
        drawn["performance_profile"] = plots.performance_profiles(ranking)
    if scored and ranking.is_across:
        drawn["environments"] = plots.environments(ranking)
    keys = [] if ranking.is_across else hyperparameters([group.group for group in scored])
    if keys:
        drawn["parameters"] = hyperparameter_plots.effects(ranking, keys)
    if len(keys) > 1:
        drawn["parallel_coordinates"] = hyperparameter_plots.parallel(ranking, keys)
    return {name: picture for name, picture in drawn.items() if picture is not None}


def save(
    drawn: Mapping[str, Picture], folder: Path, formats: tuple[str, ...] = FORMATS["screen"]
) -> list[Path]:
    """Write each figure in each of `formats`; returns the paths."""
    paths = []
    for name, picture in drawn.items():
        for suffix in formats:
            paths.append(folder / f"{name}.{suffix}")
            paths[-1].parent.mkdir(parents=True, exist_ok=True)
            picture.savefig(paths[-1], format=suffix)
    return paths
