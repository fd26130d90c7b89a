"""A run directory that somebody sent: read without executing anything from it, or refused."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from building import build
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from dqn_runner import load_policy
from dqn_runner.analysis import compare, load_runs
from dqn_runner.compare import command_line as compare_line
from dqn_runner.config.root import read
from dqn_runner.errors import DQNRunnerError, RunError
from dqn_runner.evaluate import command_line as evaluate_line
from dqn_runner.program import guarded
from dqn_runner.runs.directory import RunDirectory
from dqn_runner.runs.lifecycle import resume
from dqn_runner.tracking import cloud
from dqn_runner.training.checkpoint import Checkpoints, load
from dqn_runner.training.state import restore
from dqn_runner.types import Progress

FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def honest(tmp_path_factory, compose):
    """The directory of a short run."""
    from dqn_runner.runs import lifecycle as run

    path = tmp_path_factory.mktemp("hostile") / "honest"
    run.run(compose("network.norm=none"), path, Console(quiet=True))
    (path / ".hydra").mkdir()
    return path


@pytest.fixture
def sent(honest, tmp_path):
    """A copy of it to tamper with."""
    return Path(shutil.copytree(honest, tmp_path / "sent"))


def change_config(path: Path, **sections: object) -> None:
    config = yaml.safe_load((path / "config.yaml").read_text())
    (path / "config.yaml").write_text(yaml.safe_dump({**config, **sections}))


class Trap:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_a_checkpoint_executes_nothing(sent, tmp_path, capsys, name):
    trace = tmp_path / "trace"
    path = sent / "checkpoints" / name
    torch.save({"format_version": 2, "env_steps": 1, "agent": Trap(trace)}, path)
    (sent / "checkpoints" / f"{name}.sha256").unlink()
    checkpoint = name.removesuffix(".pt")
    code = guarded("dqn-eval", evaluate_line, [str(sent), "--checkpoint", checkpoint])
    assert code == 2
    assert "not a checkpoint" in capsys.readouterr().err
    assert not trace.exists()
    pickle.loads(pickle.dumps(Trap(trace)))  # the trap works
    assert trace.exists()


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ({"network": {"name": "trap_module:Net"}}, "trap_module:Net"),
        ({"epsilon": {"name": "trap_module:Schedule"}}, "trap_module:Schedule"),
        ({"env": {"id": "trap_module:Env-v0"}}, "trap_module:Env-v0"),
        ({"env": {"id": "CartPole-v1", "wrappers": ["trap_module:W"]}}, "trap_module:W"),
        ({"env": {"id": "CartPole-v1", "wrappers": [{"name": "os:system"}]}}, "os:system"),
        (
            {
                "tracker": {
                    "mode": "online",
                    "project": "p",
                    "workspace": None,
                    "name": None,
                    "description": None,
                    "group": None,
                    "job_type": None,
                    "tags": [],
                    "host": "https://evil.example",
                }
            },
            "https://evil.example",
        ),
    ],
)
@pytest.mark.parametrize("program", ["dqn-eval", "resume"])
def test_a_config_imports_nothing_without_trust(sent, command, program, section, named, capsys):
    Path("trap_module.py").write_text("open('trace', 'w')\n")
    change_config(sent, **section)
    if program == "dqn-eval":
        code = guarded("dqn-eval", evaluate_line, [str(sent)])
        err = capsys.readouterr().err
    else:
        code, _, err = command(f"resume={sent}")
    assert code == 2
    assert f"names what lies outside of this package ({named}); --trust" in err
    assert not Path("trace").exists()


INDENTED_IMPORT = re.compile(rb"^[ \t]+(?:import|from)[ \t]+([A-Za-z]\w*)", re.MULTILINE)


def optional_modules() -> list[str]:
    """What the installed packages import somewhere inside their modules, and is not there."""
    names: set[str] = set()
    for source in Path(torch.__file__).parents[1].rglob("*.py"):
        if "/ray/" not in str(source):  # large, and nothing that reads a run imports it
            names.update(name.decode() for name in INDENTED_IMPORT.findall(source.read_bytes()))
    names -= sys.stdlib_module_names
    return sorted(name for name in names if importlib.util.find_spec(name) is None)


READERS = """
import os, signal, sys, threading, urllib.request
from dqn_runner import compare, dashboard, evaluate, train

