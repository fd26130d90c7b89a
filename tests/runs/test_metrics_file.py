"""metrics.jsonl: read as a stream, followed as it grows, and damage told of by its line."""

from __future__ import annotations

import gzip
import json
import random
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from dqn_runner.analysis import draw_curve
from dqn_runner.analysis.runs import load_run
from dqn_runner.errors import RunError
from dqn_runner.runs import metrics_file
from dqn_runner.runs.metrics_file import (
    CHUNK,
    EVALUATION,
    LONGEST_LINE,
    MetricsFile,
    MetricsReader,
    cut,
    read_metrics,
)


def make_rows(number: int) -> list[dict[str, float]]:
    """Rows as a run writes them: an episode, an interval, every tenth an evaluation."""
    rng, rows = random.Random(number), []
    for i in range(1, number + 1):
        row: dict[str, float] = {"env_steps": 10 * i, "episodes": i}
        if i % 2:
            row |= {"rollout/episode_return": float(i), "rollout/episode_length": i}
        else:
            row |= {"train/td_loss": rng.random(), "time/elapsed_seconds": i + rng.random()}
        if i % 10 == 0:
            row |= {EVALUATION: rng.random(), "eval/episode_return_std": rng.random()}
        rows.append(row)
    return rows


def write(path: Path, rows: list[dict[str, float]]) -> list[bytes]:
    """A metrics.jsonl of these rows; returns its lines."""
    lines = [json.dumps(row).encode() + b"\n" for row in rows]
    path.write_bytes(b"".join(lines))
    return lines


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


