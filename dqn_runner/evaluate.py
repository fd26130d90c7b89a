"""dqn-eval: plays episodes of a trained policy, prints their returns and records videos."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dqn_runner.program import Parser, guarded, path, whole
from dqn_runner.training.spec import MOST_EPISODES

if TYPE_CHECKING:
    from rich.console import Console

    from dqn_runner.policy import LoadedPolicy
    from dqn_runner.training.evaluation import Evaluation

EPILOG = """examples:
  dqn-eval outputs/cartpole/2026-01-31_12-00-00
  dqn-eval outputs/cartpole/2026-01-31_12-00-00 --checkpoint best --episodes 20
  dqn-eval outputs/cartpole/2026-01-31_12-00-00/checkpoints/previous.pt --videos 0
"""


def main() -> None:
    """The console script; its exit codes are 0, 1, 2, 130 and 143."""
    sys.exit(guarded("dqn-eval", command_line, sys.argv[1:]))


def parser() -> argparse.ArgumentParser:
    """The arguments of dqn-eval."""
    from dqn_runner import __version__

    parser = Parser(
        prog="dqn-eval",
        description="Play episodes of a trained policy, without ε, and record a video.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=path, help="a run directory, or one of its checkpoint files")
    parser.add_argument(
        "--checkpoint",
        choices=["last", "best"],
        default="last",
        help="the final policy (default), or the one with the best evaluation",
    )
    positive, count = whole(1, MOST_EPISODES), whole(0, MOST_EPISODES)
    parser.add_argument("--episodes", type=positive, default=100, help="default: 100")
    parser.add_argument("--seed", type=whole(0), default=0, help="seed of the episodes; default: 0")
    parser.add_argument(
        "--videos", type=count, default=1, help="episodes to record as mp4 and GIF; default: 1"
    )
    parser.add_argument(
        "--max-steps", type=positive, default=None, help="end videos after this many steps"
    )
    parser.add_argument(
        "--trust", action="store_true", help="import the classes that the run's config.yaml names"
    )
    parser.add_argument("--version", action="version", version=f"dqn-eval {__version__}")
    return parser


def command_line(arguments: list[str]) -> int:
    """Evaluate a policy and record videos as `arguments` say."""
    options = parser().parse_args(arguments)

    from rich.console import Console

    from dqn_runner.policy import load_policy, locate
    from dqn_runner.runs.directory import RunDirectory
    from dqn_runner.runs.stop_signals import StopSignals
    from dqn_runner.seeding import draw_seed, evaluation_stream

    console = Console(soft_wrap=True)
    policy = load_policy(options.run, options.checkpoint, trust=options.trust)
    rng = evaluation_stream(options.seed)
    seeds = [draw_seed(rng) for _ in range(options.episodes)]
    run_path, checkpoint = locate(options.run, options.checkpoint)
    run_dir = RunDirectory(run_path)
    with StopSignals() as signals:
        evaluation = play(policy, seeds, console, signals.check)
        target = run_dir.videos / checkpoint.stem
        filmed = seeds[: options.videos]
        gifs = film(policy, filmed, options.max_steps, target, console, signals.check)
    log(policy, evaluation, gifs, run_dir.swanlab, checkpoint.stem)
    return 0


def play(
    policy: LoadedPolicy, seeds: list[int], console: Console, check_stop: Callable[[], None]
) -> Evaluation:
    """Play an episode from each seed, and print the returns."""
    from dqn_runner.config.build import build_evaluator

    evaluator = build_evaluator(policy.config)
    with console.status(f"playing {len(seeds)} episodes"):
        evaluation = evaluator.evaluate(policy.on_rows.seeded(seeds), seeds, check_stop)
    evaluator.close()
    numbers = evaluation.summary()
    console.print(
        f"{policy.config.env.id}, policy of env step {policy.env_steps:,}: return "
        f"mean {numbers['mean']:.2f}, std {numbers['std']:.2f}, min {numbers['min']:.2f}, "
        f"max {numbers['max']:.2f} over {numbers['episodes']} episodes",
        highlight=False,
    )
    return evaluation


def film(  # noqa: PLR0917
    policy: LoadedPolicy,
    seeds: list[int],
    max_steps: int | None,
    target: Path,
    console: Console,
    check_stop: Callable[[], None],
) -> list[Path]:
    """Record the episodes of `seeds` as `target`_episode_0 and so on; returns the GIFs."""
    from dqn_runner.envs.video import record_episode
    from dqn_runner.errors import ConfigError

    limits = [limit for limit in (max_steps, policy.config.eval.max_episode_steps) if limit]
    gifs: list[Path] = []
    for i, seed in enumerate(seeds):
        path = target.with_name(f"{target.name}_episode_{i}")
        act = policy.on_rows.seeded([seed])
        try:
            with console.status(f"filming episode {i}"):
                mp4, gif = record_episode(
                    policy.config.env, act, seed, path, min(limits, default=None), check_stop
                )
        except ConfigError as error:
            console.print(f"no video: {error}", highlight=False)
            break
        console.print(f"video {mp4} and {gif.name}", highlight=False)
        gifs.append(gif)
    return gifs


def log(
    policy: LoadedPolicy, evaluation: Evaluation, gifs: list[Path], log_dir: Path, checkpoint: str
) -> None:
    """Log returns and videos to SwanLab, as a run of job type `evaluation` beside the training."""
    from dqn_runner.tracking.tracker import SwanLabTracker

    tracker = policy.config.tracker
    if tracker.mode == "disabled":
        return
    name = f"{tracker.name} ({checkpoint})"
    tracker = tracker.model_copy(update={"job_type": "evaluation", "name": name})
    run = SwanLabTracker(tracker, log_dir, policy.config.plain())
    run.log({"env_steps": policy.env_steps, **evaluation.metrics()})
    for i, gif in enumerate(gifs):
        run.log_media(f"eval/episode_{i}", gif, policy.env_steps)
    run.close("success")
