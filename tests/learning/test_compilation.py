"""Ahead-of-time compilation: the same numbers, in place, from the cache, or a clear refusal."""

import io
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy import stats
from watching import wait_for

from dqn_runner.errors import ConfigError
from dqn_runner.learning import compilation
from dqn_runner.learning.compilation import CompilationError, cache_dir, compile_ahead
from dqn_runner.runs import lifecycle as running
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.runs.stop_signals import StopSignals
from dqn_runner.training.requests import serve


def accumulate(total, x):
    """Adds to `total` in place, and returns something that depends on a gradient."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(torch.sin(leaf).square().sum(), leaf)
    total.add_(grad)
    return 2 * grad


def test_compiled_equals_the_function_writes_in_place_and_is_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "dqn_runner"
    total, x = torch.full((40,), 7.0), torch.zeros(40)
    compiled = compile_ahead(accumulate, (total,), (x,))
    assert torch.equal(total, torch.full((40,), 7.0)), "the example was written into"
    (library,) = cache_dir().glob("*.pt2")
    written = library.stat().st_mtime_ns

    def refuse(*arguments):
        raise AssertionError("compiled a second time")

    monkeypatch.setattr(compilation, "_compile", refuse)
    other_total = torch.full((40,), 3.0)
    again = compile_ahead(accumulate, (other_total,), (x,))
    for run, total_of_run in ((compiled, total), (again, other_total)):
        address, expected_total = total_of_run.data_ptr(), total_of_run.clone()
        for seed in range(3):
            x = torch.randn(40, generator=torch.Generator().manual_seed(seed))
            # d/dx sin² x = sin 2x
            expected_total += torch.sin(2 * x)
            assert torch.allclose(run(x), 2 * torch.sin(2 * x), atol=1e-5)
            assert torch.allclose(total_of_run, expected_total, atol=1e-5)
        assert total_of_run.data_ptr() == address
        with pytest.raises(ValueError, match="other shapes"):
            run(torch.zeros(41))
    assert [path.name for path in cache_dir().glob("*.pt2")] == [library.name]
    assert library.stat().st_mtime_ns == written


def test_of_two_that_need_the_same_one_compiles_and_the_other_says_that_it_waits(
    tmp_path, monkeypatch, caplog
):
    """Locks keep threads apart as they keep processes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    caplog.set_level("INFO", "dqn_runner.learning.compilation")
    compiling, may_end, compiled = Event(), Event(), []

    def load(library):
        if not library.exists():
            raise FileNotFoundError(library)
        return lambda tensors: tensors

    def compile_once(graph, example, library):
        compiling.set()
        assert may_end.wait(60)
        compiled.append(library)
        library.touch()
        return library

    monkeypatch.setattr(compilation, "_load", load)
    monkeypatch.setattr(compilation, "_compile", compile_once)
    waits = "waiting for another run, which compiles the same network"
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(compile_ahead, torch.sin, (), (torch.ones(3),))
        assert compiling.wait(60)
        second = pool.submit(compile_ahead, torch.sin, (), (torch.ones(3),))
        wait_for(lambda: waits in caplog.messages)
        assert not second.done()
        may_end.set()
        first.result(), second.result()
    assert len(compiled) == 1
    assert caplog.messages == ["compiling the network, which takes half a minute once", waits]


def test_what_a_compilation_waits_for_is_shown(compose, tmp_path, monkeypatch):
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True)

    def building(config, run_dir, memory):
        logging.getLogger("dqn_runner.learning.compilation").info("waiting for something")
        wait_for(lambda: "waiting for something" in shown.getvalue())
        yield from ()
        raise ConfigError("built by nobody")

    monkeypatch.setattr(running, "building", building)
    monkeypatch.setattr(logging.getLogger("dqn_runner"), "level", logging.INFO)
    host = running.Host(console, StopSignals())
    with pytest.raises(ConfigError, match="built by nobody"):
        serve(running.assemble(compose(), RunDirectory(tmp_path), host))
    assert not logging.getLogger("dqn_runner.learning.compilation").handlers


