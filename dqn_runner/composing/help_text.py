"""What `dqn-train --help` says."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from omegaconf import OmegaConf, open_dict

from dqn_runner.composing.hydra_internals import create_hydra, parse_arguments, shipped
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
  dqn-train -m hydra/launcher=batched 'seed=range(0,20)'  on all cores, several trained together
  dqn-train -m hydra/sweeper=optuna env=lunarlander       Optuna chooses
  dqn-train resume=RUN_DIR                                go on with an interrupted run

groups, each chosen by GROUP=OPTION; --config-dir DIR adds options of your own:
{groups}

settings, each set by KEY=VALUE (agent.lr=1e-4), here with the values that would be used:
{settings}

--help with hydra/launcher=slurm or hydra/sweeper=optuna lists their settings, too. --hydra-help
tells what Hydra adds: --cfg shows a configuration, --multirun is -m, --shell-completion completes
names in your shell. dqn-eval RUN_DIR plays a trained policy and films it, dqn-compare DIR compares
runs, dqn-dashboard DIR shows them in SwanLab's dashboard.
"""
GROUPS = {  # those that have no settings of their own
    "experiment": "Settings of several groups under one name.",
    "hydra/launcher": "Where the jobs of -m run: one by one, together, on all cores, on a cluster.",
    "hydra/sweeper": "Which jobs -m runs: every combination, or what Optuna proposes.",
}
WIDTH = 100  # columns


class Setting(NamedTuple):
    """What docs/settings.md says about a setting."""

    meaning: str
    allowed: str
    kinds: str  # the names of the sections that have it; empty if all have


class Page:
    """docs/settings.md: the meaning of each section and each setting."""

    def __init__(self) -> None:
        text = shipped("docs/settings.md").read_text(encoding="utf-8")
        self.sections = dict(re.findall(r"^## (\S+)\n\n(.+)$", text, re.MULTILINE))
        self._settings: dict[str, list[Setting]] = {}
        for row in re.findall(r"^\| `(.+) \|$", text, re.MULTILINE):
            setting, *cells = (cell.replace(r"\|", "|") for cell in row.split(" | "))
            key = setting.rstrip("`").partition("=")[0]
            self._settings.setdefault(key, []).append(Setting(*cells))

    def about(self, key: str, kind: str) -> str:
        """Meaning and allowed values of `key` in a section of this kind; may be empty."""
        found = self._settings.get(key, [])
        own = [s for s in found if not s.kinds or kind in s.kinds.split(", ")]
        if own:
            return f"{own[0].meaning} ({own[0].allowed})".removesuffix(" ()")
        if not found or ":" in kind:  # a user's own class has settings that nobody else knows
            return ""
        return f"{found[0].meaning} (with {found[0].kinds}: {found[0].allowed})"


def help_text(arguments: list[str]) -> str:
    """What `dqn-train --help` says, with the configuration that the other `arguments` make."""
    parsed, page = parse_arguments(arguments), Page()
    hydra = create_hydra(parsed)
    config = compose(hydra, parsed.config_name, parsed.overrides)
    of_hydra, chosen = config.hydra, config.hydra.runtime.choices
    parts = [part for part in ("launcher", "sweeper") if chosen[f"hydra/{part}"] != "basic"]
    with open_dict(config):
        del config["hydra"]
    names = sorted(map(str, config), key=lambda name: name != "env")  # first what is chosen first
    groups = [
        _aligned(group, " ".join(options), 17)
        + f"\n{'':17}{(page.sections | GROUPS).get(group, '')}"
        for group in (*names, *GROUPS)
        if (options := hydra.config_loader.get_group_options(group))
    ]
    settings: Any = OmegaConf.to_container(config, resolve=True)
    lines = [*_lines(settings, page)]
    for part in parts:
        section: Any = OmegaConf.to_container(of_hydra[part])
        lines += _lines({f"hydra.{part}": section}, page)
    return HELP.format(groups="\n".join(groups), settings="\n".join(lines))


def _lines(section: Mapping[str, Any], page: Page, prefix: str = "") -> Iterator[str]:
    """A line or two for each setting; before those of a section, an empty one and its meaning."""
    kind = str(section.get("name"))
    inner = {name: value for name, value in section.items() if isinstance(value, dict) and value}
    for name, value in section.items():
        if name not in inner:
            yield _aligned(f"{prefix}{name}={as_value(value)}", page.about(f"{prefix}{name}", kind))
    for name, value in inner.items():
        key = f"{prefix}{name}"
        yield "\n" + _aligned(f"{key}.*", page.sections.get(key) or page.about(key, kind))
        yield from _lines(value, page, f"{key}.")


def _aligned(left: str, right: str, column: int = 38) -> str:
    """`left`, and from `column` on `right`, in lines of WIDTH columns."""
    # No line ends inside of `>= 0`, nor before a `|`.
    together = re.sub(r"([<>]=?) ", "\\1\xa0", right.replace(" |", "\xa0|"))
    lines = textwrap.wrap(together, WIDTH - column)
    if lines and len(left) < column - 2:
        left = f"{left:{column - 2}}{lines.pop(0)}"
    return "\n".join([f"  {left}", *(" " * column + line for line in lines)]).replace("\xa0", " ")


def as_value(value: Any) -> str:
    """A value as it is typed on the command line."""
    match value:
        case None | bool():
            return {None: "null", True: "true", False: "false"}[value]
        case list():
            return f"[{','.join(map(as_value, value))}]"
        case dict():
            return f"{{{', '.join(f'{key}: {as_value(item)}' for key, item in value.items())}}}"
    return str(value)
