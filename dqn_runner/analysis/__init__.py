"""Statistics and figures made from run directories alone; for notebooks too.

from dqn_runner.analysis import compare, figures, load_runs, report

comparison = compare(load_runs(["outputs/sweeps/2026-01-31_12-00-00"]))
figures(comparison)["learning_curves"]
pathlib.Path("report.html").write_text(report(comparison))
"""

from dqn_runner.analysis.comparison import Comparison, Options, compare
from dqn_runner.analysis.curve import draw_curve, show_live
from dqn_runner.analysis.figures import figures
from dqn_runner.analysis.groups import Curve, Group, curve, group_runs
from dqn_runner.analysis.report import report
from dqn_runner.analysis.runs import Run, load_runs
from dqn_runner.analysis.statistics import (
    Estimate,
    aggregate,
    iqm,
    performance_profile,
    probability_of_improvement,
)
from dqn_runner.analysis.table import as_records

__all__ = [
    "Comparison",
    "Curve",
    "Estimate",
    "Group",
    "Options",
    "Run",
    "aggregate",
    "as_records",
    "compare",
    "curve",
    "draw_curve",
    "figures",
    "group_runs",
    "iqm",
    "load_runs",
    "performance_profile",
    "probability_of_improvement",
    "report",
    "show_live",
]
