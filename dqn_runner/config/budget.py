"""Settings of learning that a run's budget never reaches."""

from __future__ import annotations

from collections.abc import Iterator

from dqn_runner.config.root import Config
from dqn_runner.target_update import Hard


def unreached(config: Config, episode_limit: int | None) -> Iterator[str]:
    """A line for each setting that comes to nothing, for the run ends before.

    `episode_limit` is the most env steps of an episode; None where nothing limits them.
    """
    episodes, phase = config.total_episodes, config.phase.episodes
    if phase is not None and episodes is not None and phase > episodes:
        yield f"phase.episodes={phase}: the run ends after {episodes:,}, and learns only then"
    steps = _most_steps(config, episode_limit)
    if steps is None:
        return
    ends = f"the run ends after at most {steps:,} env steps"
    stored = min(steps, config.buffer.capacity)
    updates = _most_updates(config, steps)
    target = config.target_update
    if config.learning_starts > steps:
        yield f"learning_starts={config.learning_starts}: {ends}, and learns nothing"
    elif config.batch_size > stored:
        yield f"batch_size={config.batch_size}: {ends}, stores no batch, and learns nothing"
    elif updates == 0:
        yield f"train_frequency={config.train_frequency}: {ends}, and learns nothing"
    elif isinstance(target, Hard):
        reached, unit = (steps, "env steps") if target.unit == "env_step" else (updates, "updates")
        if reached is not None and target.interval > reached:
            yield (
                f"target_update.interval={target.interval}: the run ends after at most {reached:,} "
                f"{unit}, and its target network stays as it was at the start"
            )


def _most_steps(config: Config, episode_limit: int | None) -> int | None:
    """The env steps after which the run has ended for sure."""
    budgets = [config.total_timesteps]
    if config.total_episodes is not None and episode_limit is not None:
        # Those of the other environments that are still going on count too.
        budgets.append((config.total_episodes + config.num_envs - 1) * episode_limit)
    steps = min((budget for budget in budgets if budget is not None), default=None)
    return steps and -(-steps // config.num_envs) * config.num_envs


def _most_updates(config: Config, steps: int) -> int | None:
    """The updates that can be made in `steps`; None where learning goes in phases."""
    if config.phase.episodes is not None:
        return None
    before = max(config.learning_starts, config.batch_size) - 1
    return (steps // config.train_frequency - before // config.train_frequency) * (
        config.gradient_steps
    )
