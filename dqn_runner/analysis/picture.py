"""A figure that notebooks show by themselves, and the layout that all figures share.

Sizes of fonts and the width of a column come from matplotlib's rcParams. The height follows from
what is drawn: panels have a fixed height, and the figure is as high as they and all texts need.
"""

from __future__ import annotations

import io
import re
from typing import Any

from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

# The rcParams that count when a figure is saved, not when it is made.
SAVING: tuple[Any, ...] = ("savefig.dpi", "pdf.fonttype", "ps.fonttype", "svg.hashsalt")
ROOMY = 60.0  # inches; while a figure is measured nothing in it is squeezed
HANDLE = 4.5  # font sizes; beside a text of a legend: its line and the gaps around both
LINE = 1.3  # font sizes from one line to the next
MOST_COLUMNS = 4  # of a legend
# A line ends between words; within a word behind a dot or comma, behind a _, or anywhere.
CUTS = (r"\S+\s*", r"[^.,:=]*[.,:=]?", r"[^_]*_?", r"(?s).")


class Picture(Figure):
    """A matplotlib figure that a notebook shows without `%matplotlib inline`.

    It is made without pyplot, so it needs no window system.
    """

    def __init__(self, width: float) -> None:
        super().__init__(figsize=(width, ROOMY))
        self.style = {key: rcParams[key] for key in SAVING}

    def savefig(self, fname: Any, **options: Any) -> None:
        """As `Figure.savefig`; without a date, so that the same runs give the same file."""
        suffix = options.get("format") or str(fname).rpartition(".")[2]
        date = {"svg": "Date", "pdf": "CreationDate"}.get(suffix)
        metadata = {date: None} if date else {}
        with rc_context(self.style):
            super().savefig(fname, **{"metadata": metadata, **options})

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()

    def fit(self, height: float) -> Picture:
        """Make the figure as high as panels of `height` inches and all texts need."""
        self.set_figheight(ROOMY)
        self.draw_without_rendering()
        panel = self.axes[0]
        place = panel.get_subplotspec()
        rows = place.get_gridspec().nrows if place else 1
        around = ROOMY - rows * panel.get_position().height * ROOMY
        self.set_figheight(around + rows * height)
        return self

    def entitle(self, *lines: str) -> None:
        """Write `lines` above all panels, wrapped to the width of the figure."""
        inside = self.get_figwidth() - 2 * em()
        self.suptitle("\n".join(wrapped(line, inside) for line in lines if line))

    def explain(self, axes: Axes, title: str | None = None) -> None:
        """Write the legend of `axes` below all panels; nothing for a single line without title."""
        handles, labels = axes.get_legend_handles_labels()
        if len(handles) < 2 and not title:
            return
        texts = [wrapped(label, self.get_figwidth() - HANDLE * em()) for label in labels]
        widest = max(map(text_width, texts)) + HANDLE * em()
        columns = min(max(int(self.get_figwidth() / widest), 1), MOST_COLUMNS)
        self.legend(handles, texts, title=title, loc="outside lower center", ncols=columns)


def em() -> float:
    """The size of the font, in inches."""
    return float(rcParams["font.size"]) / 72


def column() -> tuple[float, float]:
    """The width of a figure with one panel, and the height of such a panel, in inches."""
    width, height = rcParams["figure.figsize"]
    return float(width), float(height)


def text_width(text: str) -> float:
    """The width of `text`, which may have several lines, in inches."""
    font = FontProperties(size=rcParams["font.size"])
    sizes = (
        text_to_path.get_text_width_height_descent(line, font, ismath=False)
        for line in map(str.rstrip, text.splitlines())
    )
    return max((float(size[0]) for size in sizes), default=0.0) / 72


def wrapped(text: str, inches: float, cut: int = 0) -> str:
    """`text` in lines of at most `inches`; a word is broken only if it is longer than that."""
    lines = [""]
    for piece in re.findall(CUTS[cut], text):
        if text_width(lines[-1] + piece) <= inches:
            lines[-1] += piece
        elif text_width(piece) <= inches or cut == len(CUTS) - 1:
            lines.append(piece)
        else:
            lines += wrapped(piece, inches, cut + 1).split("\n")
    if cut:  # the next piece may follow a space
        return "\n".join(lines)
    return "\n".join(line.strip() for line in lines if line.strip())


def height_of(text: str) -> float:
    """The height of `text`, which may have several lines, in inches."""
    return (text.count("\n") + 1) * LINE * em()
