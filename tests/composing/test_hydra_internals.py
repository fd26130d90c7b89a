"""The loader for sweeps composes what Hydra itself composes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

import dqn_runner
from dqn_runner.composing.command import Command
from dqn_runner.composing.hydra_internals import ConfigLoader, conf_dir


@pytest.fixture(scope="module")
def loader() -> ConfigLoader:
    loader = Command([])._hydra.config_loader
    assert isinstance(loader, ConfigLoader)
    return loader


JOBS = [
    [],
    ["seed=3"],
    ["hydra.run.dir=somewhere", "agent=dqn"],
    ["agent.lr=0.5", "seed=3", "agent.lr=0.25"],
    ["env=acrobot", "seed=1", "epsilon=linear", "epsilon.end=0.5"],
    ["experiment=plain_dqn", "agent.n_step=7"],
    ["+env.kwargs.size=4", "network.hidden_sizes=[8,8]", "~buffer.capacity"],
    ["learning_starts=${batch_size}", "batch_size=7", "hydra.sweep.subdir='a b'"],
    ["hydra.sweep.dir=somewhere", "tracker.tags=[a]", "++agent.gamma=0.5"],
    ["hydra.job.config.override_dirname.exclude_keys=[seed]", "seed=4", "agent.lr=1"],
]


@pytest.mark.parametrize("overrides", JOBS, ids=" ".join)
def test_the_same_as_hydra(loader, overrides):
    theirs = ConfigLoaderImpl(loader.config_search_path)
    for _ in range(2):  # the second time from what the first one composed
        ours = loader.load_configuration("config", overrides, RunMode.RUN)
        expected = theirs.load_configuration("config", overrides, RunMode.RUN)
        HydraConfig.instance().set_config(expected)
        assert OmegaConf.to_container(ours) == OmegaConf.to_container(expected)


@pytest.mark.parametrize("overrides", [[], ["agent=dqn", "seed=3"]], ids=" ".join)
def test_a_command_reads_its_files_once(tmp_path, monkeypatch, overrides):
    monkeypatch.chdir(tmp_path)
    composed = []
    ours = ConfigLoaderImpl._load_configuration_impl

    def counted(self: ConfigLoaderImpl, *args: Any, **kwargs: Any) -> DictConfig:
        composed.append(args)
        return ours(self, *args, **kwargs)

    monkeypatch.setattr(ConfigLoaderImpl, "_load_configuration_impl", counted)
    command = Command([*overrides, "hydra.output_subdir=null"])
    assert command.run(lambda config: config.seed) == (3 if overrides else 0)
    assert len(composed) == 1


def test_one_job_leaves_no_trace_in_the_next(loader):
    for value in (0.1, 0.2):
        config = loader.load_configuration("config", [f"agent.lr={value}"], RunMode.RUN)
        assert config.agent.lr == value
        config.agent.lr = 9.0
        config.hydra.overrides.task.append("seed=9")
        assert config.seed == 0


@pytest.mark.parametrize("overrides", [["agent.nosuch=1"], ["seed=1,2"], ["+seed=1"], ["seed=x(1"]])
def test_the_same_errors_as_hydra(loader, overrides):
    with pytest.raises(HydraException) as expected:
        ConfigLoaderImpl(loader.config_search_path).load_configuration(
            "config", overrides, RunMode.RUN
        )
    with pytest.raises(HydraException) as caught:
        loader.load_configuration("config", overrides, RunMode.RUN)
    assert type(caught.value) is type(expected.value)
    assert str(caught.value) == str(expected.value)


def test_only_one_file_uses_the_internals_of_hydra():
    package = Path(dqn_runner.__file__).parent
    using = [path for path in package.rglob("*.py") if "hydra._internal" in path.read_text()]
    assert [path.name for path in using] == ["hydra_internals.py"]
    assert not [
        path for path in Path(conf_dir()).rglob("*.yaml") if "_internal" in path.read_text()
    ]