def visit(address):
    def look():
        urllib.request.urlopen(address).read()
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=look).start()

dashboard.open_browser = visit
sys.argv[0] = "dqn"
for module, *arguments in (
    (evaluate, ".", "--episodes", "1", "--videos", "0"),
    (evaluate, ".", "--episodes", "1", "--max-steps", "3"),
    (train, "resume=.", "total_timesteps=310"),
    (compare, "."),
    (dashboard, "."),
):
    print(train.guarded(module.__name__, module.command_line, arguments), "of", module.__name__)
import dqn_runner
print(dqn_runner.load_policy(".").env_steps, "env steps")
"""


@pytest.mark.slow
def test_a_run_directory_full_of_modules_is_read_and_none_of_them_imported(sent, tmp_path):
    """Those for which installed packages look, such as Pillow's plugins for olefile."""
    trace, names = tmp_path / "trace", optional_modules()
    assert {"olefile", "cv2"} & set(names)
    for name in names:
        (sent / f"{name}.py").write_text(f"open({str(trace)!r}, 'a').write({name!r} + ' ')\n")
    config = yaml.safe_load((sent / "config.yaml").read_text())
    change_config(sent, tracker={**config["tracker"], "mode": "offline"})
    # As `python -c`, which looks for modules in the working directory before all else.
    done = subprocess.run(
        [sys.executable, "-c", READERS], cwd=sent, capture_output=True, text=True, check=False
    )
    assert not trace.exists(), trace.read_text()
    said = [line for line in done.stdout.splitlines() if " of dqn_runner" in line]
    assert said == [
        "0 of dqn_runner.evaluate", "0 of dqn_runner.evaluate", "0 of dqn_runner.train",
        "0 of dqn_runner.compare", "130 of dqn_runner.dashboard",
    ], done.stderr  # fmt: skip
    assert done.stdout.endswith("310 env steps\n")


def test_processes_of_environments_import_nothing_from_the_run_directory(sent, tmp_path):
    trace = tmp_path / "trace"
    for name in ("multiprocessing", "pickle", "gymnasium", "signal"):
        (sent / f"{name}.py").write_text(f"open({str(trace)!r}, 'a').write({name!r} + ' ')\n")
    env = yaml.safe_load((sent / "config.yaml").read_text())["env"]
    change_config(sent, env={**env, "vectorization": "processes"})
    command = "from dqn_runner.train import main; main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", command, "resume=.", "total_timesteps=310"],
        cwd=sent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not trace.exists(), trace.read_text()


def read_with(program: str, run: Path, command: Callable[..., Any], capsys: Any) -> tuple[int, str]:
    """Read a trusted run with a command or from Python: its exit code, and what was wrong."""
    if program == "resume":
        code, _, err = command(f"resume={run}", "total_timesteps=310", "--trust")
        return code, err
    arguments = [str(run), "--episodes", "1", "--videos", "0", "--trust"]
    return guarded("dqn-eval", evaluate_line, arguments), capsys.readouterr().err


NETWORK = """
import torch
open({trace!r}, 'w')

class Net(torch.nn.Sequential):
    def __init__(self, obs_shape, num_actions):
        super().__init__(torch.nn.Linear(*obs_shape, 128), torch.nn.ReLU(),
                         torch.nn.Linear(128, 128), torch.nn.ReLU(),
                         torch.nn.Linear(128, num_actions))
"""


@pytest.mark.parametrize("program", ["dqn-eval", "resume"])
@pytest.mark.parametrize("inside", [".", "checkpoints", "../cwd"])
def test_modules_are_found_where_the_user_is_but_not_in_the_run(
    sent, command, capsys, monkeypatch, tmp_path, program, inside
):
    """Even with --trust, and where Python itself was told to look there."""
    trace, cwd = tmp_path / "trace", (sent / inside).resolve()
    (cwd / "users_own.py").write_text(NETWORK.format(trace=str(trace)))
    change_config(sent, network={"name": "users_own:Net"})
    monkeypatch.chdir(cwd)
    if inside != "../cwd":
        monkeypatch.setattr(sys, "path", ["", str(cwd), *sys.path])
    code, err = read_with(program, sent, command, capsys)
    sys.modules.pop("users_own", None)
    if inside == "../cwd":
        assert (code, err) == (0, "")
        assert trace.exists()
    else:
        assert code == 2
        assert "network.name=users_own:Net: cannot be imported: ModuleNotFoundError" in err
        assert not trace.exists()


