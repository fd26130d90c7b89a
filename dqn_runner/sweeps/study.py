"""A study of Optuna's in a storage, which is refused if it holds another search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna

from dqn_runner.composing.refusals import first_line
from dqn_runner.errors import ConfigError
from dqn_runner.types import flatten

ABOUT = "dqn_runner"  # the attribute of a study that says what it searches
SECONDS_FOR_A_LOCK = 5


def may_exist(storage: str) -> bool:
    """Whether the URL `storage` may hold something; for a file that is known."""
    path = storage.partition("sqlite:///")[2]
    return not path or Path(path).exists()


def open_study(
    storage: str,
    name: str,
    about: dict[str, Any],
    sampler: dict[str, Any],
    pruner: dict[str, Any],
) -> optuna.Study:
    """The study `name`, created if there is none, with a sampler and a pruner.

    `about` says what is searched. Raises ConfigError if the study that is there searches something
    else, or if the storage cannot be used.
    """
    from hydra.utils import instantiate

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    is_file = storage.startswith("sqlite:")
    waits = {"connect_args": {"timeout": SECONDS_FOR_A_LOCK}} if is_file else {}
    try:
        backend = optuna.storages.RDBStorage(storage, engine_kwargs=waits)
        is_new = name not in optuna.get_all_study_names(backend)
        study = optuna.create_study(
            storage=backend, study_name=name, direction="maximize", load_if_exists=True
        )
        _claim(study, storage, about, is_new)
    except ConfigError:
        raise
    except Exception as error:  # each database has its own
        raise ConfigError(f"hydra.sweeper.storage={storage}: {first_line(error)}") from error
    # With the same seed a new sampler would draw the same trials again.
    seed = sampler.get("seed")
    reseeded = {} if seed is None else {"seed": seed + len(study.trials)}
    try:
        study.sampler = instantiate({**sampler, **reseeded})
        study.pruner = instantiate(pruner)
    except Exception as error:  # raised by the class that was named
        raise ConfigError(f"hydra.sweeper.sampler or pruner: {first_line(error)}") from error
    return study


def _claim(study: optuna.Study, storage: str, about: dict[str, Any], is_new: bool) -> None:
    if is_new:
        study.set_user_attr(ABOUT, about)
        return
    held, wanted = flatten(study.user_attrs.get(ABOUT, {})), flatten(about)
    for key in {**wanted, **held}:
        if held.get(key) != wanted.get(key):
            raise ConfigError(
                f"hydra.sweeper.storage={storage}: holds another search, with {key} "
                f"{held.get(key)}, not {wanted.get(key)}; choose another hydra.sweep.dir"
            )
