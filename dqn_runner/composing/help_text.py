"""What `dqn-train --help` says."""

from __future__ import annotations

from omegaconf import OmegaConf, open_dict

from dqn_runner.composing.hydra_internals import create_hydra, parse_arguments
from dqn_runner.composing.refusals import compose

HELP = """\
dqn-train: train a DQN agent, log it to SwanLab, and keep everything in one run directory

usage: dqn-train [KEY=VALUE ...] [GROUP=OPTION ...] [-m] [--config-dir DIR] [--version]

examples:
  dqn-train env=cartpole agent.lr=1e-4
  dqn-train env=lunarlander total_timesteps=300000 epsilon=linear target_update=hard
  dqn-train env.id=FrozenLake-v1 env.kwargs.is_slippery=false   any Gymnasium id, and what it takes
  dqn-train 'agent.optimizer={{name: adam, eps: 1e-4}}'     several settings of a section at once
  dqn-train 'tracker.description="a: b, c"'               quotes around text with , : # & ( [ {{
  dqn-train -m agent.lr=1e-3,1e-4 seed=0,1,2              six runs in one folder, and a table
  dqn-train -m hydra/launcher=joblib 'seed=range(0,20)'   on all cores
  dqn-train -m hydra/sweeper=optuna env=lunarlander       Optuna chooses
  dqn-train resume=RUN_DIR                                go on with an interrupted run

groups, each chosen by GROUP=OPTION; --config-dir DIR adds options of your own:
{groups}

settings, each set by KEY=VALUE (agent.lr=1e-4), here with the values that would be used:
{settings}

conf/ explains each setting beside its default; --help with hydra/launcher=slurm or another lists
its settings, too. --hydra-help tells what Hydra adds: --cfg shows a configuration, --multirun is
-m, --shell-completion completes names in your shell. dqn-eval RUN_DIR plays a trained policy and
films it, dqn-compare DIR compares runs, dqn-dashboard DIR shows them in SwanLab's dashboard.
"""
GROUPS = {
    "env": "the environment; env.id=ID takes any discrete-action Gymnasium environment",
    "agent": "learning rate, discount, n-step returns, double Q-learning, loss, optimiser",
    "network": "the Q-network",
    "buffer": "the replay buffer",
    "epsilon": "how exploration decays",
    "target_update": "how the target network follows: hard copies or soft steps",
    "tracker": "what SwanLab is told, and its mode: offline, online, local or disabled",
    "experiment": "settings of several groups under one name",
    "hydra/launcher": "where the jobs of -m run: one after another, on all cores, on a cluster",
    "hydra/sweeper": "which jobs -m runs: every combination, or what Optuna proposes",
}


def help_text(arguments: list[str]) -> str:
    """What `dqn-train --help` says, with the configuration that the other `arguments` make."""
    parsed = parse_arguments(arguments)
    hydra = create_hydra(parsed)
    config = compose(hydra, parsed.config_name, parsed.overrides)
    of_hydra, chosen = config.hydra, config.hydra.runtime.choices
    parts = [part for part in ("launcher", "sweeper") if chosen[f"hydra/{part}"] != "basic"]
    with open_dict(config):
        del config["hydra"]
        if parts:
            config["hydra"] = {part: of_hydra[part] for part in parts}
    repository = hydra.config_loader.repository  # type: ignore[attr-defined]
    groups = [
        f"  {group:14} {' '.join(repository.get_group_options(group))}\n{'':17}{what}"
        for group, what in GROUPS.items()
    ]
    settings = OmegaConf.to_yaml(config).rstrip().replace("\n", "\n  ")
    return HELP.format(groups="\n".join(groups), settings=f"  {settings}")
