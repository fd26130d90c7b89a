"""ε schedules against values worked out by hand."""

import math

import pytest
from pydantic import ValidationError

from dqn_runner.epsilon import Exponential, Fixed, Linear, Multiplicative

FAR = 10**12


@pytest.mark.parametrize("env_steps", [0, 1, 500, FAR])
def test_fixed_never_changes(env_steps):
    assert Fixed(value=0.05)(env_steps, 3) == 0.05


@pytest.mark.parametrize(
    ("env_steps", "expected"),
    [(0, 1.0), (1, 0.9991), (250, 0.775), (500, 0.55), (999, 0.1009), (1000, 0.1), (FAR, 0.1)],
)
def test_linear_is_a_straight_line_and_then_flat(env_steps, expected):
    schedule = Linear(start=1.0, end=0.1, decay_steps=1000)
    assert schedule(env_steps, 0) == pytest.approx(expected, abs=1e-12)


def test_linear_meets_both_ends_exactly():
    """No rounding may push ε out of [0, 1], or leave a run just above its end value."""
    for start, end in [(1.0, 0.1), (0.9, 0.3), (0.1, 0.7), (1.0, 0.0)]:
        schedule = Linear(start=start, end=end, decay_steps=7)
        assert schedule(0, 0) == start
        assert schedule(7, 0) == schedule(8, 0) == schedule(FAR, 0) == end


def test_linear_may_rise():
    assert Linear(start=0.2, end=0.6, decay_steps=4)(1, 0) == pytest.approx(0.3, abs=1e-12)


@pytest.mark.parametrize("env_steps", [0, 1, 150, 300, 3000])
def test_exponential_is_the_closed_form(env_steps):
    schedule = Exponential(start=0.9, end=0.05, decay_steps=300)
    expected = 0.05 + 0.85 * math.e ** (-env_steps / 300)
    assert schedule(env_steps, 0) == pytest.approx(expected, abs=1e-12)


def test_exponential_at_known_points():
    schedule = Exponential(start=1.0, end=0.0, decay_steps=1000)
    assert schedule(0, 0) == 1.0
    assert schedule(1000, 0) == pytest.approx(0.36787944117144233, abs=1e-15)
    assert schedule(FAR, 0) == 0.0


def test_exponential_of_equal_ends_is_constant():
    assert Exponential(start=0.3, end=0.3, decay_steps=10)(5, 0) == 0.3


@pytest.mark.parametrize(
    ("t", "expected"),
    [(0, 0.8), (9, 0.8), (10, 0.4), (19, 0.4), (20, 0.2), (29, 0.2), (30, 0.15), (FAR, 0.15)],
)
@pytest.mark.parametrize("unit", ["env_step", "episode"])
def test_multiplicative_falls_in_stairs_of_its_unit_alone(unit, t, expected):
    schedule = Multiplicative(start=0.8, end=0.15, decay_rate=0.5, decay_every=10, unit=unit)
    other = 12345
    env_steps, episodes = (t, other) if unit == "env_step" else (other, t)
    assert schedule(env_steps, episodes) == pytest.approx(expected, abs=1e-12)


def test_multiplicative_equals_repeated_multiplication():
    schedule = Multiplicative(start=1.0, end=0.01, decay_rate=0.97, decay_every=3, unit="env_step")
    value = 1.0
    for env_steps in range(600):
        if env_steps and env_steps % 3 == 0:
            value *= 0.97
        assert schedule(env_steps, 0) == pytest.approx(max(0.01, value), abs=1e-12)


LINEAR = {"start": 1.0, "end": 0.1, "decay_steps": 10}
MULTIPLICATIVE = {
    "start": 1.0,
    "end": 0.1,
    "decay_rate": 0.9,
    "decay_every": 5,
    "unit": "episode",
}


@pytest.mark.parametrize(
    ("schedule", "valid", "key", "value"),
    [
        (Fixed, {"value": 0.5}, "value", -0.01),
        (Fixed, {"value": 0.5}, "value", 1.01),
        (Fixed, {"value": 0.5}, "value", float("nan")),
        (Linear, LINEAR, "start", 2.0),
        (Linear, LINEAR, "end", -0.1),
        (Linear, LINEAR, "decay_steps", 0),
        (Linear, LINEAR, "decay_steps", -5),
        (Linear, LINEAR, "decay_steps", 2.5),
        (Linear, LINEAR, "typo", 1),
        (Exponential, LINEAR, "start", 1.5),
        (Exponential, LINEAR, "end", float("inf")),
        (Exponential, LINEAR, "decay_steps", 0),
        (Multiplicative, MULTIPLICATIVE, "decay_rate", 1.1),
        (Multiplicative, MULTIPLICATIVE, "decay_rate", -0.5),
        (Multiplicative, MULTIPLICATIVE, "decay_every", 0),
        (Multiplicative, MULTIPLICATIVE, "unit", "update"),
    ],
)
def test_impossible_values_are_refused(schedule, valid, key, value):
    schedule(**valid)
    with pytest.raises(ValidationError):
        schedule(**{**valid, key: value})