@pytest.mark.parametrize("name", [".env", "swanlab.yaml", ".swanlab/config.yml"])
@pytest.mark.parametrize("program", ["resume", "dqn-eval", "load_policy", "upload"])
def test_a_run_cannot_send_the_users_key_to_a_server_of_its_own(
    sent, command, program, name, capsys, monkeypatch
):
    """SwanLab believes such a file in the working directory; the user is in the run's videos/."""
    elsewhere = "http://127.0.0.1:9"
    yaml_or_env = f"SWANLAB_API_HOST={elsewhere}" if name == ".env" else f"api_host: {elsewhere}"
    place = sent / "videos"
    (place / name).parent.mkdir(parents=True)
    (place / name).write_text(yaml_or_env + "\n")
    monkeypatch.setenv("SWANLAB_API_KEY", "secret")
    monkeypatch.chdir(place)
    assert cloud.find_server(None).host == elsewhere  # what would be believed
    attempts = {
        "resume": lambda: resume(sent, {"total_timesteps": 400}, Console(quiet=True)),
        "dqn-eval": lambda: evaluate_line([str(sent)]),
        "load_policy": lambda: load_policy(sent),
        "upload": lambda: cloud.upload({sent: ""}, None, 1.0, Console(quiet=True)),
    }
    with pytest.raises(RunError, match=f"{name}: SwanLab would take its server and key"):
        attempts[program]()
    assert not (sent / "swanlab").exists()


def test_the_working_directory_is_searched_only_where_something_is_named(sent, command, capsys):
    before = list(sys.path)
    for program in ("dqn-eval", "resume"):
        assert read_with(program, sent, command, capsys)[0] == 0
    assert sys.path == before


@pytest.mark.parametrize(
    "name", ["train.log", "started.jsonl", "metrics.jsonl", "config.yaml.partial",
             "checkpoints/replay", "checkpoints/last.pt", "checkpoints/last.pt.partial",
             "swanlab", "videos"],
)  # fmt: skip
def test_nothing_is_written_or_removed_through_a_link(sent, tmp_path, command, capsys, name):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "thesis.tex").write_text("mine")
    link = sent / name
    if link.is_dir():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.symlink_to(outside if "." not in link.name else outside / "thesis.tex")
    (sent / "result.json").unlink()
    outcome = command(f"resume={sent}")
    assert outcome.code == 2
    assert f"{link}: a link or no plain file" in outcome.err
    assert guarded("dqn-eval", evaluate_line, [str(sent)]) == 2
    assert [path.name for path in outside.iterdir()] == ["thesis.tex"]
    assert (outside / "thesis.tex").read_text() == "mine"


def test_a_pipe_in_place_of_a_file_hangs_nothing(sent):
    (sent / "metrics.jsonl").unlink()
    os.mkfifo(sent / "metrics.jsonl")
    compare(load_runs([sent]))
    with pytest.raises(DQNRunnerError, match="no plain file"):
        load_policy(sent)


def test_replay_chunks_stay_inside_the_directory(sent, tmp_path):
    path = sent / "checkpoints" / "last.pt"
    state = torch.load(path, weights_only=True)
    content = b"nothing to be read"
    (tmp_path / "sent" / "x-5.pt").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    state["replay"]["chunks"] = [("../../x", 5, digest)]
    torch.save(state, path)
    path.with_name("last.pt.sha256").unlink()
    (sent / "checkpoints" / "previous.pt").unlink()
    with pytest.raises(DQNRunnerError, match="fit"):
        Checkpoints(sent / "checkpoints").load_last()


def test_a_bomb_of_aliases_is_refused(sent):
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    (sent / "config.yaml").write_text("\n".join(lines))
    (run,) = load_runs([sent])
    assert (run.status, run.config) == ("unreadable", {})
    assert "aliases" in run.problem
    with pytest.raises(DQNRunnerError, match="aliases"):
        load_policy(sent)


