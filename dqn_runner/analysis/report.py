"""A comparison as one HTML page, which needs no other file and no network."""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dqn_runner.analysis import origins
from dqn_runner.analysis.comparison import Comparison, threshold_of
from dqn_runner.analysis.figures import figures
from dqn_runner.analysis.statistics import ENOUGH_SEEDS
from dqn_runner.analysis.table import heading, legend, tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).parent
MOST_IN_TITLE = 3  # settings
PIXELS_PER_INCH = 96  # of CSS

# What the labels of a figure do not say. Other figures are described by their labels.
CAPTIONS = {
    "learning_curves": "Returns of the policy in evaluations during training, over the seeds of "
    "each group.",
    "aggregates": "The score of each group: IQM, mean and median over its seeds.",
    "performance_profile": "The share of the runs of each group that score above each level.",
    "sample_efficiency": "The share of the seeds of each group that have reached the threshold "
    "in an evaluation. A line ends at × where a seed stopped before it had reached it.",
    "environments": "The normalized score of each group in each environment.",
    "parameters": "The score of each run over each setting that differs, and the mean at each "
    "value.",
    "parallel_coordinates": "A line for each group, through its settings to the IQM of its score.",
}


class Embedded(NamedTuple):
    """A figure as the page shows it; `source` is an address that holds the whole picture."""

    title: str
    caption: str
    alt: str
    source: str
    width: int  # pixels
    height: int


def report(comparison: Comparison, drawn: Mapping[str, Figure] | None = None) -> str:
    """The HTML page of `comparison`; the same runs give the same text.

    It shows the figures `drawn`; if None, all that there are.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    page = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html.jinja")
    drawn = figures(comparison) if drawn is None else drawn
    folder = origins.common_folder(comparison)
    inlined = {
        name: (HERE / f"report.{name}").read_text(encoding="utf-8") for name in ("css", "js")
    }
    return page.render(
        inlined=inlined,
        hashes={name: sha256(text) for name, text in inlined.items()},
        title=title(comparison),
        facts=facts(comparison),
        rankings=[(heading(ranking), tables(ranking)) for ranking in comparison.rankings],
        remarks=[origins.within(folder, remark) for remark in comparison.remarks],
        legend=legend(comparison),
        enough_seeds=ENOUGH_SEEDS,
        pictures=[embedded(name, figure) for name, figure in drawn.items()],
        runs=[origins.seeds_table(comparison), origins.runs_table(comparison)],
        differing=origins.differing_settings(comparison),
        shared=origins.shared_settings(comparison),
        making=[origins.commands(comparison), origins.versions(comparison)],
    )


def sha256(text: str) -> str:
    """The hash by which a Content-Security-Policy allows a script or a style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def title(comparison: Comparison) -> str:
    """What is compared: environments, and the settings that make groups."""
    rankings = origins.by_environment(comparison)
    keys = dict.fromkeys(key for r in rankings for g in r.groups for key in g.group.settings)
    settings = ", ".join(keys) if len(keys) <= MOST_IN_TITLE else f"{len(keys)} settings"
    environments = ", ".join(ranking.name for ranking in rankings)
    return f"{environments}: {settings}" if settings else environments


def facts(comparison: Comparison) -> dict[str, str]:
    """Which runs were compared, and how."""
    rankings, options = origins.by_environment(comparison), comparison.options
    runs = origins.runs_of(comparison)
    states = Counter(run.status for run in runs).most_common()
    folder = origins.common_folder(comparison).resolve().name
    levels = {r.name: threshold_of(r.groups[0].group.runs[0], options) for r in rankings}
    scales = {r.name: options.bounds_of(r.name) for r in rankings}
    texts = {
        "folder": folder,
        "runs": f"{len(runs):,} ({', '.join(f'{number:,} {state}' for state, number in states)})",
        "groups": f"{len(comparison.groups):,}",
        "grouped by": ", ".join(options.group_by or ()),
        "baseline": options.baseline or "",
        "returns": ", ".join(options.metrics),
        "threshold": _by_name({r: f"{x:g}" for r, x in levels.items() if math.isfinite(x)}),
        "scaled to 0 to 1": _by_name({r: f"{s[0]:g} to {s[1]:g}" for r, s in scales.items() if s}),
    }
    return {term: text for term, text in texts.items() if text}


def _by_name(texts: Mapping[str, str]) -> str:
    return ", ".join(f"{text} ({name})" for name, text in texts.items())


def embedded(name: str, figure: Figure) -> Embedded:
    """A figure as an SVG image, with texts for those who cannot see it."""
    import matplotlib as mpl

    environment, _, kind = name.rpartition("/")
    title = kind.replace("_", " ").capitalize() + (f", {environment}" if environment else "")
    buffer = io.BytesIO()
    # With a fixed salt and without a date, the same figure gives the same bytes.
    with mpl.rc_context({"svg.hashsalt": "dqn_runner"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    said = labels(figure)
    groups = (text.get_text() for legend in figure.legends for text in legend.get_texts())
    return Embedded(
        title,
        caption=CAPTIONS.get(kind, f"{said}."),
        alt=". ".join(filter(None, [title, said, ", ".join(groups)])),
        source=f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}",
        width=round(PIXELS_PER_INCH * figure.get_figwidth()),
        height=round(PIXELS_PER_INCH * figure.get_figheight()),
    )


def labels(figure: Figure) -> str:
    """What the titles and axes of a figure say."""
    titles = [figure.get_suptitle(), *(axes.get_title() for axes in figure.axes)]
    names = [(axes.get_ylabel(), axes.get_xlabel()) for axes in figure.axes]
    over = (" over ".join(filter(None, pair)) for pair in names)
    texts = (text.replace("\n", "; ") for text in (*titles, *over) if text)
    return ". ".join(dict.fromkeys(texts))
