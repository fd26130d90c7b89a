"""Checkpoint files: what is saved is what is read, and a broken one is told apart."""

import numpy as np
import pytest
import torch

from dqn_runner.buffers.rows import RowStorage
from dqn_runner.errors import RunError
from dqn_runner.training import checkpoint
from dqn_runner.training.checkpoint import Checkpoints, load, save
from dqn_runner.types import ObsSpec


def some_state(seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        "env_steps": 1000 + seed,
        "episodes": seed,
        "agent": {
            "params": torch.randn(37, generator=generator),
            "slots": torch.randn(2, 37, generator=generator, dtype=torch.float64),
            "num_updates": torch.tensor(12.0),
            "empty": None,
            "names": ["a", "b"],
        },
    }


class SomeBuffer:
    """A ring of one column, of which each transition is its own number."""

    row_bytes = 8

    def __init__(self, capacity=8):
        self.capacity, self.size, self.num_added = capacity, 0, 0
        self.column = torch.zeros(capacity, dtype=torch.int64)

    def add(self, count):
        for _ in range(count):
            self.column[self.num_added % self.capacity] = self.num_added
            self.num_added += 1
            self.size = min(self.size + 1, self.capacity)

    def get_state(self):
        return {"size": self.size, "num_added": self.num_added}

    def set_state(self, state):
        self.size, self.num_added = state["size"], state["num_added"]

    def rows(self, first, last):
        return [self.column[torch.arange(first, last) % self.capacity]]

    def set_rows(self, first, last, columns):
        self.column[torch.arange(first, last) % self.capacity] = columns[0]


def test_replay_is_saved_in_chunks_of_what_is_new(tmp_path):
    checkpoints, buffer = Checkpoints(tmp_path), SomeBuffer()
    saved = []
    for count in (3, 0, 4, 5, 20, 2):
        buffer.add(count)
        checkpoints.save_last(some_state(1), {"replay": buffer})
        saved.append(sorted(path.name for path in (tmp_path / "replay").iterdir()))
        loaded = SomeBuffer()
        Checkpoints(tmp_path).load_replay(load(tmp_path / "last.pt"), {"replay": loaded})
        assert torch.equal(loaded.column, buffer.column)
        assert loaded.get_state() == buffer.get_state()
    # Of a ring of eight; what previous.pt still needs is kept as well.
    assert saved == [
        ["0-3.pt"],
        ["0-3.pt"],
        ["0-3.pt", "3-7.pt"],
        ["0-3.pt", "3-7.pt", "7-12.pt"],
        ["24-32.pt", "3-7.pt", "7-12.pt"],
        ["24-32.pt", "32-34.pt"],
    ]


def test_of_a_million_transitions_a_checkpoint_writes_what_is_new(tmp_path, monkeypatch):
    """That is what holds up training: bytes out of the buffer and into files."""
    buffer = RowStorage(1_000_000, ObsSpec((4,), np.dtype(np.float32)), torch.device("cpu"))
    for column in buffer.tensors:
        column.zero_()
    buffer.set_state({"size": 1_000_000, "write_head": 0, "num_added": 1_000_000})
    written, read, write = [], [], checkpoint._write

    def counted(path, content):
        written.append(len(content))
        write(path, content)

    def rows(first, last):
        read.append(last - first)
        return RowStorage.rows(buffer, first, last)

    monkeypatch.setattr(checkpoint, "_write", counted)
    monkeypatch.setattr(buffer, "rows", rows)
    checkpoints = Checkpoints(tmp_path)
    for _ in range(4):
        buffer.num_added += 10_000
        written.clear()
        checkpoints.save_last(some_state(1), {"replay": buffer})
        # A transition takes 48 bytes. The first checkpoint has a million of them to write.
        assert sum(written) < 48 * read[-1] + 20_000
    assert read == [1_000_000, 10_000, 10_000, 10_000]


def test_what_is_much_is_written_in_pieces_as_it_comes(tmp_path, monkeypatch):
    """Of a ring of eight with eight bytes a row, five rows are much; what nothing needs goes."""
    monkeypatch.setattr(checkpoint, "PIECE", 40)
    checkpoints, rings = Checkpoints(tmp_path), {"replay": SomeBuffer(), "frames": SomeBuffer()}
    saved = []

    def files():
        return sorted(path.name for path in (tmp_path / "replay").glob("*"))

    for number in range(1, 34):
        for ring in rings.values():
            ring.add(1)
        checkpoints.save_pieces(rings)
        if number in (12, 14, 33):
            saved.append(files())
            checkpoints.save_last(some_state(number), rings)
            saved.append(files())
            loaded = {name: SomeBuffer() for name in rings}
            Checkpoints(tmp_path).load_replay(load(tmp_path / "last.pt"), loaded)
            for name, ring in rings.items():
                assert torch.equal(loaded[name].column, ring.column)
    assert saved == [
        ["0-5.pt", "5-10.pt"],
        ["0-5.pt", "10-12.pt", "5-10.pt"],
        ["0-5.pt", "10-12.pt", "5-10.pt"],
        ["0-5.pt", "10-12.pt", "12-14.pt", "5-10.pt"],  # previous.pt needs the first
        # So does it here; last.pt needs three that the ring has written over since.
        ["0-5.pt", "10-12.pt", "12-14.pt", "19-24.pt", "24-29.pt", "5-10.pt"],
        ["10-12.pt", "12-14.pt", "24-29.pt", "29-33.pt", "5-10.pt"],
    ]


