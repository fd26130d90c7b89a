"""dqn-compare: groups runs by what differs, and compares the groups with honest statistics."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dqn_runner.errors import ConfigError, RunError, in_a_line
from dqn_runner.program import Parser, guarded, path

if TYPE_CHECKING:
    from rich.console import Console

    from dqn_runner.analysis import Run
    from dqn_runner.analysis.comparison import Comparison, Options
    from dqn_runner.analysis.figures import Style

T = TypeVar("T")
SECONDS_BETWEEN_LOOKS = 5.0
LOOKS_WITHOUT_A_RUN = 3  # after so many looks without a running run, --follow ends

EPILOG = """examples:
  dqn-compare outputs/sweeps/2026-01-31_12-00-00
  dqn-compare outputs --group-by agent.lr --threshold 475
  dqn-compare outputs --metric best --format markdown --output results.md
  dqn-compare outputs --group-by network.dueling --baseline network.dueling=false
  dqn-compare outputs/sweeps/2026-01-31_12-00-00 --follow
  dqn-compare outputs/sweeps/2026-01-31_12-00-00 --report

A group holds the runs of one environment that differ only in their seed, or that have equal
--group-by settings. compile, torch_threads, device, buffer.storage, env.vectorization, log,
checkpoint, eval and tracker make no groups unless --group-by names them. Each environment is
compared separately; --normalize puts the returns of several on one scale and also compares them
together.

Numbers in brackets are 95 % intervals over seeds. With fewer than 5 seeds the lowest and the
highest seed are shown in parentheses instead. IQM is the mean of the middle half. The final return
is that of the final policy over fresh episodes; for an unfinished run, its last evaluation.
"""


def main() -> None:
    """The console script; its exit codes are 0, 2, 130 and 143."""
    sys.exit(guarded("dqn-compare", command_line, sys.argv[1:]))


def parser() -> argparse.ArgumentParser:
    """The arguments of dqn-compare."""
    from dqn_runner import __version__

    parser = Parser(
        prog="dqn-compare",
        description="Compare runs: statistics over seeds, and figures into DIR/compare/.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    directories = "folder with runs, at any depth"
    parser.add_argument("directories", metavar="DIR", type=path, nargs="+", help=directories)
    parser.add_argument("--version", action="version", version=f"dqn-compare {__version__}")
    add_questions(parser.add_argument_group("what is compared"))
    add_places(parser.add_argument_group("where the answer goes"))
    return parser


def add_questions(group: argparse._ArgumentGroup) -> None:
    """The options that say what is compared, and how."""
    add = group.add_argument
    add(
        "--metric",
        action="append",
        help="final, best, area (under the curve of evaluations: their mean return over env steps)"
        ", or a metric of metrics.jsonl (its last value); may be repeated; default: final and best",
    )
    add(
        "--threshold",
        metavar="[ENV=]RETURN",
        action="append",
        help="return that counts as solved, for one environment or all; may be repeated; default: "
        "the environment's own; without one, sample efficiency is not drawn",
    )
    add(
        "--group-by",
        metavar="KEY,...",
        help="settings that make groups; default: all that differ, except those named below",
    )
    add(
        "--baseline",
        metavar="GROUP",
        help="compare each other group with this one, named as in the table; default: with the "
        "best, and all pairs where there are few",
    )
    add(
        "--normalize",
        metavar="[ENV=]LOW:HIGH",
        action="append",
        help="scale returns from LOW:HIGH to 0:1, for one environment or all; may be repeated; "
        "normalized environments are also compared together",
    )


def add_places(group: argparse._ArgumentGroup) -> None:
    """The options that say where tables, figures, report and copies go."""
    add = group.add_argument
    add("--format", choices=["table", "markdown", "csv", "json"], default="table")
    add("--output", type=path, metavar="FILE", help="write to FILE instead of printing")
    add("--figures", type=path, metavar="FOLDER", help="default: compare/ in the first DIR")
    add(
        "--style",
        choices=["screen", "paper"],
        default="screen",
        help="of the figures; paper: as wide as a column or two, 8 pt text, PDF too",
    )
    add("--no-figures", action="store_true", help="draw nothing")
    add(
        "--report",
        metavar="FILE",
        type=page_path,
        nargs="?",
        const=True,
        help="also write one HTML page with tables, figures, settings and commands, to read, send "
        "or print without a network; default: compare/report.html in the first DIR",
    )
    add(
        "--archive",
        metavar="FOLDER",
        type=path,
        help="also copy config.yaml, result.json and the evaluations of each run into FOLDER, some "
        "kilobytes a run; dqn-compare FOLDER then shows the same returns",
    )
    add(
        "--follow",
        action="store_true",
        help="update the table, figures and report until no run is running",
    )
    add(
        "--swanlab",
        action="store_true",
        help="log mean and IQM of each group as SwanLab runs of job type `summary`",
    )


def page_path(text: str) -> Path:
    """The file that `--report` names; refuses a folder, which is one to compare."""
    file = path(text)
    if file.is_dir():
        raise argparse.ArgumentTypeError(f"{file} is a folder; write it before --report")
    return file


def command_line(arguments: list[str]) -> int:
    """Compare runs as `arguments` say."""
    options = parser().parse_args(arguments)

    from rich.console import Console

    from dqn_runner.analysis.comparison import Options

    wanted = Options(
        metrics=tuple(options.metric or Options.metrics),
        thresholds=by_environment("--threshold", "RETURN", options.threshold, parse_return),
        group_by=tuple(options.group_by.split(",")) if options.group_by else None,
        bounds=by_environment("--normalize", "LOW:HIGH", options.normalize, parse_bounds),
        baseline=options.baseline,
    )
    beside = options.directories[0] / "compare"
    folder = None if options.no_figures else options.figures or beside
    page = beside / "report.html" if options.report is True else options.report
    if options.follow:
        if options.swanlab or options.archive or (options.format != "table" and not options.output):
            raise ConfigError(
                "--follow: --format needs --output, and --swanlab and --archive cannot be used"
            )
        follow(
            options.directories,
            wanted,
            folder=folder,
            page=page,
            output=options.output,
            text_format=options.format,
            style=options.style,
        )
        return 0
    console = Console(stderr=True, soft_wrap=True)  # only results go to stdout
    with console.status("reading runs") as status:
        comparison = look(read(options.directories), wanted)
        check_baseline(comparison)
        publish(comparison, options.format, options.output)
        status.update("drawing")
        pictures = draw(comparison, folder, page, options.style)
        keep(comparison, options.archive, options.directories)
    for name, place in (("figures", folder), ("report", page), ("archive", options.archive)):
        if place:
            console.print(f"{name:7} {place}", highlight=False, markup=False)
    if options.swanlab:
        log_to_swanlab(comparison, beside, pictures, console)
    return 0


def by_environment(
    option: str, form: str, texts: list[str] | None, parse: Callable[[str], T]
) -> dict[str, T]:
    """What `option` gives as VALUE or ENV=VALUE, by environment; "*" for all others.

    Raises ConfigError where `parse` raises ValueError.
    """
    values = {}
    for text in texts or ():
        environment, _, value = text.rpartition("=")
        try:
            values[environment or "*"] = parse(value)
        except ValueError as error:
            raise ConfigError(f"{option}={text}: must be {form} or ENV={form}") from error
    return values


def parse_return(text: str) -> float:
    """A finite number; raises ValueError for anything else."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def parse_bounds(text: str) -> tuple[float, float]:
    """The numbers of LOW:HIGH; raises ValueError unless the first is the lower one."""
    low, high = map(parse_return, text.split(":"))
    if not 0 < high - low < math.inf:
        raise ValueError(text)
    return low, high


