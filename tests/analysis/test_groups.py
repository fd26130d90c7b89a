"""Colors of groups of runs, and their shades."""

from __future__ import annotations

import colorsys

import pytest
from run_dirs import write_run

from dqn_runner.analysis.groups import COLORS, differing_keys, group_all, hyperparameters, shade
from dqn_runner.analysis.runs import load_runs


def contrast_to_white(color: str) -> float:
    """As WCAG 2.2 defines it."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 1.05 / (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)


@pytest.mark.parametrize("color", COLORS)
def test_shades_of_a_color_are_told_apart_and_seen_on_white(color):
    assert shade(color, 0, 1) == color
    hue, _, _ = colorsys.rgb_to_hsv(*(int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)))
    for of in (2, 3, 10, 20):
        shades = [shade(color, i, of) for i in range(of)]
        assert len(set(shades)) == of
        contrasts = [contrast_to_white(each) for each in shades]
        assert contrasts == sorted(contrasts, reverse=True)  # from dark to light
        assert contrasts[-1] > 1.9
        assert contrasts[0] > 1.9 * contrasts[-1]
        for each in shades:
            parts = [int(each[i : i + 2], 16) / 255 for i in (1, 3, 5)]
            assert colorsys.rgb_to_hsv(*parts)[0] == pytest.approx(hue, abs=0.02)


def test_ranges_of_returns_that_follow_from_other_settings_name_no_group(tmp_path):
    """Three values of gamma in two environments, each with the range that it makes."""
    for env, sign in (("CartPole-v1", 1), ("Acrobot-v1", -1)):
        for gamma in (0.9, 0.95, 0.99):
            low, high = sorted((0.0, sign / (1 - gamma)))
            write_run(
                tmp_path / f"{env},{gamma}", [1.0], 1.0, env__id=env, agent__gamma=gamma,
                env__return_range=[low, high], agent__v_min=low, agent__v_max=high,
            )  # fmt: skip
    runs = load_runs([tmp_path])
    assert set(differing_keys(runs)) == {"env.id", "agent.gamma"}
    groups = group_all(runs)[:3]  # those of Acrobot
    assert hyperparameters(groups) == ["agent.gamma"]


def test_ranges_of_returns_that_are_chosen_make_groups(tmp_path):
    for v_max in (50.0, 100.0):
        for gamma in (0.9, 0.99):
            name = f"{v_max},{gamma}"
            write_run(tmp_path / name, [1.0], 1.0, agent__gamma=gamma, agent__v_max=v_max)
    runs = load_runs([tmp_path])
    assert set(differing_keys(runs)) == {"agent.v_max", "agent.gamma"}
    assert set(hyperparameters(group_all(runs))) == {"agent.v_max", "agent.gamma"}