def assert_same(loaded, state):
    assert {key: loaded[key] for key in ("env_steps", "episodes")} == {
        key: state[key] for key in ("env_steps", "episodes")
    }
    assert loaded["agent"].keys() == state["agent"].keys()
    for key, value in state["agent"].items():
        if isinstance(value, torch.Tensor):
            assert loaded["agent"][key].dtype == value.dtype
            assert torch.equal(loaded["agent"][key], value)
        else:
            assert loaded["agent"][key] == value


def test_what_is_loaded_is_what_was_saved(tmp_path):
    save(some_state(1), tmp_path / "x.pt")
    assert_same(load(tmp_path / "x.pt"), some_state(1))
    assert not list(tmp_path.glob("*partial*"))


def test_torch_reads_the_file_with_weights_only(tmp_path):
    save(some_state(2), tmp_path / "x.pt")
    assert_same(torch.load(tmp_path / "x.pt", weights_only=True), some_state(2))


def test_the_former_last_becomes_previous(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    folder = tmp_path / "checkpoints"
    checkpoints.save_last(some_state(1), {"replay": SomeBuffer()})
    assert not (folder / "previous.pt").exists()
    checkpoints.save_last(some_state(2), {"replay": SomeBuffer()})
    assert load(folder / "last.pt")["episodes"] == 2
    assert load(folder / "previous.pt")["episodes"] == 1
    checkpoints.save_last(some_state(3), {"replay": SomeBuffer()})
    assert load(folder / "last.pt")["episodes"] == 3
    assert load(folder / "previous.pt")["episodes"] == 2


def test_best_is_overwritten_and_disturbs_no_other(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save_last(some_state(1), {"replay": SomeBuffer()})
    checkpoints.save_best(some_state(2))
    checkpoints.save_best(some_state(3))
    assert load(tmp_path / "best.pt")["episodes"] == 3
    assert load(tmp_path / "last.pt")["episodes"] == 1
    assert not (tmp_path / "previous.pt").exists()


def test_an_existing_folder_is_taken_up_again(tmp_path):
    Checkpoints(tmp_path / "c").save_last(some_state(1), {"replay": SomeBuffer()})
    Checkpoints(tmp_path / "c").save_last(some_state(2), {"replay": SomeBuffer()})
    assert load(tmp_path / "c" / "previous.pt")["episodes"] == 1


def test_a_save_that_fails_leaves_the_former_file(tmp_path):
    save(some_state(1), tmp_path / "x.pt")
    with pytest.raises(Exception, match="pickle"):
        save({"agent": lambda: None}, tmp_path / "x.pt")
    assert_same(load(tmp_path / "x.pt"), some_state(1))


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(RunError, match=r"nowhere\.pt"):
        load(tmp_path / "nowhere.pt")
    with pytest.raises(RunError):
        load(tmp_path)


def damage(content, how):
    middle = len(content) // 2
    return {
        "empty": b"",
        "text": b"this is no checkpoint",
        "half": content[:middle],
        "without its end": content[:-10],
    }[how]


@pytest.mark.parametrize("how", ["empty", "text", "half", "without its end"])
def test_a_damaged_checkpoint_is_a_run_error_that_names_it(tmp_path, how):
    path = tmp_path / "x.pt"
    save(some_state(1), path)
    path.write_bytes(damage(path.read_bytes(), how))
    with pytest.raises(RunError, match=r"x\.pt"):
        load(path)


def test_a_flipped_bit_among_the_weights_is_noticed(tmp_path):
    path = tmp_path / "x.pt"
    weights = torch.arange(1000.0) + 0.5
    save({"agent": {"params": weights}}, path)
    content = bytearray(path.read_bytes())
    start = content.index(np.arange(500, 520, dtype=np.float32).__add__(0.5).tobytes())
    content[start + 2] ^= 0x10
    path.write_bytes(bytes(content))
    with pytest.raises(RunError, match=r"x\.pt"):
        load(path)


@pytest.mark.parametrize("content", [{"agent": 1}, [1, 2], torch.zeros(3)])
def test_a_torch_file_that_is_no_checkpoint_is_a_run_error(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(RunError, match=r"x\.pt"):
        load(tmp_path / "x.pt")


def test_a_checkpoint_of_another_format_is_refused(tmp_path):
    torch.save({"format_version": 99}, tmp_path / "x.pt")
    with pytest.raises(RunError, match="99"):
        load(tmp_path / "x.pt")


def test_a_file_that_holds_code_is_not_run(tmp_path, capsys):
    class Payload:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save({"format_version": 1, "agent": Payload()}, tmp_path / "x.pt")
    with pytest.raises(RunError):
        load(tmp_path / "x.pt")
    assert "executed" not in capsys.readouterr().out
