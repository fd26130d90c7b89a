"""When and how the target network follows."""

import pytest
import torch
from pydantic import ValidationError

from dqn_runner.target_update import Hard, Soft, soft_update


@pytest.mark.parametrize("unit", ["env_step", "update"])
@pytest.mark.parametrize("interval", [1, 3, 10, 64])
@pytest.mark.parametrize("stride", [1, 2, 7, 25])
def test_hard_copies_whenever_a_multiple_of_the_interval_is_reached_or_passed(
    unit, interval, stride
):
    schedule = Hard(interval=interval, unit=unit)
    for before in range(0, 300, stride):
        now = before + stride
        expected = any(t % interval == 0 for t in range(before + 1, now + 1))
        assert schedule.copies(unit, before, now) == expected


@pytest.mark.parametrize(("unit", "other"), [("env_step", "update"), ("update", "env_step")])
def test_hard_ignores_the_counter_of_the_other_unit(unit, other):
    schedule = Hard(interval=5, unit=unit)
    assert schedule.copies(unit, 0, 100)
    assert not schedule.copies(other, 0, 100)


def test_hard_does_not_copy_where_nothing_is_counted():
    schedule = Hard(interval=5, unit="update")
    assert not schedule.copies("update", 0, 0)
    assert not schedule.copies("update", 5, 5)


@pytest.mark.parametrize("unit", ["env_step", "update"])
def test_soft_never_asks_for_a_copy(unit):
    assert not Soft(tau=0.5).copies(unit, 0, 1000)


@pytest.mark.parametrize("tau", [0.005, 0.1, 0.7, 1.0])
def test_repeated_soft_updates_follow_the_closed_form(tau):
    """From zero, k updates towards a fixed network leave 1 - (1 - tau)^k of it."""
    params = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target = torch.zeros(50, dtype=torch.float64)
    for k in range(1, 201):
        target = soft_update(target, params, torch.tensor(tau, dtype=torch.float64))
        if k in (1, 2, 10, 200):
            assert torch.allclose(target, (1 - (1 - tau) ** k) * params, rtol=0, atol=1e-12)


def test_soft_update_is_the_weighted_mean_of_both():
    generator = torch.Generator().manual_seed(1)
    target, params = torch.randn(2, 20, dtype=torch.float64, generator=generator)
    moved = soft_update(target, params, torch.tensor(0.3, dtype=torch.float64))
    for p in range(20):
        expected = 0.7 * target[p].item() + 0.3 * params[p].item()
        assert moved[p].item() == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (Hard, {"interval": 0, "unit": "update"}),
        (Hard, {"interval": -1, "unit": "update"}),
        (Hard, {"interval": 10, "unit": "episode"}),
        (Soft, {"tau": 0.0}),
        (Soft, {"tau": 1.5}),
        (Soft, {"tau": float("nan")}),
    ],
)
def test_impossible_settings_are_refused(kind, settings):
    with pytest.raises(ValidationError):
        kind(**settings)