def read(directories: list[Path]) -> list[Run]:
    """The runs below `directories`; raises RunError if one does not exist."""
    from dqn_runner.analysis import load_runs
    from dqn_runner.analysis.groups import differing_keys

    try:
        runs = load_runs(directories)
    except OSError as error:
        raise RunError(f"{error.filename}: {error.strerror}") from error
    readable = [run for run in runs if run.config]
    if all(key in run.config for key in differing_keys(readable) for run in readable):
        return runs
    return [with_defaults(run) for run in runs]


def with_defaults(run: Run) -> Run:
    """`run` with the settings that did not exist when it was made, at their default values.

    Without them, old and new runs would never be in the same group.
    """
    from dqn_runner.composing.hydra_internals import default_settings
    from dqn_runner.config.root import parse
    from dqn_runner.runs.directory import RunDirectory, read_yaml
    from dqn_runner.types import flatten

    archived = {"tracker": default_settings()["tracker"]}  # which an archive lacks
    try:
        known = flatten(parse(archived | read_yaml(RunDirectory(run.path).config)).plain())
    except ConfigError:  # unreadable, or of a newer version
        return run
    return replace(run, config=known | run.config)


def look(runs: list[Run], options: Options) -> Comparison:
    """Compare `runs`.

    Raises RunError if none can be read, and ConfigError if an option names what no run has.
    """
    from dqn_runner.analysis.comparison import compare
    from dqn_runner.analysis.groups import SCORES

    if not any(run.config for run in runs):
        problems = "; ".join(f"{run.path}: {run.problem}" for run in runs)
        raise RunError(f"no run here{' can be read: ' if runs else ''}{problems}")
    environments = {str(run.config.get("env.id")) for run in runs}
    for option, named in (("--normalize", options.bounds), ("--threshold", options.thresholds)):
        for environment in set(named) - environments - {"*"}:
            raise ConfigError(
                f"{option}={environment}=…: no run has this environment; there are "
                f"{', '.join(sorted(environments))}"
            )
    try:
        comparison = compare(runs, options)
    except KeyError as error:
        keys = sorted({key for run in runs for key in run.config})
        raise ConfigError(
            f"--group-by={error.args[0]}: no run has this setting; there are {', '.join(keys)}"
        ) from error
    for metric in set(options.metrics) - set(SCORES):
        if not any(group.num_scores(metric) for group in comparison.groups):
            known = sorted({name for run in runs for name in run.last_row() if "/" in name})
            raise ConfigError(
                f"--metric={metric}: no run has it; there are {', '.join([*SCORES, *known])}"
            )
    return comparison


