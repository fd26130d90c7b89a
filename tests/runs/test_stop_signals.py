"""Signals become requests, which are answered where the run can be stopped."""

from __future__ import annotations

import signal

import pytest

from dqn_runner.errors import Stopped
from dqn_runner.runs.stop_signals import StopSignals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_answered_at_the_next_check_and_a_second_one_at_once(number):
    former = signal.getsignal(number)
    with StopSignals() as signals:
        signals.check()
        signal.raise_signal(number)
        with pytest.raises(Stopped) as stopped:
            signals.check()
        assert (stopped.value.signal_number, stopped.value.at_safe_point) == (number, True)
        with pytest.raises(Stopped) as stopped:
            signal.raise_signal(number)
        assert not stopped.value.at_safe_point
    assert signal.getsignal(number) is former


def test_a_second_signal_of_another_kind_lets_the_run_save():
    """As Slurm may send its own warning after SIGTERM."""
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGHUP)
        with pytest.raises(Stopped) as stopped:
            signals.check()
        assert (stopped.value.signal_number, stopped.value.at_safe_point) == (signal.SIGTERM, True)


def test_a_signal_that_is_ignored_stays_so():
    """As nohup ignores SIGHUP, and a shell SIGINT for what it runs in the background."""
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            signal.raise_signal(signal.SIGHUP)
            signals.check()
    finally:
        signal.signal(signal.SIGHUP, former)
