"""Statistics and figures, made from run directories alone."""

from dqn_runner.analysis.runs import Run, load_runs

__all__ = ["Run", "load_runs"]
