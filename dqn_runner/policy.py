"""A trained policy from Python."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from dqn_runner.agents.policies import make_policy
from dqn_runner.analysis.runs import no_run
from dqn_runner.config.networks import build_network
from dqn_runner.config.root import Config, read
from dqn_runner.envs.encoding import FrameStack, action_decoder
from dqn_runner.envs.episode import close
from dqn_runner.envs.make import make_env, obs_encoder
from dqn_runner.errors import RunError
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.seeding import draw_seed, random_streams
from dqn_runner.training import checkpoint


class LoadedPolicy:
    """A trained policy, without ε, on observations as the environment gives them.

    With `env.frame_stack` it remembers the observations before; `start_episode` forgets them.
    `on_rows` is the same on rows of encoded observations.
    """

    def __init__(self, config: Config, checkpoint_path: Path) -> None:
        state = checkpoint.load(checkpoint_path)
        env = make_env(config.env, warn=True)
        self._frames, self._action = FrameStack(obs_encoder(config.env, env)), action_decoder(env)
        self._is_first = True
        seed = draw_seed(random_streams(config.seed).network)
        network = build_network(config, env, seed, torch.device("cpu"))
        close(env)
        try:
            params, self.env_steps = state["agent"]["params"], int(state["env_steps"])
            buffers = state["agent"].get("buffers", network.buffers)  # older runs kept none
            shapes = [tensor.shape for tensor in (network.initial_params, *network.buffers)]
            fits = [tensor.shape for tensor in (params, *buffers)] == shapes
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(f"{checkpoint_path}: holds no policy") from error
        if not fits:
            raise RunError(f"{checkpoint_path}: does not fit the network of its config.yaml")
        self.config = config
        temperature, rng = config.agent.softmax_temperature, np.random.default_rng(0)
        q_function = network.on_arrays(network.from_rows(params), buffers)
        self.on_rows = make_policy(q_function, temperature, rng)

    def __call__(self, obs: Any, action_mask: Any = None) -> Any:
        """The environment's action for one of its observations, among those it allows."""
        spec = self._frames.spec
        row = np.empty(spec.shape, spec.dtype)
        add = self._frames.start if self._is_first else self._frames.push
        add(obs, row)
        self._is_first = False
        mask = None if action_mask is None else np.asarray(action_mask).astype(bool)[np.newaxis]
        return self._action(int(self.on_rows(row[np.newaxis], mask)[0]))

    def start_episode(self) -> None:
        """The next observation is the first one of an episode."""
        self._is_first = True

    def seeded(self, seeds: Sequence[int]) -> LoadedPolicy:
        """This policy with draws, if it draws at all, that depend on `seeds` alone."""
        policy = copy.copy(self)
        policy.on_rows, policy._frames = self.on_rows.seeded(seeds), copy.deepcopy(self._frames)
        return policy


def load_policy(
    run: str | os.PathLike[str],
    checkpoint_name: Literal["last", "best"] = "last",
    *,
    trust: bool = False,
) -> LoadedPolicy:
    """Load the policy of a run directory, or of one of its checkpoint files, onto the CPU.

    Raises ConfigError or RunError if there is no readable run, or if its config.yaml names code
    outside of this package and `trust` is false.
    """
    if not os.fspath(run):
        raise RunError("the name of a run directory or checkpoint is empty")
    run_path, checkpoint_path = locate(Path(run), checkpoint_name)
    RunDirectory(run_path).check_sound()
    return LoadedPolicy(read(RunDirectory(run_path).config, trust=trust), checkpoint_path)


def locate(path: Path, checkpoint_name: str) -> tuple[Path, Path]:
    """The run directory and the checkpoint meant by either of them."""
    if path.suffix == ".pt":
        run = Path(os.path.normpath(path.parent / ".."))
        config = RunDirectory(run).config
        if not config.is_file():
            problem = (
                f"is in no run: there is no {config}" if path.is_file() else "no such checkpoint"
            )
            raise RunError(f"{path}: {problem}")
        return run, path
    if not path.is_dir():
        raise RunError(f"{path}: no such run directory or checkpoint")
    if not RunDirectory(path).config.is_file():
        raise RunError(f"{path}: {no_run(path)}")
    return path, RunDirectory(path).checkpoints / f"{checkpoint_name}.pt"
