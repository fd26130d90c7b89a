"""Jobs trained together: runs that differ in numbers alone share each update.

Jobs are put into groups by fixed rules, so that a command groups them the same way each time, and
the groups are kept in the sweep's folder: a sweep that goes on has the groups that it had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import joblib
import torch
from psutil import virtual_memory
from pydantic import BaseModel, TypeAdapter
from rich.console import Console
from rich.filesize import decimal

from dqn_runner.buffers.frames import choose_storage
from dqn_runner.config.build import resolve_device
from dqn_runner.config.memory import needed_memory, num_params
from dqn_runner.config.messages import checked
from dqn_runner.config.root import Config, parse
from dqn_runner.custom import Custom
from dqn_runner.envs.episode import close
from dqn_runner.envs.make import make_env, obs_spec_of
from dqn_runner.errors import ConfigError
from dqn_runner.runs.directory import RunDirectory, write_whole
from dqn_runner.spec import PositiveInt, Spec
from dqn_runner.sweeps.launchers.joblib import Processes, Task
from dqn_runner.sweeps.launchers.worker import Numbered, Shared
from dqn_runner.sweeps.sharing import budget, evenly, lockstep, sorted_by

GROUPS = ".groups.json"

# Measured on a CPU: a larger update keeps a core busy by itself, and one of eight runs takes as
# long as eight updates do. In parameters times rows of a batch.
LARGEST_UPDATE = 600_000
GROUP_SIZE = 8
# On a GPU an update is captured with a copy of all that it works on. Each run holds three files.
SHARE_OF_GPU = 0.4
LARGEST_GROUP = 256


class BatchedSpec(Spec):
    """The settings of conf/hydra/launcher/batched.yaml."""

    group_size: PositiveInt | Literal["auto"]
    """Runs trained together, at most; auto: 8 on a CPU, 1 where that is faster; on a GPU as many as
    its memory holds."""
    processes: PositiveInt | Literal["auto"]
    """Groups that are trained at a time; auto: one for each core on a CPU, one on a GPU."""


class _Costs(NamedTuple):
    """What a run asks of the machine; runs that can be trained together ask the same."""

    device: torch.device
    num_bytes: int
    fits: bool  # whether it can be trained together with others
    pays: bool  # whether it is faster so, on a CPU

    @property
    def on_gpu(self) -> bool:
        """Whether it is trained on a GPU."""
        return self.device.type == "cuda"

    @property
    def free(self) -> int:
        """The bytes that are free where it is trained."""
        on_gpu = self.on_gpu
        free = torch.cuda.mem_get_info(self.device)[0] if on_gpu else virtual_memory().available
        return int(free)


Group = list[str | None]  # the folders of the runs in its rows; None for a row without a run


class _Record(BaseModel):
    """What is kept in the sweep's folder: the groups, and the launcher's settings they are for."""

    made_with: BatchedSpec | None
    groups: list[Group]


class BatchedLauncher:
    """Trains the jobs of a sweep in groups, side by side in several processes.

    Jobs that fit no group run as with `joblib`. A run that fails leaves its group, and the others
    go on. Ctrl-C and SIGTERM let all save their checkpoints, and raise Stopped.
    """

    def __init__(self, settings: dict[str, Any], shared: Shared) -> None:
        self._spec = checked(BatchedSpec, settings, "hydra.launcher")
        self._shared, self._folder = shared, Path(shared.config.hydra.sweep.dir)
        self._groups: list[Group] = []
        self._processes = 1
        self._keeps_frames: dict[str, bool] = {}  # by environment and storage
        self._announced = ""

    def plan(self, jobs: Mapping[Path, dict[str, Any]]) -> None:
        """Put jobs into groups, those that are done too; raises ConfigError if memory is short.

        Groups of an earlier call stay; see `_read_groups`.
        """
        settings = {str(path.relative_to(self._folder)): config for path, config in jobs.items()}
        keys = {name: self._key(config) for name, config in settings.items()}
        costs: dict[str, _Costs] = {}
        for names in sorted_by(keys):
            by_buffer = {settings[name]["buffer"]["name"]: settings[name] for name in names}
            cost = _costs([parse(job) for job in by_buffer.values()])
            costs |= dict.fromkeys(names, cost)
        self._groups = self._read_groups(keys, costs)
        known = {name for group in self._groups for name in group}
        for names in sorted_by(keys):
            # Those that end together go together, for a row whose run is over is still computed;
            # and the longest first, for groups wait for each other.
            by_budget = sorted(names, key=lambda name: budget(settings[name]), reverse=True)
            new = [name for name in by_budget if name not in known]
            self._groups += self._grouped(new, costs[names[0]])
        self._processes = min(map(self._most_processes, costs.values()))
        self._announce(costs)
        record = _Record(made_with=self._spec, groups=self._groups)
        write_whole(self._folder / GROUPS, record.model_dump_json(indent=1) + "\n")

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> None:
        """Run a job for each list of overrides; returns when all have ended."""
        jobs: dict[str | None, Numbered] = {
            str(self._shared.path(overrides).relative_to(self._folder)): (number, overrides)
            for number, overrides in enumerate(job_overrides, initial_job_idx)
        }
        tasks = [
            Task(
                {row: jobs[name] for row, name in enumerate(group) if name in jobs},
                num_runs=sum(name is not None for name in group),
                num_rows=len(group),
            )
            for group in self._groups
        ]
        Processes(self._processes, self._shared).run([task for task in tasks if task.jobs])

    def _key(self, settings: dict[str, Any]) -> str:
        """What runs must agree in to be trained together."""
        config = parse(settings)
        kept = config.env.model_dump_json() + config.buffer.storage
        if kept not in self._keeps_frames:
            self._keeps_frames[kept] = _keeps_frames(config)
        return lockstep(settings, keeps_frames=self._keeps_frames[kept])

    def _grouped(self, names: Sequence[str], cost: _Costs) -> list[Group]:
        """New groups; those of less than the full size have empty rows.

        So one compiled update serves them all.
        """
        groups = evenly(names, self._largest(cost), self._most_processes(cost))
        size = max(map(len, groups), default=0)
        return [[*group, *[None] * (size - len(group))] for group in groups]

    def _largest(self, cost: _Costs) -> int:
        """How many runs such a group has at most."""
        if not self._can_group(cost):
            return 1
        if self._spec.group_size != "auto":
            return self._spec.group_size
        if cost.on_gpu:
            most = int(SHARE_OF_GPU * cost.free) // self._most_processes(cost) // cost.num_bytes
            return max(1, min(most, LARGEST_GROUP))
        return GROUP_SIZE if cost.pays else 1

    def _can_group(self, cost: _Costs) -> bool:
        # What Hydra sets for a job while that runs cannot be set for each of a group.
        job = self._shared.config.hydra.job
        return cost.fits and not (job.chdir or job.env_set)

    def _most_processes(self, cost: _Costs) -> int:
        if self._spec.processes != "auto":
            return self._spec.processes
        return 1 if cost.on_gpu else joblib.cpu_count()

    def _read_groups(self, keys: Mapping[str, str], costs: Mapping[str, _Costs]) -> list[Group]:
        """The groups of an earlier call that stay.

        Those of which a run has begun, and the others if this call too would make such ones.
        """
        path = self._folder / GROUPS
        if not path.is_file():
            return []
        try:
            record = TypeAdapter(_Record | list[Group]).validate_json(path.read_bytes())
        except ValueError as error:
            raise ConfigError(f"{path}: damaged; remove it, and runs are grouped anew") from error
        if isinstance(record, list):  # as older versions kept them
            record = _Record(made_with=None, groups=record)

        def stays(group: Group) -> bool:
            names = [name for name in group if name is not None]
            here = [name for name in names if name in keys]
            if len({keys[name] for name in here}) > 1:
                return False
            has_begun = any(map(self._has_begun, names))
            if not here:
                return has_begun
            cost = costs[here[0]]
            if has_begun:
                return len(group) == 1 or self._can_group(cost)
            fits = names == here and len(group) <= self._largest(cost)
            return fits and record.made_with == self._spec

        return [group for group in record.groups if stays(group)]

    def _has_begun(self, name: str) -> bool:
        return RunDirectory(self._folder / name).config.is_file()

    def _announce(self, costs: Mapping[str, _Costs]) -> None:
        """Say what the groups are and the memory they take; raise ConfigError if it is not free."""
        groups = [[costs[name] for name in filter(None, g) if name in costs] for g in self._groups]
        rows = map(len, self._groups)
        takes = [n * group[0].num_bytes for n, group in zip(rows, groups, strict=True) if group]
        needed = sum(sorted(takes, reverse=True)[: self._processes])
        runs = (
            f"{_described([len(group) for group in groups if group])}, {self._processes} at a time"
        )
        free = min(cost.free for cost in costs.values())
        if needed > free:
            raise ConfigError(
                f"hydra/launcher=batched: {runs}, take {decimal(needed)}, and {decimal(free)} are "
                "free; set a smaller buffer.capacity, hydra.launcher.group_size or "
                "hydra.launcher.processes"
            )
        line = f"{runs}; they take up to {decimal(needed)}"
        if line != self._announced:  # by a search again and again
            self._announced = line
            Console(soft_wrap=True).print(line, highlight=False)


def _described(sizes: Sequence[int]) -> str:
    """Groups of these sizes in words."""
    total, least, most = sum(sizes), min(sizes), max(sizes)
    if most == 1:
        return f"{total} runs, each by itself"
    if len(sizes) == 1:
        return f"{total} runs in one group"
    of = f"{least}" if least == most else f"{least} to {most}"
    return f"{total} runs in {len(sizes)} groups of {of}"


def _keeps_frames(config: Config) -> bool:
    if config.buffer.storage == "rows":
        return False
    env = make_env(config.env)
    obs = obs_spec_of(config.env, env)
    close(env)
    return choose_storage(config.buffer.storage, obs, in_phases=False) == "frames"


def _costs(configs: Sequence[Config]) -> _Costs:
    """What a run asks for, at most, of those that could be trained together by `configs`."""
    config = configs[0]
    device, env = resolve_device(config.device), make_env(config.env)
    takes = max(sum(needed_memory(each, env).values()) for each in configs)
    # A network of the user's own may do what vmap cannot, and hold what differs between runs.
    fits = not isinstance(config.network, Custom)
    # Phases end at different env steps: one run learns, and all rows are computed.
    in_step = config.phase.episodes is None
    is_small = num_params(config, env) * config.batch_size <= LARGEST_UPDATE
    close(env)
    return _Costs(device, takes, fits, pays=in_step and is_small)