@pytest.mark.parametrize("name", ["config.yaml", "result.json"])
@pytest.mark.parametrize(
    "content", ["[" * 200_000, "x" * (2**18 + 1), "- " * 50_000, "\x00", "[]", '"a"']
)
def test_huge_deep_and_odd_files_are_errors(sent, capsys, name, content):
    (sent / name).write_text(content)
    (run,) = load_runs([sent])
    assert (run.status, run.config) == ("unreadable", {})
    assert guarded("dqn-compare", compare_line, [str(sent), "--no-figures"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_folders_in_place_of_files(sent, capsys):
    for name in ("config.yaml", "metrics.jsonl", "result.json"):
        (sent / name).unlink()
        (sent / name).mkdir()
    (run,) = load_runs([sent])
    assert run.status == "unreadable"
    assert guarded("dqn-eval", evaluate_line, [str(sent)]) == 2


@pytest.mark.parametrize("content", [b"", b"\xff", b"[", b"{}", b'{"status": 3, "reason": "x"}'])
def test_an_end_that_cannot_be_read_is_a_failure(sent, content):
    """A run that may not have been pruned is run again."""
    (sent / "ended.json").write_bytes(content)
    end = RunDirectory(sent).read_end()
    assert end is not None
    assert (end.status, "ended.json is damaged" in end.reason) == ("failed", True)


@pytest.mark.parametrize("content", [b"", b"\xff", b"../../elsewhere"])
def test_an_id_of_swanlab_that_cannot_be_read_is_told_of(sent, caplog, content):
    (sent / "swanlab").mkdir()
    (sent / "swanlab" / "run_id").write_bytes(content)
    assert RunDirectory(sent).forget_swanlab_run() is None
    assert "run_id holds no id" in caplog.text


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
LINES = st.lists(
    st.one_of(
        st.binary(max_size=40),
        JSON.map(lambda value: json.dumps(value).encode()),
        st.fixed_dictionaries(
            {}, optional={"env_steps": JSON, "eval/episode_return_mean": JSON}
        ).map(lambda value: json.dumps(value).encode()),
    ),
    max_size=6,
)


@FUZZ
@given(lines=LINES)
def test_any_metrics_are_compared_or_left_out(sent, lines):
    (sent / "result.json").unlink(missing_ok=True)
    (sent / "metrics.jsonl").write_bytes(b"\n".join(lines))
    compare(load_runs([sent]))


@FUZZ
@given(result=JSON, config=JSON)
def test_any_result_and_config_are_compared_or_left_out(sent, result, config):
    (sent / "result.json").write_text(json.dumps(result))
    compare(load_runs([sent]))
    (sent / "config.yaml").write_text(json.dumps(config))
    compare(load_runs([sent]))


@FUZZ
@given(data=st.data())
def test_any_bytes_in_a_checkpoint_load_or_raise_our_error(sent, data):
    path = sent / "checkpoints" / "last.pt"
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    damaged = sent / "damaged.pt"
    damaged.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        load(damaged)
    except DQNRunnerError:
        return


@FUZZ
@given(value=JSON, key=st.sampled_from(["agent", "progress", "envs", "assembler", "best",
                                        "streams", "replay"]))  # fmt: skip
def test_any_state_is_restored_or_refused(sent, value, key):
    path = sent / "checkpoints" / "last.pt"
    state = torch.load(path, weights_only=True)
    checkpoints = Checkpoints(sent / "checkpoints")
    (sent / "checkpoints" / "last.pt.sha256").unlink(missing_ok=True)
    torch.save({**state, key: value}, path)
    (sent / "checkpoints" / "previous.pt").unlink(missing_ok=True)
    config = read(sent / "config.yaml")
    try:
        _, parts = build(config, RunDirectory(sent))
        if state := checkpoints.load_last():
            restore(parts, Progress(), state)
    except DQNRunnerError:
        pass
    finally:
        torch.save(state, path)


@FUZZ
@given(config=JSON, key=st.sampled_from(["env", "agent", "network", "epsilon", "buffer", "seed"]))
def test_any_config_is_read_or_refused(sent, honest, config, key):
    shutil.copy(honest / "config.yaml", sent / "config.yaml")
    change_config(sent, **{key: config})
    try:
        seed = read(sent / "config.yaml").seed
    except DQNRunnerError:
        with pytest.raises(DQNRunnerError):
            load_policy(sent)
    else:  # a whole number, which only a seed may be
        assert (key, seed) == ("seed", config)
        load_policy(sent)
