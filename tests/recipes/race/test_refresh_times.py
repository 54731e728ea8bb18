"""With a clock by which a refresh takes 10 ms and any other step 1 ms, predicted means are those of the counted steps.

Which steps refresh is read off the optimizer's own counters here, and not off the record that predictions go by.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from subopt.optimizers import METHODS, create, get_method
from subopt.profilers.timing import clock
from subopt.profilers.timing.step import time_step
from subopt.recipes.race.step_time import CandidateStepTime, time_of_steps_ms

ORDINARY_MS, REFRESH_MS = 1.0, 10.0
STEPS = 50
REFRESHING = [
    name
    for name, method in METHODS.items()
    if "refreshes" in method.capabilities and method.missing_extra() is None
]


@pytest.fixture
def layers():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.Linear(16, 20))
    model(torch.randn(8, 12)).square().sum().backward()
    return model


def cost_ms(optimizer):
    """Take a step; return what it takes by the clock."""

    def refreshes():
        return sum(int(state.get("refreshes", 0)) for state in optimizer.state.values())

    before = refreshes()
    optimizer.step()
    return REFRESH_MS if refreshes() > before else ORDINARY_MS


def counted_ms(model, method, options):
    optimizer = create(method, model, lr=1e-3, **options)
    return [cost_ms(optimizer) for _ in range(STEPS)]


def schedules(method):
    """Return the method's own options, and short periods with and without what moves its refreshes."""
    record = get_method(method)
    wishes = [{}, {"period": 7, "start_step": 1}]
    for early, skip, current in itertools.product((False, True), repeat=3):
        moved = {"early_refresh": early, "skip_first": skip, "use_current_gradient": current}
        wishes.append({"period": 5, "start_step": 1, "stagger": False, **moved})
    found = []
    for wish in wishes:
        options = record.among(wish)
        if options not in found:
            found.append(options)
    return found


@pytest.mark.parametrize("method", REFRESHING)
def test_a_race_expects_refreshes_in_the_steps_that_have_them(layers, method):
    step_time = CandidateStepTime(ordinary_ms=ORDINARY_MS, refresh_ms=REFRESH_MS)
    for options in schedules(method):
        if get_method(method).resolve(options).get("start_step", 1) > 1:
            continue  # until then such a trial gets too few steps rather than too many
        first_ms, *rest_ms = counted_ms(layers, method, options)
        assert first_ms == REFRESH_MS, options
        expected_ms = ORDINARY_MS + sum(rest_ms)  # the first refresh belongs to building
        predicted_ms = time_of_steps_ms(STEPS, step_time, method, options)
        assert predicted_ms == expected_ms, options


@pytest.mark.parametrize("method", REFRESHING)
def test_a_profile_tells_refreshes_from_ordinary_steps(layers, method, monkeypatch):
    def timed_ms(run, devices):
        return cost_ms(run.__self__)

    monkeypatch.setattr(clock, "timed_ms", timed_ms)
    options = get_method(method).among({
        "period": 7, "start_step": 1, "early_refresh": False, "stagger": False,
    })  # fmt: skip
    taken = time_step(layers, method, options, baseline="adamw", rounds=2, budget_s=1e9)
    assert (taken.ordinary_ms, taken.refresh_ms) == (ORDINARY_MS, REFRESH_MS)
    assert taken.period == 7
    times_ms = counted_ms(layers, method, options)
    assert taken.step_ms == pytest.approx(sum(times_ms[1:]) / len(times_ms[1:]), rel=1e-12)
