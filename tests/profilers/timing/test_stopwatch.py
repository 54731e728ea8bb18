"""Seconds by quantity: nested spans count once, under the innermost name, whatever happens inside."""

from __future__ import annotations

import itertools

import pytest

from subopt.profilers.timing import clock as device_clock
from subopt.profilers.timing.stopwatch import Stopwatch


@pytest.fixture
def clock(monkeypatch):
    """A clock that is one second further each time it is read."""
    ticks = itertools.count()
    monkeypatch.setattr(device_clock.time, "perf_counter", lambda: float(next(ticks)))


@pytest.mark.usefixtures("clock")
def test_spans_add_up_under_their_names():
    watch = Stopwatch()
    for name in ("a", "b", "a"):
        with watch.span(name):
            pass
    assert watch.seconds == {"a": 2.0, "b": 1.0}


@pytest.mark.usefixtures("clock")
def test_what_is_inside_another_span_counts_for_itself_alone():
    watch = Stopwatch()
    with watch.span("outer"):
        with watch.span("inner"), watch.span("innermost"):
            pass
        with watch.span("inner"):
            pass
    # Read at 0, 1, 2, 3, 4, 5, 6, 7: 7 s in all.
    assert watch.seconds == {"innermost": 1.0, "inner": 3.0, "outer": 3.0}


@pytest.mark.usefixtures("clock")
def test_a_span_that_raises_is_counted():
    watch = Stopwatch()
    with pytest.raises(KeyboardInterrupt), watch.span("a"), watch.span("b"):
        raise KeyboardInterrupt
    assert watch.seconds == {"b": 1.0, "a": 2.0}