def check_baseline(comparison: Comparison) -> None:
    """Refuse a baseline that is no group; while runs are followed it may still come."""
    baseline = comparison.options.baseline
    names = sorted({group.group.name for r in comparison.rankings for group in r.groups})
    if baseline not in (None, *names):
        raise ConfigError(
            f"--baseline={baseline}: no group has this name; there are {'; '.join(names)}"
        )


def publish(comparison: Comparison, style: str, output: Path | None) -> None:
    """Print the comparison, or write it to a file."""
    from rich.console import Console

    from dqn_runner.analysis.table import as_text, renderable

    console = Console()
    if output:
        text = as_text(comparison, style) + "\n"
        with writing(f"--output={output}"):
            output.write_text(text, encoding="utf-8")
    elif style == "table" and console.is_terminal:
        console.print(renderable(comparison))
    else:
        print(as_text(comparison, style))
    if style == "csv":  # has no place for remarks
        for remark in comparison.remarks:
            print(f"dqn-compare: {remark}", file=sys.stderr)


@contextmanager
def writing(what: str, instead: str = "") -> Iterator[None]:
    """If writing fails, raise a ConfigError that begins with `what` and ends with `instead`."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{what}: {error.strerror or in_a_line(error)}{instead}") from error


def keep(comparison: Comparison, folder: Path | None, compared: list[Path]) -> None:
    """Copy the runs of `comparison` into `folder`, if there is one, outside of those `compared`."""
    from dqn_runner.analysis.archive import archive
    from dqn_runner.analysis.origins import runs_of

    if folder is None:
        return
    for directory in compared:
        if folder.resolve().is_relative_to(directory.resolve()):
            raise ConfigError(
                f"--archive={folder}: lies in {directory}, where its copies would be compared as "
                "runs; choose a folder outside"
            )
    with writing(f"--archive={folder}"):
        archive(runs_of(comparison), folder)


def draw(
    comparison: Comparison, folder: Path | None, page: Path | None, style: Style
) -> dict[str, Path]:
    """Save every figure for which there is data, and the report `page` that shows them.

    Returns the PNG of each figure, by its name.
    """
    from dqn_runner.analysis.figures import FORMATS, figures, save
    from dqn_runner.analysis.report import report
    from dqn_runner.runs.directory import write_whole

    drawn, paths = figures(comparison, style) if folder else {}, []
    if folder:
        with writing(f"--figures={folder}", "; use another folder, or --no-figures"):
            paths = save(drawn, folder, FORMATS[style])
    if page:
        text = report(comparison, drawn)
        with writing(f"--report={page}"):
            page.parent.mkdir(parents=True, exist_ok=True)
            write_whole(page, text)
    return {
        str(path.relative_to(folder).with_suffix("")): path
        for path in paths
        if folder and path.suffix == ".png"
    }


def follow(
    directories: list[Path],
    options: Options,
    *,
    folder: Path | None,
    page: Path | None,
    output: Path | None,
    text_format: str,
    style: Style,
) -> None:
    """Update table, figures, report and each running run's curve.png until no run is running."""
    from rich.console import Console
    from rich.live import Live

    from dqn_runner.analysis.curve import draw_curve
    from dqn_runner.analysis.table import renderable
    from dqn_runner.runs.directory import RunDirectory

    console = Console()
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
        idle = 0
        while idle < LOOKS_WITHOUT_A_RUN:
            runs = read(directories)
            running = [run for run in runs if run.status == "running"]
            # Between two jobs of a sweep nothing is running.
            idle = 0 if running else idle + 1
            if any(run.config for run in runs):
                comparison = look(runs, options)
                live.update(renderable(comparison), refresh=True)
                if output:
                    publish(comparison, text_format, output)
                draw(comparison, folder, page, style)
            for run_dir in (RunDirectory(run.path) for run in running if folder):
                if run_dir.metrics.exists():
                    with writing(str(run_dir.curve), "; use --no-figures"):
                        draw_curve(run_dir.metrics, run_dir.curve)
            if idle < LOOKS_WITHOUT_A_RUN:
                time.sleep(SECONDS_BETWEEN_LOOKS)


def log_to_swanlab(
    comparison: Comparison, folder: Path, pictures: dict[str, Path], console: Console
) -> None:
    """Log each group's mean and IQM over env steps as a SwanLab run."""
    from dqn_runner.tracking.summary import log_summaries

    with console.status("logging to SwanLab"), writing(f"--swanlab in {folder / 'swanlab'}"):
        log_summaries(comparison, folder / "swanlab", pictures)
    amount = len(comparison.groups)
    summaries = "1 summary" if amount == 1 else f"{amount} summaries"
    console.print(f"SwanLab {folder / 'swanlab'}: {summaries}", highlight=False)
