"""Short runs compute the same, bit for bit, as when their rows were written to golden.json.

old_run/ is a run directory of that time, as it was left.

`python tests/system/test_golden.py` writes that file anew: only where a change of the numbers is
meant, with the reason in the commit.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

GOLDEN = Path(__file__).with_name("golden.json")
OLD_RUN = Path(__file__).with_name("old_run")

SHORT = (
    "device=cpu",
    "compile=never",
    "torch_threads=1",
    "tracker.mode=disabled",
    "eval.num_episodes=2",
    "eval.final_episodes=3",
    "log.interval=200",
    "checkpoint.interval=300",
)
BY_STEPS = ("total_timesteps=600", "learning_starts=100", "eval.interval=200")
# The defaults when golden.json was made; a recipe names its own.
PLAIN = ("agent=dqn", "batch_size=64", *BY_STEPS)
BY_EPISODES = ("total_episodes=25", "eval.unit=episode", "eval.interval=10")
RUNS = {
    "cartpole": PLAIN,
    "acrobot": ("env=acrobot", *PLAIN),
    "mountaincar": ("env=mountaincar", "seed=3", *PLAIN),
    "lunarlander": ("env=lunarlander", *PLAIN),
    "four_envs": ("num_envs=4", "train_frequency=2", "target_update=hard", "epsilon=linear",
                  "target_update.interval=50", *PLAIN),
    "rmsprop": ("agent.optimizer={name: rmsprop, centered: true, momentum: 0.9}",
                "agent.lr_schedule=cosine", "agent.max_grad_value=0.5", *PLAIN),
    "sgd": ("agent.optimizer={name: sgd, momentum: 0.9, nesterov: true}", "agent.behaviour=softmax",
            "network.activation=tanh", *PLAIN),
    "plain_dqn": ("experiment=plain_dqn", *BY_STEPS),
    "pytorch_tutorial": ("experiment=pytorch_tutorial", *BY_EPISODES),
    "swanlab_cartpole": ("experiment=swanlab_cartpole", *BY_EPISODES),
    "joyrl": ("experiment=joyrl", *BY_EPISODES),
    "hands_on_rl": ("experiment=hands_on_rl", *BY_EPISODES),
    "lunarlander_sarsa": ("experiment=lunarlander_sarsa", "total_episodes=9", "phase.episodes=4",
                          "batch_size=32", "eval.interval=4", "eval.num_episodes=2", "num_envs=2"),
}  # fmt: skip


RESUMED = "total_timesteps=900"  # of old_run, which had 600


def here() -> dict[str, str]:
    """What the numbers depend on besides the code."""
    try:
        cpu = re.findall("model name\\s*: (.*)", Path("/proc/cpuinfo").read_text())[0]
    except (OSError, IndexError):
        cpu = platform.processor()
    packages = ("torch", "numpy", "gymnasium", "box2d")
    return {
        "cpu": f"{cpu} {torch.backends.cpu.get_cpu_capability()}",
        **{package: importlib.metadata.version(package) for package in packages},
    }


def measured(run: Path) -> dict[str, Any]:
    """The metrics of a run directory but for the clock's, and a hash of its final parameters."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]
    state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    params = state["agent"]["params"].numpy().tobytes()
    result = json.loads((run / "result.json").read_text())
    return {
        "params": hashlib.sha256(params).hexdigest(),
        "final": result["final"],
        "best": result["best"],
        "rows": kept,
    }


@pytest.mark.parametrize("name", RUNS)
def test_a_short_run_is_bit_for_bit_what_it_was(
    name: str, tmp_path: Path, command: Callable[..., Any]
) -> None:
    golden = json.loads(GOLDEN.read_text())
    if golden["made with"] != here():
        pytest.skip(f"golden.json was made with {golden['made with']}")
    outcome = command(*SHORT, *RUNS[name], f"hydra.run.dir={tmp_path / 'run'}")
    assert outcome.code == 0, outcome.err
    assert measured(tmp_path / "run") == golden["runs"][name]


def test_an_old_run_is_resumed_bit_for_bit(tmp_path: Path, command: Callable[..., Any]) -> None:
    golden = json.loads(GOLDEN.read_text())
    if golden["made with"] != here():
        pytest.skip(f"golden.json was made with {golden['made with']}")
    shutil.copytree(OLD_RUN, tmp_path / "run")
    outcome = command(f"resume={tmp_path / 'run'}", RESUMED)
    assert outcome.code == 0, outcome.err
    assert measured(tmp_path / "run") == golden["runs"]["old_run"]


def write() -> None:
    """Make golden.json with the code as it is."""
    from dqn_runner.program import guarded
    from dqn_runner.train import command_line

    runs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, overrides in RUNS.items():
            run = Path(folder, name)
            if guarded("dqn-train", command_line, [*SHORT, *overrides, f"hydra.run.dir={run}"]):
                sys.exit(f"{name} failed")
            runs[name] = measured(run)
        run = Path(shutil.copytree(OLD_RUN, Path(folder, "old_run")))
        if guarded("dqn-train", command_line, [f"resume={run}", RESUMED]):
            sys.exit("old_run failed")
        runs["old_run"] = measured(run)
    lines = ",\n".join(
        f"  {json.dumps(name)}: {{\n   "
        + ",\n   ".join(f"{json.dumps(k)}: {_lines(v)}" for k, v in run.items())
        + "}"
        for name, run in runs.items()
    )
    GOLDEN.write_text(f'{{"made with": {json.dumps(here())},\n "runs": {{\n{lines}}}}}\n')


def _lines(value: Any) -> str:
    if not isinstance(value, list):
        return json.dumps(value)
    return "[\n    " + ",\n    ".join(map(json.dumps, value)) + "]"


if __name__ == "__main__":
    write()
