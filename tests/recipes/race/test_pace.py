"""How many steps fit into a time, and what is measured to tell."""

from __future__ import annotations

import random

import pytest

from subopt.optimizers import METHODS, is_refresh_due
from subopt.recipes.race.pace import Pace, steps_within


def counted(horizon_s, pace, method, options):
    """The same step by step."""
    resolved = METHODS[method].resolve(options)
    extra = 0.0 if pace.refresh_ms is None else max(0.0, pace.refresh_ms - pace.ordinary_ms)
    steps, spent_ms = 0, 0.0
    while True:
        step = steps + 1
        due = step > 1 and is_refresh_due(step, resolved["period"], resolved["early_refresh"])
        spent_ms += pace.ordinary_ms + extra * due
        if spent_ms > 1000 * horizon_s:
            return steps
        steps = step


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("adadiag", {}), ("adadiag", {"period": 3, "early_refresh": False}), ("soap", {"period": 1}),
        ("galore", {"period": 64}), ("galore", {"period": 65}), ("shampoo", {}),
    ],
)  # fmt: skip
def test_against_counting_one_by_one(method, options):
    numbers = random.Random(method)
    for _ in range(60):
        horizon_s = numbers.choice([0.0, 0.5, 3.0, 10.0, 40.0]) * numbers.random()
        pace = Pace(
            ordinary_ms=numbers.choice([8.0, 32.0]), refresh_ms=numbers.choice([4.0, 64.0, 512.0])
        )
        steps, pace_ms = steps_within(horizon_s, pace, method, options)
        assert steps == counted(horizon_s, pace, method, options)
        assert steps * pace_ms <= 1000 * horizon_s + 1e-9


def test_without_refreshes_the_pace_is_the_ordinary_steps():
    assert steps_within(10.0, Pace(ordinary_ms=30.0), "adamw", {}) == (333, 30.0)
    assert steps_within(0.01, Pace(ordinary_ms=30.0), "adamw", {}) == (0, 30.0)
    assert steps_within(10.0, Pace(ordinary_ms=30.0, refresh_ms=20.0), "soap", {}) == (333, 30.0)


def test_a_longer_period_is_a_quicker_pace():
    pace = Pace(ordinary_ms=10.0, refresh_ms=110.0)
    often = steps_within(60.0, pace, "soap", {"period": 10})
    seldom = steps_within(60.0, pace, "soap", {"period": 50})
    assert often[0] < seldom[0]
    assert often[1] == pytest.approx(20.0, rel=0.01)
    assert seldom[1] == pytest.approx(12.0, rel=0.02)
