"""Colors of groups of runs, and their shades."""

from __future__ import annotations

import colorsys

import pytest

from dqn_runner.analysis.groups import COLORS, shade


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
