"""Run directories as training leaves them, written in a moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

DEFAULTS = {
    "seed": 0,
    "env": {"id": "CartPole-v1"},
    "agent": {"lr": 0.001, "n_step": 1},
    "epsilon": {"name": "fixed", "value": 0.1},
    "tracker": {"mode": "disabled", "project": "p", "workspace": None, "name": "n"},
}


def write_run(
    path: Path, evaluations: list[float], final: float | None = None, **settings: Any
) -> Path:
    """A run directory as training leaves it; without `final`, as it is found half-way."""
    config = json.loads(json.dumps(DEFAULTS))
    config["tracker"]["name"] = path.name
    for key, value in settings.items():
        *parents, name = key.split("__")
        section = config
        for parent in parents:
            section = section.setdefault(parent, {})
        section[name] = value
    path.mkdir(parents=True)
    (path / ".hydra").mkdir()
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    rows = [
        {"env_steps": 100 * (i + 1), "episodes": i, "eval/episode_return_mean": value,
         "eval/episode_return_std": 0.5, "time/elapsed_seconds": 0.5 * (i + 1)}
        for i, value in enumerate(evaluations)
    ]  # fmt: skip
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if final is not None:
        numbers = {"mean": final, "std": 0.0, "min": final, "max": final, "episodes": 10}
        result = {
            "status": "finished",
            "env_steps": 100 * len(evaluations),
            "wall_time_seconds": 2.0,
            "final": numbers,
            "best": numbers | {"mean": final + 1.0},
        }
        (path / "result.json").write_text(json.dumps(result))
    return path


def write_sweep(path: Path) -> Path:
    """Two learning rates, six seeds each; the larger is better by 100."""
    for lr, offset in ((0.01, 300.0), (0.001, 200.0)):
        for seed in range(6):
            write_run(
                path / f"lr={lr},seed={seed}",
                [10.0, offset + seed, offset - seed],
                offset + 10 * seed,
                seed=seed,
                agent__lr=lr,
            )
    return path


def write_two_environments(path: Path) -> Path:
    """Two learning rates in two environments, the better one another in each; five seeds."""
    for env, offset in (("CartPole-v1", 400.0), ("Acrobot-v1", -100.0)):
        for i, lr in enumerate((0.01, 0.001)):
            for seed in range(5):
                score = offset + seed + (50.0 * i if env == "CartPole-v1" else -50.0 * i)
                write_run(
                    path / f"{env},lr={lr},seed={seed}",
                    [10.0, score],
                    score,
                    seed=seed,
                    agent__lr=lr,
                    env__id=env,
                )
    return path
