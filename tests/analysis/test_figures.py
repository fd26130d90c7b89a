"""The figures of a comparison: what they show, and that all of it can be read."""

from __future__ import annotations

import base64
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from run_dirs import write_run, write_sweep, write_two_environments
from scipy import stats

from dqn_runner.analysis import Options, compare, figures, load_runs
from dqn_runner.analysis.figures import FORMATS, STYLES, save
from dqn_runner.analysis.picture import text_width, wrapped

RNG = np.random.default_rng(0)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return write_sweep(tmp_path / "sweep")


@pytest.fixture
def two_environments(tmp_path: Path) -> Path:
    return write_two_environments(tmp_path / "two")


def steps_of(axes: Axes, label: str) -> tuple[np.ndarray, np.ndarray]:
    """The points of the line with this label."""
    (line,) = (line for line in axes.get_lines() if line.get_label() == label)
    return np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)


def texts(figure: Figure) -> list[tuple[Text, Bbox]]:
    """Every text that is drawn, and its place in pixels."""
    drawn, draw = [], Text.draw

    def noted(text, renderer, *arguments):
        drawn.append(text)
        draw(text, renderer, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", noted)
        figure.draw_without_rendering()
    seen = (text for text in drawn if text.get_visible() and text.get_text().strip())
    return [(text, text.get_window_extent()) for text in dict.fromkeys(seen)]


def test_learning_curves_are_the_mean_of_each_group(sweep):
    axes = figures(compare(load_runs([sweep])))["learning_curves"].axes[0]
    np.testing.assert_allclose(steps_of(axes, "agent.lr=0.01 (n=6)")[1], [10.0, 302.5, 297.5])
    np.testing.assert_allclose(steps_of(axes, "agent.lr=0.001 (n=6)")[1], [10.0, 202.5, 197.5])


def test_every_title_has_the_environment_and_n(sweep):
    for name, figure in figures(compare(load_runs([sweep]))).items():
        assert figure.get_suptitle().splitlines()[0] == "CartPole-v1, n = 6 seeds", name
    write_run(sweep / "seventh", [10.0], 500.0, seed=6)
    for name, figure in figures(compare(load_runs([sweep]))).items():
        assert figure.get_suptitle().splitlines()[0] == "CartPole-v1, n = 6–7 seeds", name


def test_a_threshold_is_labelled_with_its_value(sweep):
    options = Options(thresholds={"*": 432.5})
    figure = figures(compare(load_runs([sweep]), options))["learning_curves"]
    (axes,) = figure.axes
    (text,) = (text for text in axes.texts if "threshold" in text.get_text())
    assert text.get_text() == "threshold 432.5"
    (line,) = (line for line in axes.get_lines() if set(np.asarray(line.get_ydata())) == {432.5})
    figure.draw_without_rendering()
    above = axes.transData.transform((0, 432.5))[1]
    assert 0 < text.get_window_extent().y0 - above < 10  # pixels: the text stands on the line
    assert line.get_visible()


LONG = {  # with these the name of a group has far more than 70 characters
    "network__name": "a_package_of_my_own.networks:ANetworkWithALongName",
    "network__hidden_sizes": [64, 128, 256, 128, 64],
    "network__activation": "relu",
}


def write_groups(path: Path, amount: int) -> Path:
    """Groups that differ in five settings, and whose names are long."""
    for i in range(amount):
        settings = LONG | {
            "network__name": f"{LONG['network__name']}{i}",
            "network__hidden_sizes": [64, 128 + i % 2, 256, 128, 64],
            "network__activation": ("relu", "silu")[i // 2 % 2],
            "agent__n_step": 1 + i % 3,
        }
        for seed in range(2):
            curve = [10.0 * (i + 1), 20.0 * (i + 1) + seed]
            write_run(
                path / f"{i} {seed}", curve, curve[1], seed=seed, agent__lr=10.0**-i, **settings
            )
    return path


@pytest.mark.parametrize("style", list(STYLES))
@pytest.mark.parametrize("amount", [1, 3, 12])
def test_no_label_is_cut_and_no_panel_squeezed(tmp_path, amount, style):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = figures(compare(load_runs([write_groups(tmp_path, amount)])), style)
    assert len(drawn) == (4 if amount == 1 else 6)
    width, height = STYLES[style]["figure.figsize"]
    for name, figure in drawn.items():
        assert figure.get_figwidth() == (2 * width if name in WIDE else width), name
        for text, box in texts(figure):
            assert min(box.x0, box.y0) > -1, (name, text)
            assert box.x1 < figure.bbox.x1 + 1, (name, text)
            assert box.y1 < figure.bbox.y1 + 1, (name, text)
        for axes in (axes for axes in figure.axes if axes.axison):
            least = 0.49 * height if name == "aggregates" else 0.98 * height
            assert axes.get_position().height * figure.get_figheight() >= least, name


WIDE = {"aggregates", "parameters", "parallel_coordinates"}


@pytest.mark.parametrize("style", list(STYLES))
def test_names_are_whole_and_cover_nothing(tmp_path, style):
    comparison = compare(load_runs([write_groups(tmp_path, 12)]))
    drawn = figures(comparison, style)
    names = {f"{group.group.name} (n=2)".replace(" ", "") for group in comparison.groups}
    for name in ("learning_curves", "sample_efficiency", "performance_profile"):
        (legend,) = drawn[name].legends
        shown = {re.sub(r"\s", "", text.get_text()) for text in legend.get_texts()}
        assert shown == names
        drawn[name].draw_without_rendering()
        below = drawn[name].axes[0].get_tightbbox()
        assert below is not None
        assert legend.get_window_extent().y1 <= below.y0
    drawn["aggregates"].draw_without_rendering()
    ticks = drawn["aggregates"].axes[0].get_yticklabels()
    assert {re.sub(r"\s", "", tick.get_text()) for tick in ticks} == names
    each = [ticks, *(axes.get_xticklabels() for axes in drawn["parameters"].axes if axes.axison)]
    drawn["parameters"].draw_without_rendering()
    for row in each:
        boxes = [tick.get_window_extent() for tick in row if tick.get_text()]
        for i, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[:i]), row
    sizes = drawn["parameters"].axes[1].get_xticklabels()
    assert [re.sub(r"\s", "", tick.get_text()) for tick in sizes] == ["1", "2", "3"]


def test_lines_are_drawn_of_the_best_groups_and_rows_of_more(tmp_path):
    for i in range(14):
        write_run(tmp_path / str(i), [1.0, i], 1.0 * i, agent__n_step=i + 1)
    drawn = figures(compare(load_runs([tmp_path])))
    (legend,) = drawn["learning_curves"].legends
    best = [f"agent.n_step={n} (n=1)" for n in range(14, 0, -1)]
    assert [text.get_text() for text in legend.get_texts()] == best[:12]
    rows = drawn["aggregates"].axes[0].get_yticklabels()
    assert [tick.get_text() for tick in rows] == best
    told = {
        name: any("the best 12 of 14 groups" in text.get_text() for text, _ in texts(figure))
        for name, figure in drawn.items()
    }
    assert (told["learning_curves"], told["aggregates"]) == (True, False)


def test_a_word_is_broken_only_if_a_line_cannot_hold_it():
    text = "agent.lr=0.001 network.hidden_sizes=[64,64,64] (n=10)"
    assert wrapped(text, 100.0) == text
    for inches in (0.3, 0.8, 1.5, 3.0):
        lines = wrapped(text, inches).splitlines()
        assert all(text_width(line) <= inches for line in lines)
        assert re.sub(r"\s", "", "".join(lines)) == text.replace(" ", "")
    assert wrapped(text, 2.6).splitlines() == [
        "agent.lr=0.001", "network.hidden_sizes=[64,64,64]", "(n=10)",
    ]  # fmt: skip


def test_what_is_no_hyperparameter_is_not_drawn_as_one(tmp_path):
    """The budget, what follows from it, and the environment make groups; how it ran makes none."""
    for i, steps in enumerate((1000, 2000)):
        for lr in (0.1, 0.2):
            write_run(
                tmp_path / f"{steps} {lr}", [1.0], 1.0 + i, total_timesteps=steps,
                device=f"cuda:{i}",
                agent={"lr": lr, "lr_schedule": "linear", "lr_decay_steps": steps},
                buffer={"name": "prioritized", "beta_steps": steps},
                env__kwargs={"gravity": i}, eval__interval=steps,
            )  # fmt: skip
    comparison = compare(load_runs([tmp_path]))
    assert {*comparison.groups[0].group.settings} == {
        "agent.lr", "agent.lr_decay_steps", "buffer.beta_steps", "env.kwargs.gravity",
        "total_timesteps",
    }  # fmt: skip
    drawn = figures(comparison)
    assert [axes.get_xlabel() for axes in drawn["parameters"].axes] == ["agent.lr"]
    assert "parallel_coordinates" not in drawn
    by_device = compare(load_runs([tmp_path]), Options(group_by=("device", "total_timesteps")))
    assert "parameters" not in figures(by_device)


@pytest.mark.parametrize("key", ["agent.lr_decay_steps", "buffer.beta_steps"])
def test_the_end_of_a_schedule_that_was_chosen_is_a_hyperparameter(tmp_path, key):
    for steps in (500, 1000):
        write_run(
            tmp_path / str(steps), [1.0], 1.0, total_timesteps=1000,
            agent={"lr": 0.1, "lr_schedule": "linear"}, buffer={"name": "prioritized"},
            **{key.replace(".", "__"): steps},
        )  # fmt: skip
    (axes,) = figures(compare(load_runs([tmp_path])))["parameters"].axes
    assert axes.get_xlabel() == key


def test_each_environment_has_its_own_hyperparameters(tmp_path):
    for value in (1, 2):
        write_run(tmp_path / f"a{value}", [1.0], 1.0, agent__n_step=value)
        write_run(tmp_path / f"b{value}", [1.0], 1.0, agent__lr=value / 10, env__id="Acrobot-v1")
    options = Options(bounds={"*": (0.0, 1.0)})
    drawn = figures(compare(load_runs([tmp_path]), options))
    shown = {name: drawn[name].axes[0].get_xlabel() for name in drawn if "parameters" in name}
    assert shown == {
        "CartPole-v1/parameters": "agent.n_step",
        "Acrobot-v1/parameters": "agent.lr",
    }


def test_parameters_show_each_run_and_the_mean_at_each_value(sweep):
    (axes,) = figures(compare(load_runs([sweep])))["parameters"].axes
    points: dict[float, list[float]] = {}
    *dots, means = (line.get_xydata() for line in axes.get_lines())
    for dot in dots:
        for x, y in np.asarray(dot):
            points.setdefault(float(x), []).append(float(y))
    ten = np.arange(6) * 10.0
    assert points == {np.log10(0.001): [*(200 + ten)], np.log10(0.01): [*(300 + ten)]}
    np.testing.assert_allclose(np.asarray(means)[:, 1], [225.0, 325.0])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.001", "0.01"]


def test_values_that_are_no_numbers_stand_side_by_side(tmp_path):
    for value in (None, 10.0, 0.5, True, "text"):
        write_run(tmp_path / str(value), [1.0], 1.0, agent__max_grad_norm=value)
    (axes,) = figures(compare(load_runs([tmp_path])))["parameters"].axes
    shown = [tick.get_text() for tick in axes.get_xticklabels()]
    assert shown == ["0.5", "10.0", "null", "text", "true"]


def test_sample_efficiency_is_the_share_of_seeds_that_have_reached_the_threshold(tmp_path):
    curves = RNG.uniform(0, 100, (7, 20))
    for seed, values in enumerate(curves):
        write_run(tmp_path / str(seed), values.tolist(), 50.0, seed=seed)
    options = Options(thresholds={"*": 90.0})
    figure = figures(compare(load_runs([tmp_path]), options))["sample_efficiency"]
    assert "share of seeds that have reached threshold 90" in figure.get_suptitle()
    (axes,) = figure.axes
    at, share = steps_of(axes, "CartPole-v1 (n=7)")
    assert (at[0], at[-1]) == (0.0, 2000.0)
    (band,) = axes.collections
    outline = np.asarray(band.get_paths()[0].vertices)
    for steps in range(0, 2001, 50):
        evaluated = curves[:, : steps // 100]
        reached = int((evaluated.max(axis=1, initial=-1.0) >= 90.0).sum())
        i = np.flatnonzero(at <= steps)[-1]
        assert share[i] == pytest.approx(reached / 7)
        wilson = stats.binomtest(reached, 7).proportion_ci(method="wilson")
        ends = outline[np.isclose(outline[:, 0], at[i]), 1]
        for end in (wilson.low, wilson.high):
            assert np.abs(ends - end).min() < 1e-9


def test_the_share_of_seeds_ends_where_one_stopped_before_the_threshold(tmp_path):
    """What it would have reached is not known; a seed that stopped later than that counts."""
    write_run(tmp_path / "early", [0.0, 9.0], seed=0)
    write_run(tmp_path / "late", [0.0, 0.0, 0.0, 0.0, 9.0, 9.0], 9.0, seed=1)
    options = Options(thresholds={"*": 9.0})
    figure = figures(compare(load_runs([tmp_path]), options))["sample_efficiency"]
    at, share = steps_of(figure.axes[0], "CartPole-v1 (n=2)")
    assert (at.tolist(), share.tolist()) == ([0.0, 200.0, 500.0, 600.0], [0.0, 0.5, 1.0, 1.0])
    assert "×" not in figure.get_suptitle()
    write_run(tmp_path / "stopped", [0.0, 0.0, 0.0], seed=2)
    write_run(tmp_path / "without evaluations", [], seed=3)
    figure = figures(compare(load_runs([tmp_path]), options))["sample_efficiency"]
    at, share = steps_of(figure.axes[0], "CartPole-v1 (n=3)")
    assert (at.tolist(), share.tolist()) == ([0.0, 200.0, 300.0], [0.0, 1 / 3, 1 / 3])
    (cross,) = (line for line in figure.axes[0].get_lines() if line.get_marker() == "x")
    assert np.ravel([cross.get_xdata(), cross.get_ydata()]).tolist() == [300.0, 1 / 3]
    assert "×: a seed stopped here and had not reached it" in figure.get_suptitle()


def test_without_a_threshold_there_is_no_sample_efficiency(tmp_path):
    write_run(tmp_path / "a", [1.0, 2.0], 2.0, env__id="Unknown-v0")
    runs = load_runs([tmp_path])
    assert set(figures(compare(runs))) == {"learning_curves", "aggregates", "performance_profile"}
    assert "sample_efficiency" in figures(compare(runs, Options(thresholds={"*": 2.0})))


def test_each_environment_has_figures_of_its_own(two_environments):
    drawn = figures(compare(load_runs([two_environments])))
    stems = {"learning_curves", "aggregates", "performance_profile", "sample_efficiency",
             "parameters"}  # fmt: skip
    environments = ("Acrobot-v1", "CartPole-v1")
    assert set(drawn) == {f"{env}/{stem}" for env in environments for stem in stems}
    for name, figure in drawn.items():
        assert figure.get_suptitle().startswith(f"{name.split('/')[0]}, n = 5 seeds")
    labels = {line.get_label() for line in drawn["Acrobot-v1/learning_curves"].axes[0].get_lines()}
    assert {"agent.lr=0.01 (n=5)", "agent.lr=0.001 (n=5)"} < labels
    paths = save(drawn, two_environments / "compare")
    assert two_environments / "compare" / "CartPole-v1" / "aggregates.png" in paths
    assert all(path.is_file() for path in paths)


@pytest.fixture
def normalized(tmp_path: Path) -> tuple[Options, dict[tuple[str, int, int], np.ndarray]]:
    """Two settings in two environments of other scales and budgets; the curves, by all of these."""
    bounds = {"CartPole-v1": (0.0, 500.0), "Acrobot-v1": (-500.0, 0.0)}
    curves = {}
    for env, points in (("CartPole-v1", 10), ("Acrobot-v1", 20)):
        for n_step in (1, 3):
            for seed in range(5):
                values = bounds[env][0] + RNG.uniform(0, 500, points)
                curves[env, n_step, seed] = values
                write_run(
                    tmp_path / f"{env}{n_step}{seed}", values.tolist(), float(values[-1]),
                    seed=seed, agent__n_step=n_step, env__id=env, total_timesteps=100 * points,
                )  # fmt: skip
    return Options(bounds=bounds), curves


def test_several_environments_have_the_normalized_curve_over_the_share_of_the_budget(
    normalized, tmp_path
):
    options, curves = normalized
    drawn = figures(compare(load_runs([tmp_path]), options))
    figure = drawn["all_environments/learning_curves"]
    assert figure.get_suptitle().splitlines() == [
        "Acrobot-v1, CartPole-v1, n = 5 seeds each", "shaded: 95 % interval",
    ]  # fmt: skip
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel().replace("\n", " ")) == (
        "share of the budget",
        "IQM of normalized evaluation return",
    )
    shares, values = steps_of(axes, "agent.n_step=3 (n=10)")
    for share in (0.1, 0.5, 0.8, 1.0):
        scores = [
            (curves[env, 3, seed][round(share * points) - 1] - low) / 500.0
            for env, points, low in (("CartPole-v1", 10, 0.0), ("Acrobot-v1", 20, -500.0))
            for seed in range(5)
        ]
        shown = values[np.isclose(shares, share)]
        assert shown == pytest.approx(np.mean(sorted(scores)[2:-2]), abs=1e-6), share
    assert np.isnan(values[shares < 0.09]).all()  # before the first evaluations


def test_several_environments_have_the_normalized_scores_in_each(normalized, tmp_path):
    options, curves = normalized
    drawn = figures(compare(load_runs([tmp_path]), options))
    assert {name.partition("/")[2] for name in drawn if name.startswith("all_")} == {
        "learning_curves", "aggregates", "performance_profile", "environments",
    }  # fmt: skip
    figure = drawn["all_environments/environments"]
    names = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    for axes, (env, low) in zip(
        figure.axes, (("Acrobot-v1", -500.0), ("CartPole-v1", 0.0)), strict=True
    ):
        assert axes.get_title() == f"IQM in {env}"
        assert axes.get_xlabel() == "normalized final return"
        shown = [
            np.asarray(line.get_xdata())[0] for line in axes.get_lines() if line.get_marker() == "o"
        ]
        for name, value in zip(names, shown, strict=True):
            n_step = int(name.split("=")[1][0])
            finals = sorted((curves[env, n_step, seed][-1] - low) / 500.0 for seed in range(5))
            assert value == pytest.approx(np.mean(finals[1:-1]))
    profile = drawn["all_environments/performance_profile"].axes[0]
    levels, share = steps_of(profile, "agent.n_step=1 (n=10)")
    finals = [(curves[e, 1, s][-1] + 500.0 * (e == "Acrobot-v1")) / 500.0
              for e in options.bounds for s in range(5)]  # fmt: skip
    assert share.tolist() == [np.mean(np.array(finals) > level) for level in levels]


def test_one_run_has_figures_but_no_parameters(tmp_path):
    comparison = compare(load_runs([write_run(tmp_path / "a", [1.0, 2.0], 5.0)]))
    assert set(figures(comparison)) == {
        "learning_curves", "aggregates", "performance_profile", "sample_efficiency",
    }  # fmt: skip


def test_a_paper_has_columns_of_its_width_and_text_of_8_pt(sweep):
    drawn = figures(compare(load_runs([sweep])), "paper")
    for name, figure in drawn.items():
        assert figure.get_figwidth() == (6.8 if name == "aggregates" else 3.4)
        assert {text.get_fontsize() for text, _ in texts(figure)} == {8.0}


def test_fonts_in_a_pdf_can_be_embedded(sweep, tmp_path):
    """Journals refuse Type 3, which is matplotlib's default."""
    drawn = figures(compare(load_runs([sweep])), "paper")
    for path in save(drawn, tmp_path, ("pdf",)):
        fonts = set(re.findall(rb"/Subtype /(Type3|TrueType|CIDFontType2)", path.read_bytes()))
        assert fonts
        assert b"Type3" not in fonts


def test_the_same_runs_draw_the_same_files(sweep, tmp_path):
    contents = []
    for i in range(2):
        drawn = figures(compare(load_runs([sweep])), "paper")
        paths = save({"curves": drawn["learning_curves"]}, tmp_path / str(i), FORMATS["paper"])
        contents.append({path.name: path.read_bytes() for path in paths})
    assert contents[0] == contents[1]


def test_a_setting_with_dollars_is_text_and_not_mathematics(tmp_path):
    for name in ("$x^2$", "$y$"):
        write_run(tmp_path / name, [1.0], 1.0, network={"name": name})
    (legend,) = figures(compare(load_runs([tmp_path])))["learning_curves"].legends
    for text in legend.get_texts():
        assert not text.get_parse_math()


def test_a_notebook_shows_a_figure_or_all_of_them(sweep):
    drawn = figures(compare(load_runs([sweep])))
    html = drawn._repr_html_()
    for name, figure in drawn.items():
        png = figure._repr_png_()
        assert png.startswith(b"\x89PNG")
        assert base64.b64encode(png).decode() in html
        assert f"<h4>{name}</h4>" in html


def test_ipython_finds_the_picture_without_any_magic(sweep):
    formatters = pytest.importorskip("IPython.core.formatters")
    figure = figures(compare(load_runs([sweep])))["learning_curves"]
    data, _ = formatters.DisplayFormatter().format(figure)
    assert data["image/png"].startswith(b"\x89PNG")


def test_reprs_fit_on_a_screen(sweep, tmp_path):
    comparison = compare(load_runs([sweep]))
    assert repr(comparison).splitlines() == [
        "CartPole-v1: IQM of final return",
        f"  agent.lr=0.01   n=6  {iqm_text(comparison, 0)}",
        f"  agent.lr=0.001  n=6  {iqm_text(comparison, 1)}",
    ]
    many = write_groups(tmp_path / "many", 30)
    for i, env in enumerate(("Acrobot-v1", "MountainCar-v0")):
        write_run(many / env, [1.0], 2.0, env__id=env, agent__n_step=i)
    comparison = compare(load_runs([many]))
    ranking = comparison.rankings[1]
    group = ranking.groups[0]
    for thing in (comparison, ranking, group, group.group, group.curves[0], group.group.runs[0]):
        lines = repr(thing).splitlines()
        assert len(lines) <= 20
        assert len(lines) == 1 or max(map(len, lines)) <= 100
    assert repr(group.group.runs[0]).startswith("Run(path=")
    assert "agent.lr" not in repr(group.group.runs[0])
    shown = [line for line in repr(comparison).splitlines() if not line.startswith(" ")]
    assert [line.partition(":")[0] for line in shown] == [
        "Acrobot-v1", "CartPole-v1", "MountainCar-v0", "remarks",
    ]  # fmt: skip
    assert "  and 26 more groups" in repr(comparison)


def test_groups_whose_shortened_names_are_equal_are_all_there(tmp_path):
    for i, inside in enumerate((1, 2)):
        name = "x" * 50 + str(inside) + "x" * 50
        write_run(tmp_path / str(i), [1.0], 1.0 + i, network={"name": name})
    _, *groups = repr(compare(load_runs([tmp_path])).rankings[0]).splitlines()
    assert [line.split()[-1] for line in groups] == ["2.0", "1.0"]


def iqm_text(comparison, i):
    value, low, high = comparison.groups[i].estimates["final"]["IQM"]
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def test_a_notebook_shows_a_comparison_as_its_table(sweep, monkeypatch):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    html = compare(load_runs([sweep]))._repr_html_()
    assert "agent.lr=0.001" in html
    assert "probability that a run of the first has the higher final return" in html
