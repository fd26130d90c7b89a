"""The one place where the configuration becomes objects."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from dqn_runner.agents.agent import Agent, Resets
from dqn_runner.agents.c51 import CategoricalSpec
from dqn_runner.agents.spec import AgentSpec
from dqn_runner.allocation import Allocate, own_memory
from dqn_runner.buffers.frames import FrameStorage, choose_storage
from dqn_runner.buffers.n_step import NStepAssembler
from dqn_runner.buffers.prioritized import PrioritizedSpec
from dqn_runner.buffers.rows import Gather, RowStorage
from dqn_runner.buffers.sarsa import SarsaAssembler
from dqn_runner.config.budget import (
    expected_env_steps,
    is_worth_compiling,
    unreached,
    unused,
)
from dqn_runner.config.memory import check_memory, layout
from dqn_runner.config.networks import build_network, unsuited
from dqn_runner.config.root import BufferSpec, Config, find_modules
from dqn_runner.custom import Custom
from dqn_runner.envs.encoding import Env, num_actions
from dqn_runner.envs.episode import close
from dqn_runner.envs.make import make_env, make_player, obs_spec_of
from dqn_runner.envs.processes import PlayerProcess
from dqn_runner.envs.vector import Environments
from dqn_runner.epsilon import is_random
from dqn_runner.errors import ConfigError, RunFailedError, failing_as
from dqn_runner.learning.learner import Learner, UpdateRule
from dqn_runner.networks.flat import FlatNetwork
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.seeding import draw_seed, random_streams
from dqn_runner.target_update import Hard, Soft
from dqn_runner.training.checkpoint import Checkpoints
from dqn_runner.training.evaluation import Evaluator
from dqn_runner.training.requests import Asking, Compile
from dqn_runner.training.state import Assembler, Parts
from dqn_runner.types import Progress

logger = logging.getLogger(__name__)

# Below this many parameters a second thread costs more than it brings.
SMALL_NETWORK = 1_000_000


def check(config: Config) -> None:
    """Make sure that `config` can be built here, before anything is written.

    Raises ConfigError for an environment, a class or a device that does not work here.
    """
    find_modules(config)
    env = make_env(config.env)
    check_memory(config, env, resolve_device(config.device))
    resolve_agent(config, env)
    if isinstance(config.network, Custom):
        build_network(config, env, 0, torch.device("cpu"))
    close(env)
    if isinstance(config.epsilon, Custom):
        config.epsilon.load("epsilon.name")


def resolve_device(device: str) -> torch.device:
    """The device named `device`; `auto` is CUDA if there is one, else the CPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = device.partition(":")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        available = ", ".join(["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))])
        raise ConfigError(f"device={device}: not on this machine, which has {available}")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device=mps: not on this machine")
    return torch.device(device)


def building(
    config: Config, run_dir: RunDirectory, memory: Allocate = own_memory
) -> Asking[tuple[Config, Parts]]:
    """Build and seed all that training works with, with tensors in `memory`.

    Returns `config` too, with what was decided here: device, threads, compilation, the ends of
    schedules. Whoever drives this compiles, where that is asked for.
    """
    device = resolve_device(config.device)
    streams = random_streams(config.seed)
    env = make_env(config.env, warn=True)
    decided: dict[str, Any] = {"device": str(device)}
    decided |= {"agent": resolve_agent(config, env), "buffer": resolve_buffer(config, env)}
    config = config.model_copy(update=decided)
    network = build_network(config, env, draw_seed(streams.network), device)
    decided["torch_threads"] = resolve_threads(config, network)
    config = config.model_copy(update=decided)
    torch.set_num_threads(decided["torch_threads"])
    storage = build_storage(config, env, device, memory)
    learner = build_learner(config, network, num_actions(env), storage.gather, memory)
    warn_of_settings(config, env)
    temperature = config.agent.softmax_temperature
    resets = build_resets(config, env, streams.network, device)
    parts = Parts(
        agent=Agent(
            network, num_actions(env), learner, config.target_update, streams.exploration,
            temperature=temperature, noise_rng=streams.noise, resets=resets,
        ),
        envs=build_environments(config, streams.env),
        storage=storage,
        sampler=config.buffer.sampler(storage),
        assembler=build_assembler(config),
        epsilon=build_epsilon(config),
        agent_spec=config.agent,
        evaluator=build_evaluator(config),
        replay_rng=streams.replay,
        evaluation_rng=streams.evaluation,
        checkpoints=Checkpoints(run_dir.checkpoints),
        frames_per_step=config.env.frames_per_step,
    )  # fmt: skip
    compiled = wants_compiling(config, env)
    close(env)
    if compiled:
        with contextlib.ExitStack() as unless_built:
            unless_built.callback(parts.envs.close)
            compiled = yield Compile(
                parts.agent, parts.storage.tensors, config.batch_size, parts.envs.obs
            )
            unless_built.pop_all()
    return config.model_copy(update={"compile": "always" if compiled else "never"}), parts


def warn_of_settings(config: Config, env: Env) -> None:
    """Warn of settings without effect or made for others, and of those that do the same twice."""
    limit = env.spec.max_episode_steps if env.spec else None
    network, epsilon = config.network, config.epsilon
    obs = obs_spec_of(config.env, env)
    for line in (*unused(config.agent), *unreached(config, limit), *unsuited(network, obs)):
        logger.warning("%s", line)
    if not isinstance(network, Custom) and network.noisy is not None and is_random(epsilon):
        logger.warning(
            "network.noisy=%g: explores by itself, and epsilon=%s explores too; rainbow uses "
            "epsilon=fixed epsilon.value=0",
            network.noisy,
            epsilon.name,
        )


def build_environments(config: Config, rng: np.random.Generator) -> Environments:
    """The environments to train in; `rng` seeds their episodes."""
    make = functools.partial(make_player, config.env, training=True)
    if config.env.vectorization == "processes":
        return Environments(functools.partial(PlayerProcess, make), config.num_envs, rng)
    return Environments(make, config.num_envs, rng)


def build_evaluator(config: Config) -> Evaluator:
    """What plays evaluation episodes, within the limits of `config`."""
    limit = config.eval.max_episode_steps
    return Evaluator(functools.partial(make_player, config.env, max_episode_steps=limit))


def resolve_threads(config: Config, network: FlatNetwork) -> int:
    """The number of torch threads; `auto` is one for a small network, else one per core."""
    if config.torch_threads != "auto":
        return config.torch_threads
    return 1 if len(network.initial_params) < SMALL_NETWORK else os.cpu_count() or 1


def build_storage(
    config: Config, env: Env, device: torch.device, memory: Allocate = own_memory
) -> RowStorage:
    """The storage of transitions."""
    capacity, obs = config.buffer.capacity, obs_spec_of(config.env, env)
    stored, in_phases = layout(config, num_actions(env)), config.phase.episodes is not None
    if choose_storage(config.buffer.storage, obs, in_phases=in_phases) == "rows":
        return RowStorage(capacity, obs, device, layout=stored, keep_all=in_phases, memory=memory)
    return FrameStorage(
        capacity, obs, device, num_envs=config.num_envs, n_step=config.agent.n_step,
        layout=stored, memory=memory,
    )  # fmt: skip


def build_assembler(config: Config) -> Assembler:
    """What turns steps into transitions, as the target asks for them."""
    if config.agent.td_target == "sarsa":
        return SarsaAssembler(config.agent.gamma, config.num_envs)
    return NStepAssembler(config.agent.n_step, config.agent.gamma, config.num_envs)


def wants_compiling(config: Config, env: Env) -> bool:
    """Whether update and acting are to be compiled, if this machine can.

    `auto` looks at the budget alone, not at what is cached: a command computes the same the second
    time as the first.
    """
    if config.compile == "auto":
        return is_worth_compiling([config], env)
    return config.compile == "always"


def resolve_agent(config: Config, env: Env) -> AgentSpec:
    """The agent's settings, with the decay of its learning rate and its range of returns filled in.

    The range stays open if nothing is known of the environment's returns. Raises ConfigError if
    one end of it is given and does not fit the other.
    """
    agent = config.agent
    if agent.lr_schedule != "constant" and agent.lr_decay_steps is None:
        agent = agent.model_copy(update={"lr_decay_steps": expected_env_steps(config, env)})
    if isinstance(agent, CategoricalSpec):
        agent = agent.covering_env(config.env, num_actions(env))
    return agent


def resolve_buffer(config: Config, env: Env) -> BufferSpec:
    """The buffer's settings, with how observations are kept, and the end of beta's schedule.

    Raises ConfigError if the observations cannot be kept as `config` says.
    """
    obs, in_phases = obs_spec_of(config.env, env), config.phase.episodes is not None
    storage = choose_storage(config.buffer.storage, obs, in_phases=in_phases)
    buffer = config.buffer.model_copy(update={"storage": storage})
    if isinstance(buffer, PrioritizedSpec) and buffer.beta_steps is None:
        buffer = buffer.model_copy(update={"beta_steps": expected_env_steps(config, env)})
    return buffer


def build_epsilon(config: Config) -> Callable[[int, int], float]:
    """The schedule (env_steps, episodes) -> ε."""
    if not isinstance(config.epsilon, Custom):
        return config.epsilon
    schedule: Callable[[int, int], float] = config.epsilon.load("epsilon.name")()
    where = f"epsilon.name={config.epsilon.name}: failed"

    def checked(env_steps: int, episodes: int) -> float:
        with failing_as(RunFailedError, f"{where} at env step {env_steps}"):
            return schedule(env_steps, episodes)

    return checked


def build_resets(
    config: Config, env: Env, rng: np.random.Generator, device: torch.device
) -> Resets | None:
    """When the last layers are drawn anew, and how: like the first ones, and from their `rng`."""
    if config.agent.reset_interval is None:
        return None

    def draw() -> torch.Tensor:
        return build_network(config, env, draw_seed(rng), device).initial_params

    return Resets(config.agent.reset_interval, rng, draw)


def build_learner(
    config: Config,
    network: FlatNetwork,
    num_actions: int,
    gather: Gather,
    memory: Allocate = own_memory,
) -> Learner:
    """The learner with the algorithm's choices and its numbers; `gather` is the storage's."""
    agent, target = config.agent, config.target_update
    rule = update_rule(agent, target, network, gather)
    numbers = update_numbers(agent, target, num_actions)
    counts = agent.reset_interval is not None
    return Learner(
        rule, numbers, network.initial_params, network.buffers, counts=counts, memory=memory
    )


def update_rule(
    agent: AgentSpec, target: Hard | Soft, network: FlatNetwork, gather: Gather
) -> UpdateRule:
    """The algorithm's choices, and the storage's `gather`."""
    return UpdateRule(
        network=network,
        gather=gather,
        representation=agent.representation,
        next_state=agent.next_state,
        optimizer=agent.optimizer,
        clip_norm=agent.max_grad_norm is not None,
        clip_value=agent.max_grad_value is not None,
        soft_target=isinstance(target, Soft),
    )


def update_numbers(agent: AgentSpec, target: Hard | Soft, num_actions: int) -> dict[str, float]:
    """The algorithm's numbers, as they are at first."""
    numbers = {
        **agent.moving_hyperparameters(Progress(), num_actions),
        **agent.optimizer.hyperparameters(),
        "max_grad_norm": agent.max_grad_norm,
        "max_grad_value": agent.max_grad_value,
        "tau": target.tau if isinstance(target, Soft) else None,
    }
    return {name: value for name, value in numbers.items() if value is not None}
