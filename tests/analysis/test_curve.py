"""curve.png: what is drawn, against the rows it is drawn from."""

import itertools
import json
import sys
import time
import types

import numpy as np
import pytest
from filelock import FileLock
from matplotlib.axes import Axes

from dqn_runner.analysis.curve import draw_curve, few, moving_mean, show_live


@pytest.mark.parametrize("window", [1, 3, 100])
@pytest.mark.parametrize("length", [0, 1, 2, 250])
def test_moving_mean_is_the_mean_of_the_values_so_far_up_to_the_window(window, length):
    values = np.random.default_rng(0).normal(100, 50, size=length)
    expected = [values[max(0, t + 1 - window) : t + 1].mean() for t in range(length)]
    np.testing.assert_allclose(moving_mean(values, window, np.arange(length)), expected, rtol=1e-12)


def test_episodes_their_mean_and_evaluations_are_drawn(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    returns, steps = rng.integers(500, size=150), np.arange(1, 151) * 20
    rows = [
        {"env_steps": int(s), "episodes": i + 1, "rollout/episode_return": float(r)}
        for i, (s, r) in enumerate(zip(steps, returns, strict=True))
    ]
    rows.insert(10, {"env_steps": 205, "episodes": 10, "train/epsilon": 0.5})
    for at in (1000, 2000):
        spread = {"eval/episode_return_mean": at / 10, "eval/episode_return_std": at / 100}
        rows.append({"env_steps": at, "episodes": 0, **spread})
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines, bars = [], []
    plot, errorbar = Axes.plot, Axes.errorbar

    def log_plot(self, x, y, *rest, **style):
        if "label" in style:  # not those that error bars are made of
            lines.append((np.asarray(x), np.asarray(y)))
        return plot(self, x, y, *rest, **style)

    def log_errorbar(self, x, y, *, yerr, **style):
        bars.append((list(x), list(y), list(yerr)))
        return errorbar(self, x, y, yerr=yerr, **style)

    monkeypatch.setattr(Axes, "plot", log_plot)
    monkeypatch.setattr(Axes, "errorbar", log_errorbar)
    draw_curve(metrics, tmp_path / "curve.png")
    (x, y), (mean_x, mean_y) = lines[:2]
    assert x.tolist() == mean_x.tolist() == steps.tolist()
    assert y.tolist() == returns.tolist()
    assert mean_y[49] == pytest.approx(returns[:50].mean())
    assert mean_y[149] == pytest.approx(returns[50:].mean())
    assert bars == [([1000.0, 2000.0], [100.0, 200.0], [10.0, 20.0])]
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_says_which_lines_are_missing(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(Axes, "set_title", lambda self, text, **style: titles.append(text))
    metrics = tmp_path / "metrics.jsonl"
    row = '{"env_steps": 5, "episodes": 1, "rollout/episode_return": 1.0}\n'
    for content in (row, row + "bad\n" + row):
        metrics.write_text(content)
        draw_curve(metrics, tmp_path / "curve.png")
    assert titles[0] == ""
    assert titles[1].startswith(f"{metrics}: line 2 is damaged")


@pytest.mark.parametrize("length", [0, 1, 100, 101, 5000])
def test_few_points_have_the_outline_of_many(length):
    rng, most = np.random.default_rng(0), 100
    values, steps = rng.normal(size=length), np.sort(rng.integers(10**6, size=length)).astype(float)
    picked = few(steps, values, most)
    assert len(picked) <= most
    assert (np.diff(picked) > 0).all()
    if length <= most:
        assert picked.tolist() == list(range(length))
        return
    edges = np.linspace(steps[0], steps[-1], most // 2 + 1)
    for low, high in itertools.pairwise(edges):
        inside = (steps >= low) & ((steps < high) | (high == edges[-1]))
        if inside.any():
            shown = values[picked[inside[picked]]]
            assert (shown.min(), shown.max()) == (values[inside].min(), values[inside].max())


def test_a_run_without_an_episode_or_an_evaluation_has_a_curve(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"env_steps": 5, "episodes": 0}\n')
    draw_curve(tmp_path / "metrics.jsonl", tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_notebook_shows_a_run_until_it_ends(tmp_path, monkeypatch):
    """With a stand-in for IPython, which the tests do not need otherwise."""
    shown, sleeps = [], []

    class Handle:
        def update(self, picture):
            shown.append(picture)

    def display(picture, display_id):
        shown.append(picture)
        return Handle()

    notebook = types.SimpleNamespace(
        display=display,
        Image=lambda data, format: (format, data[:4]),
    )
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    (tmp_path / "metrics.jsonl").write_text(
        '{"env_steps": 9, "episodes": 1, "rollout/episode_return": 9.0}\n'
    )
    lock = FileLock(tmp_path / ".lock")
    lock.acquire()

    def sleep(seconds):
        sleeps.append(seconds)
        if len(sleeps) == 2:
            lock.release()

    monkeypatch.setattr(time, "sleep", sleep)
    show_live(tmp_path, 3.0)
    assert shown == [("png", b"\x89PNG")] * 3
    assert sleeps == [3.0, 3.0]
