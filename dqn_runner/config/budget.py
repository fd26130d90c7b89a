"""What a run's budget allows for, and the settings that have no effect in it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from dqn_runner.agents.spec import AgentSpec, MunchausenSpec
from dqn_runner.config.root import Config
from dqn_runner.envs.encoding import Env
from dqn_runner.envs.make import obs_spec_of
from dqn_runner.target_update import Hard

# The updates that repay compiling (half a minute, the first time), and those that repay loading
# what another run of the sweep has compiled (a second). An update on images gains more: every
# 25,000 numbers in its batch of observations count as one more update. Atari's counts as 37.
WORTH_COMPILING = 25_000
WORTH_LOADING = 1_000
NUMBERS_OF_AN_UPDATE = 25_000

# The assumed length of an episode without a time limit.
STEPS_OF_AN_EPISODE = 100


def is_worth_compiling(configs: Iterable[Config], env: Env) -> bool:
    """Whether runs that share an update, and so an environment, repay compiling it."""
    gained = sum(max(compiling_gains(config, env) - WORTH_LOADING, 0) for config in configs)
    return gained >= WORTH_COMPILING - WORTH_LOADING


def compiling_gains(config: Config, env: Env) -> int:
    """What a run gains by a compiled update, as a number of updates of a few numbers each."""
    numbers = config.batch_size * math.prod(obs_spec_of(config.env, env).shape)
    return expected_updates(config, env) * (1 + numbers // NUMBERS_OF_AN_UPDATE)


def expected_updates(config: Config, env: Env) -> int:
    """How many updates the budget allows for; an estimate if it counts episodes."""
    steps = expected_env_steps(config, env)
    if config.phase.epochs is not None:
        return steps // config.batch_size * config.phase.epochs
    return steps // config.train_frequency * config.gradient_steps


def expected_env_steps(config: Config, env: Env) -> int:
    """How many env steps the budget allows for; an estimate if it counts episodes.

    An episode is assumed to last half of what its environment allows.
    """
    limit = env.spec.max_episode_steps if env.spec else None
    steps_of_an_episode = limit // 2 if limit else STEPS_OF_AN_EPISODE
    budgets = [config.total_timesteps, (config.total_episodes or 0) * steps_of_an_episode]
    return min(budget for budget in budgets if budget)


def unused(agent: AgentSpec) -> Iterator[str]:
    """A line for each setting of the agent that has no effect without another one."""
    if agent.td_target != "munchausen":
        default = MunchausenSpec().model_dump()
        for name, value in agent.munchausen.model_dump().items():
            if value != default[name]:
                yield (
                    f"agent.munchausen.{name}={value}: has no effect without "
                    "agent.td_target=munchausen"
                )
    if agent.behaviour != "softmax" and agent.temperature != 1.0:
        yield (
            f"agent.temperature={agent.temperature}: has no effect without agent.behaviour=softmax"
        )
    if agent.lr_schedule == "constant" and agent.lr_decay_steps is not None:
        yield (
            f"agent.lr_decay_steps={agent.lr_decay_steps}: has no effect with "
            "agent.lr_schedule=constant"
        )


def unreached(config: Config, episode_limit: int | None) -> Iterator[str]:
    """A line for each setting that has no effect, because the run ends before it could.

    `episode_limit` is the most env steps of an episode; None if nothing limits them.
    """
    episodes, phase = config.total_episodes, config.phase.episodes
    if phase is not None and episodes is not None and phase > episodes:
        yield f"phase.episodes={phase}: the run ends after {episodes:,}, and learns only then"
    steps = _most_steps(config, episode_limit)
    if steps is None:
        return
    ends = f"the run ends after at most {steps:,} env steps"
    last = _last_evaluation(config, steps)
    if config.eval.video_interval is not None and config.eval.video_interval > last:
        yield f"eval.video_interval={config.eval.video_interval}: {ends}, and films nothing"
    stored = min(steps, config.buffer.capacity)
    updates = _most_updates(config, steps)
    target, resets = config.target_update, config.agent.reset_interval
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
    if updates and resets is not None and resets > updates:
        yield (
            f"agent.reset_interval={resets}: the run ends after at most {updates:,} updates, and "
            "resets nothing"
        )


def _most_steps(config: Config, episode_limit: int | None) -> int | None:
    """The env steps after which the run has certainly ended."""
    budgets = [config.total_timesteps]
    if config.total_episodes is not None and episode_limit is not None:
        # Episodes that are unfinished in other environments count too.
        budgets.append((config.total_episodes + config.num_envs - 1) * episode_limit)
    steps = min((budget for budget in budgets if budget is not None), default=None)
    return steps and -(-steps // config.num_envs) * config.num_envs


def _last_evaluation(config: Config, steps: int) -> int:
    """The last of `steps` env steps after which an evaluation may be."""
    if config.eval.unit == "episode" or config.eval.interval is None:
        return steps
    return steps - steps % config.eval.interval


def _most_updates(config: Config, steps: int) -> int | None:
    """The updates that can be made in `steps`; None if learning goes in phases."""
    if config.phase.episodes is not None:
        return None
    before = max(config.learning_starts, config.batch_size) - 1
    return (steps // config.train_frequency - before // config.train_frequency) * (
        config.gradient_steps
    )