@pytest.mark.parametrize("changed", ["constant in the code", "shape", "dtype", "threads"])
def test_another_computation_does_not_take_the_cached_one(cache_names, changed):
    """Names in the cache differ; what would be compiled is noted instead."""
    names = cache_names
    before = torch.get_num_threads()

    def attempt(factor=2.0, example=None):
        example = torch.zeros(4) if example is None else example
        with pytest.raises(CompilationError, match="not compiled in this test"):
            compile_ahead(lambda x: factor * x, (), (example,))

    attempt()
    attempt()
    assert names[0] == names[1]
    try:
        match changed:
            case "constant in the code":
                attempt(factor=3.0)
            case "shape":
                attempt(example=torch.zeros(5))
            case "dtype":
                attempt(example=torch.zeros(4, dtype=torch.float64))
            case "threads":
                torch.set_num_threads(before + 1)
                attempt()
    finally:
        torch.set_num_threads(before)
    assert names[2] != names[0]


def test_functions_that_differ_in_a_constant_tensor_are_told_apart(cache_names):
    """A network may make a tensor of its settings, such as a scale for each observation."""
    names = cache_names

    def scaled_by(scale):
        return lambda x: x * torch.tensor(scale)

    for scale in ([2.0, 3.0], [5.0, 7.0]):
        with pytest.raises(CompilationError, match="not compiled in this test"):
            compile_ahead(scaled_by(scale), (), (torch.ones(2),))
    assert len(set(names)) == 2


def test_without_a_compiler_it_refuses_and_says_so(tmp_path):
    """In a process of its own: torch reads CXX once."""
    program = """
import torch
from dqn_runner.learning.compilation import CompilationError, cache_dir, compile_ahead
try:
    compile_ahead(lambda x: torch.sin(x) * 2, (), (torch.ones(3),))
except CompilationError as error:
    print("refused:", error)
print("left behind:", len(list(cache_dir().glob("*.pt2"))))
"""
    no_compiler = str(tmp_path / "no-such-compiler")
    environment = {
        **os.environ,
        "CXX": no_compiler,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor"),
    }
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    refused, left_behind = result.stdout.splitlines()
    assert refused == f"refused: there is no C++ compiler ({no_compiler})"
    assert left_behind == "left behind: 0"


def test_a_function_that_cannot_be_traced_is_refused(tmp_path, monkeypatch):
    """One whose course depends on the numbers in a tensor."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def branches(x):
        return x if x.sum() > 0 else -x

    with pytest.raises(CompilationError) as caught:
        compile_ahead(branches, (), (torch.ones(3),))
    assert 0 < len(str(caught.value)) <= 200
    assert "\n" not in str(caught.value)


def test_without_a_compiler_a_run_says_so_in_a_line_and_goes_on(
    process, quick, tmp_path, monkeypatch
):
    monkeypatch.setenv("CXX", str(tmp_path / "no-such-compiler"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # In a process of its own: torch asks for the compiler's name once, when it is imported.
    with process(*quick, "compile=always", "hydra.run.dir=run") as child:
        _, error = child.communicate(timeout=120)
    assert child.returncode == 0
    (line,) = error.splitlines()
    assert "uncompiled" in line
    assert "no-such-compiler" in line
    assert "compile: never" in (tmp_path / "run" / "config.yaml").read_text().splitlines()


@pytest.mark.slow
def test_compiled_and_plain_runs_learn_alike(train):
    """Returns over six runs each, far enough into learning for a wrong update to show."""
    settings = ("total_timesteps=4000", "batch_size=64", "buffer.capacity=10000")

    def mean_returns(mode):
        runs = [train(f"{mode}{i}", f"compile={mode}", f"seed={i}", *settings) for i in range(6)]
        results = [RunDirectory(run).read_result() for run in runs]
        return [result["final"]["mean"] for result in results if result]

    compiled, plain = mean_returns("always"), mean_returns("never")
    assert stats.mannwhitneyu(compiled, plain).pvalue > 0.01
    assert min(np.median(compiled), np.median(plain)) > 50