# What may become of a line; each gives the lines in its place, and what is said of them.
DAMAGE = {
    "a byte that is no UTF-8": (lambda line: line[:9] + b"\xff" + line[10:], "utf-8"),
    "a byte that is no JSON": (lambda line: line.replace(b":", b";", 1), "Expecting ':'"),
    "a block of zeros": (lambda line: line[:20] + bytes(20) + line[40:], "control character"),
    "its end is lost": (lambda line: line[:-1] + b" ", "Extra data at column"),
    "its middle is lost": (lambda line: line[:20] + b"\n" + line[20:], ""),
    "nothing but a line end": (lambda _: b"\n", "Expecting value"),
    "too long": (lambda _: b"x" * 3 * LONGEST_LINE + b"\n", "longer than"),
    "long without an end": (lambda _: b"{" + b" " * 3 * LONGEST_LINE + b"}", "longer than"),
    "no row": (lambda _: b'["env_steps"]\n', "env_steps"),
    "no env_steps": (lambda _: b'{"episodes": 3}\n', "env_steps"),
    "no number": (lambda line: line.replace(b'"episodes": ', b'"episodes": "x'), "Expecting"),
    "a text": (lambda _: b'{"env_steps": 60, "episodes": "six"}\n', "numbers"),
    "deep": (lambda _: b'{"env_steps": ' + b"[" * 100_000 + b"\n", "deep"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("number", [0, 5, 18])
def test_damage_is_told_by_its_line_and_nothing_is_cut(metrics, kind, number):
    """Whether it comes before or after the env steps that are kept."""
    lines, (damaged, saying) = write(metrics, make_rows(20)), DAMAGE[kind]
    lines[number] = damaged(lines[number])
    metrics.write_bytes(b"".join(lines))
    line = rf"{re.escape(str(metrics))}: line {number + 1} is damaged \(.*{saying}.*copy in (\S+);"
    with pytest.raises(RunError, match=line) as caught:
        cut(metrics, 120, 12)
    assert metrics.read_bytes() == b"".join(lines)
    named = re.search(line, str(caught.value))
    assert named
    copy = metrics.with_name(named[1])
    assert copy.read_bytes() == b"".join(lines)


@pytest.mark.parametrize(
    ("number", "env_steps", "told"),
    [(4, 9950, "line 6 is damaged (env_steps 60 after 9950)"),
     (18, 10, "line 19 is damaged (env_steps 10 after 180)")],
)  # fmt: skip
def test_env_steps_that_go_back_are_damage(metrics, number, env_steps, told):
    """A changed digit leaves a row like any other, which would cut off all behind it."""
    rows = make_rows(20)
    rows[number]["env_steps"] = env_steps
    lines = write(metrics, rows)
    with pytest.raises(RunError, match=re.escape(told)):
        cut(metrics, 150, 15)
    assert metrics.read_bytes() == b"".join(lines)


TORN = [b"", b"{", b'{"env_steps": 210, "x', b'{"env_steps": 210, "\xe4\xb8', bytes(5000),
        b'{"env_steps": 2' + bytes(5000)]  # fmt: skip


@pytest.mark.parametrize("torn", TORN)
def test_a_torn_last_line_is_dropped_with_a_warning(metrics, caplog, torn):
    lines = write(metrics, make_rows(20))
    metrics.write_bytes(b"".join(lines) + torn)
    assert read_metrics(metrics) == make_rows(20)
    cut(metrics, 150, 15)
    assert metrics.read_bytes() == b"".join(lines[:15])
    assert ("torn" in caplog.text) == bool(torn)


@pytest.mark.parametrize("end", [b"", bytes(3000)])
def test_a_last_row_that_lacks_its_line_end_alone_is_kept(metrics, end):
    lines = write(metrics, make_rows(20))
    metrics.write_bytes(b"".join(lines)[:-1] + end)
    assert read_metrics(metrics) == make_rows(20)
    cut(metrics, 200, 20)
    assert metrics.read_bytes() == b"".join(lines)


@pytest.mark.parametrize("last", [b'{"env_steps": 210}\r{"env_steps": 220}', b"some other text"])
def test_a_last_line_that_no_row_begins_with_is_damage(metrics, last):
    lines = write(metrics, make_rows(20))
    metrics.write_bytes(b"".join(lines) + last)
    with pytest.raises(RunError, match="line 21 is damaged"):
        cut(metrics, 150, 15)


@pytest.mark.parametrize("left", [0, 7])
def test_rows_that_are_missing_at_the_end_are_told_of(metrics, caplog, left):
    write(metrics, make_rows(left))
    cut(metrics, 150, 15)
    assert f"the rows of episodes {left + 1} to 15 are lost" in caplog.text


def test_a_copy_of_the_damaged_file_is_made_once(metrics):
    lines = write(metrics, make_rows(20))
    metrics.write_bytes(b"".join([*lines[:5], b"bad\n", *lines[6:]]))
    damaged = metrics.read_bytes()
    for content in (damaged, b"".join([*lines[:5], b"a bad repair\n"])):
        metrics.write_bytes(content)
        with pytest.raises(RunError, match="line 6"):
            cut(metrics, 150, 15)
    (copy,) = metrics.parent.glob("metrics.jsonl.*")
    assert copy.read_bytes() == damaged


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("number", [0, 7_000])
def test_who_only_looks_reads_on_behind_damage(metrics, kind, number):
    rows = make_rows(7_500)  # more than two chunks
    lines = write(metrics, rows)
    assert metrics.stat().st_size > 2 * CHUNK
    damaged = DAMAGE[kind][0](lines[number])
    lines[number] = damaged
    metrics.write_bytes(b"".join(lines))
    lost = 1 + (not damaged.endswith(b"\n"))  # the next row too, where they became one line
    reader = MetricsReader(metrics)
    assert list(reader.new_rows()) == rows[:number] + rows[number + lost :]
    assert f"{metrics}: line {number + 1} is damaged" in reader.problem


HIDING = [b"\0", b"\n", b"\xff", b"\x1f", b'"']


@pytest.mark.parametrize("byte", HIDING)
@pytest.mark.parametrize("place", [-2, -1, 0, 12, len(EVALUATION)])
def test_no_byte_hides_a_name_that_is_looked_for(metrics, byte, place):
    """Other rows are not parsed, but a name with such a byte in it is missed."""
    rows = make_rows(100)
    lines = write(metrics, rows)
    at = lines[49].index(EVALUATION.encode()) + place
    if lines[49][at : at + 1] == byte:
        byte = b"x"
    lines[49] = lines[49][:at] + byte + lines[49][at + 1 :]
    metrics.write_bytes(b"".join(lines))
    reader = MetricsReader(metrics, EVALUATION)
    found = [row for row in reader.new_rows() if EVALUATION in row]
    assert found == [row for row in rows if EVALUATION in row and row["env_steps"] != 500]
    assert f"{metrics}: line 50 is damaged" in reader.problem


def test_only_rows_that_say_a_name_are_parsed(metrics):
    rows = make_rows(30)
    rows[12]["other"] = 1.0
    write(metrics, rows)
    found = list(MetricsReader(metrics, EVALUATION).new_rows())
    assert found == [row for row in rows if EVALUATION in row]


def test_a_growing_file_is_followed_wherever_its_lines_are_torn(metrics):
    """Each row arrives once, and only when it is whole."""
    rng, content = random.Random(3), b"".join(write(metrics, make_rows(400)))
    metrics.write_bytes(b"")
    reader = MetricsReader(metrics)
    read: list[dict[str, float]] = []
    with metrics.open("ab") as file:
        while content:
            size = rng.randint(1, 400)
            file.write(content[:size])
            file.flush()
            content = content[size:]
            assert not reader.is_rewritten()
            read += reader.new_rows()
    assert read == make_rows(400)
    assert reader.problem == ""


def test_a_file_that_was_cut_and_went_on_is_read_anew(metrics):
    rows = make_rows(40)
    write(metrics, rows)
    reader = MetricsReader(metrics)
    assert list(reader.new_rows()) == rows
    cut(metrics, 300, 30)
    assert reader.is_rewritten()
    file = MetricsFile(metrics)
    for i in range(31, 60):
        file.log({"env_steps": 10 * i, "episodes": i, "rollout/episode_return": -1.0})
    file.close()
    assert reader.is_rewritten()


def test_what_is_no_file_is_told_of(tmp_path):
    reader = MetricsReader(tmp_path / "nowhere")
    assert (list(reader.new_rows()), reader.problem) == ([], "")
    reader = MetricsReader(tmp_path)
    assert list(reader.new_rows()) == []
    assert reader.problem == f"{tmp_path}: no plain file"
    with pytest.raises(RunError, match="no plain file"):
        cut(tmp_path, 0, 0)


def large(path: Path, megabytes: int) -> int:
    """Write a metrics.jsonl of this size; returns the number of its rows."""
    rows = make_rows(10_000)
    block = "".join(json.dumps(row) + "\n" for row in rows)
    times = -(-megabytes * 1_000_000 // len(block))
    with path.open("w") as file:
        for _ in range(times):
            file.write(block)
    return times * len(rows)


@pytest.mark.parametrize("reader", ["rows", "metric", "curve"])
def test_memory_does_not_grow_with_the_file(tmp_path, metrics, reader):
    """Traced, of 10 MB: whatever is held of each row would be more than this."""
    write(metrics, make_rows(100))
    draw_curve(metrics, tmp_path / "curve.png")  # imports what it takes
    num_rows = large(metrics, 10)
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    tracemalloc.start()
    if reader == "rows":
        read = sum(1 for _ in MetricsReader(metrics).new_rows())
        assert read == num_rows
    elif reader == "metric":
        steps, _ = load_run(tmp_path).series(EVALUATION)
        assert len(steps) == num_rows // 10
    else:
        draw_curve(metrics, tmp_path / "curve.png")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    numbers = num_rows if reader == "curve" else 0  # it keeps two for each of the episodes
    assert peak < 4_000_000 + 4 * 8 * numbers


def test_cutting_a_large_file_moves_nothing(metrics):
    """It ends where it did, by truncation: the file is the same one."""
    rows = make_rows(5_000)
    lines, before = write(metrics, rows), metrics.stat()
    cut(metrics, 40_005, 4_000)
    assert metrics.stat().st_ino == before.st_ino
    assert metrics.read_bytes() == b"".join(lines[:4_000])
    assert np.array_equal([row["env_steps"] for row in read_metrics(metrics, 500)][-1], 40_000)


def compress(metrics: Path, content: bytes) -> Path:
    copy = metrics.with_name("metrics.jsonl.gz")
    copy.write_bytes(gzip.compress(content))
    return copy


def test_a_compressed_copy_is_read_where_only_that_is_there(metrics):
    rows = make_rows(2000)
    lines = write(metrics, rows)
    compress(metrics, b"".join(lines[:30]))
    assert read_metrics(metrics) == rows
    metrics.unlink()
    reader = MetricsReader(metrics)
    assert list(reader.new_rows()) == rows[:30]
    assert not reader.is_rewritten()
    compress(metrics, b"".join(lines))
    assert not reader.is_rewritten()
    assert list(reader.new_rows()) == rows[30:]
    assert read_metrics(metrics, tail=400) == rows[-(400 // len('{"env_steps":1}\n')) :]


def test_a_run_that_goes_on_does_not_cut_a_compressed_copy(metrics):
    copy = compress(metrics, b"".join(write(metrics, make_rows(9))))
    metrics.unlink()
    before = copy.read_bytes()
    cut(metrics, 0, 0)
    assert (metrics.read_bytes(), copy.read_bytes()) == (b"", before)


def test_a_compressed_copy_that_is_replaced_by_a_damaged_one(metrics):
    copy = compress(metrics, b"".join(write(metrics, make_rows(2000))))
    metrics.unlink()
    reader = MetricsReader(metrics)
    list(reader.new_rows())
    copy.write_bytes(copy.read_bytes()[:100])
    assert not reader.is_rewritten()  # what was read stays valid
    assert list(MetricsReader(metrics).new_rows()) == []


def test_a_small_file_of_endless_rows_is_not_read_to_its_end(metrics, monkeypatch):
    monkeypatch.setattr(metrics_file, "LARGEST_COMPRESSED", 4 * CHUNK)
    copy = compress(metrics, b'{"env_steps": 1}\n' * (40 * CHUNK // 17))
    assert copy.stat().st_size < CHUNK
    reader = MetricsReader(metrics)
    count = sum(1 for _ in reader.new_rows())
    assert 4 * CHUNK // 17 <= count <= 6 * CHUNK // 17
    assert reader.problem == f"{copy}: larger than {4 * CHUNK:,} bytes"
    assert len(read_metrics(metrics, tail=1700)) <= 1700 // 15
