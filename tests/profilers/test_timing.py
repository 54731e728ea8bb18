"""Timing a step: what it runs and how it averages. No test here depends on how long anything takes."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import statistics

import pytest
import torch
from torch import nn

from subopt.optimizers import METHODS, Composed, Method, get_method
from subopt.profilers import timing
from subopt.profilers.timing import (
    StepTime,
    time_forward_backward,
    time_step,
    time_whole_step,
)


@pytest.fixture
def model():
    net = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4))
    net(torch.randn(3, 6)).square().sum().backward()
    return net


@pytest.fixture
def clock(monkeypatch):
    """A clock on which call number t takes durations[t] ms; the baseline's calls, where it is named, are free."""

    def install(durations, free=None):
        taken = itertools.chain(durations, itertools.repeat(1.0))

        def timed(run, devices):
            run()
            return 0.0 if free is not None and method_of(run) == free else next(taken)

        monkeypatch.setattr(timing, "timed_ms", timed)

    return install


def method_of(step):
    return step.__self__.param_groups[0]["method"]


def test_an_average_step_spreads_the_refresh_over_the_period():
    assert StepTime(2.0, 102.0, 200, 1.0).step_ms == 2.5
    assert StepTime(2.0, None, None, 1.0).step_ms == 2.0
    assert StepTime(2.0, 1.5, 200, 1.0).step_ms == 2.0
    assert StepTime(2.0, 102.0, 200, 3.0).overhead_ms == -0.5


def test_refreshes_and_ordinary_steps_are_told_apart(model, clock):
    clock([1000, 1, 2, 3, 50, 4, 5, 6, 70], free="lion")
    taken = time_step(model, "adadiag", {"period": 10}, baseline="lion", rounds=2, budget_s=1e9)
    assert taken == StepTime(ordinary_ms=3.5, refresh_ms=60, period=10, baseline_ms=0)


def test_a_method_without_decompositions_has_only_ordinary_steps(model, clock):
    clock([1000, *range(1, 9)])
    taken = time_step(model, "lion", {}, baseline="lion", rounds=2, budget_s=1e9)
    assert taken == StepTime(ordinary_ms=4.5, refresh_ms=None, period=None, baseline_ms=4.5)
    assert taken.overhead_ms == 0


def test_the_baseline_is_timed_in_turn_so_that_a_changing_load_falls_on_both(model, monkeypatch):
    """Each pair of steps finds the machine twice as slow as the one before; the ratio of the two stays."""
    calls = []

    def timed(run, devices):
        run()
        calls.append(method_of(run))
        own_ms = {"lion": 5.0, "adamw": 2.0}[calls[-1]]
        return own_ms * 2 ** ((len(calls) - 1) // 2)

    monkeypatch.setattr(timing, "timed_ms", timed)
    taken = time_step(model, "lion", {}, baseline="adamw", rounds=1, budget_s=1e9)
    assert calls == ["lion", "adamw"] * 5
    load = (4 + 8) / 2  # the median of the pairs after the first: 2, 4, 8, 16
    assert (taken.step_ms, taken.baseline_ms) == (5 * load, 2 * load)
    assert taken.overhead_ms == 3 * load


def test_the_budget_holds_for_both_together(model, monkeypatch):
    seconds = itertools.count()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(seconds))
    calls = []
    monkeypatch.setattr(timing, "timed_ms", lambda run, devices: calls.append(run) or 1.0)
    time_step(model, "lion", {}, baseline="adamw", rounds=50, budget_s=7.5)
    # A look at the clock begins it and one comes before each pair: the eighth second is too late.
    assert len(calls) == 2 * 7


def test_long_steps_are_timed_once_beside_the_first(model, monkeypatch):
    seconds = itertools.count(step=1.4)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(seconds))
    calls = []
    monkeypatch.setattr(timing, "timed_ms", lambda run, devices: calls.append(run) or 1.0)
    time_step(model, "lion", {}, baseline="adamw", rounds=50, budget_s=1)
    assert len(calls) == 2 * 2  # looks at 1.4 and 2.8 s, which is not long yet, and at 4.2 s


def test_a_very_long_step_is_timed_once_but_one_that_refreshes_twice(model, monkeypatch):
    seconds = itertools.count(step=9)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(seconds))
    calls = []
    monkeypatch.setattr(timing, "timed_ms", lambda run, devices: calls.append(run) or 1.0)
    taken = time_step(model, "lion", {}, baseline="adamw", rounds=50, budget_s=1)
    assert (len(calls), taken.step_ms, taken.baseline_ms) == (2, 1.0, 1.0)
    calls.clear()
    time_step(model, "adadiag", {}, baseline="adamw", rounds=50, budget_s=1)
    assert len(calls) == 2 * 2


@pytest.fixture
def doubling(monkeypatch):
    """A method that evaluates the loss twice a step and puts a wider layer in a linear one's place."""

    class Twice(Composed):
        def step(self, closure):
            first = closure()
            closure()
            super().step()
            return first

    class Doubling(type(METHODS["adamw"])):
        __slots__ = ()

        def replace(self, model, settings):
            model[0] = nn.Sequential(nn.Linear(6, 16), nn.Linear(16, 8))
            named = [("0.0", model[0][0].weight), ("0.1", model[0][1].weight)]
            return {key: [] for key in settings} | {"0.weight": named}

        def optimizer(self, groups, model):
            return Twice(groups)

    fields = {f.name: getattr(METHODS["adamw"], f.name) for f in dataclasses.fields(Method)}
    changed = {"name": "doubling", "layers": frozenset({"linear"})}
    changed["capabilities"] = frozenset({"needs_closure"})
    monkeypatch.setitem(METHODS, "doubling", Doubling(**fields | changed))


def test_whole_steps_are_timed_beside_the_models_own_passes(model, doubling, monkeypatch):
    """The method's whole step takes 7 ms, a forward and backward pass 4 and a step of the baseline 1."""
    order = []

    def forward_backward(of):
        order.append("own" if of is own else "plain")
        of.zero_grad()
        loss = of(torch.ones(3, 6)).square().sum()
        loss.backward()
        return loss.detach()

    def timed(run, devices):
        before = len(order)
        run()
        seen = tuple(order[before:])
        durations = {("own", "own"): 7.0, ("plain",): 4.0, (): 1.0}
        return durations[seen] * (1 + len(order))  # the machine gets busier

    monkeypatch.setattr(timing, "timed_ms", timed)
    own = copy.deepcopy(model)
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    taken = time_whole_step(
        (own, model),
        "doubling",
        {},
        forward_backward,
        baseline="adamw",
        groups_of=lambda of: None,
        rounds=1,
        budget_s=1e9,
    )
    assert order == ["own", "own", "plain"] * 5
    assert isinstance(own[0], nn.Sequential)
    loads = [3 * k for k in range(1, 6)][1:]
    beyond = [7 * load - 4 * (1 + load) for load in loads]
    assert taken.step_ms == statistics.median(beyond)
    assert taken.baseline_ms == statistics.median([1 + load for load in loads])
    assert taken.period is None
    for parameter, weight in zip(model.parameters(), weights, strict=True):
        assert torch.equal(parameter, weight)


def test_out_of_time_the_first_step_stands_for_a_refresh(model, clock):
    clock([1000, 1, 2, 3, 50], free="adamw")
    taken = time_step(model, "galore", {}, baseline="adamw", rounds=2, budget_s=0)
    period = get_method("galore").defaults["period"]
    assert taken == StepTime(ordinary_ms=2, refresh_ms=1000, period=period, baseline_ms=0)


@pytest.mark.parametrize("method", ["adamw", "adadiag++", "osd"])
def test_the_weights_stay_and_so_do_the_gradients(model, method):
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    groups = [{"params": list(model.parameters()), "lr": 0.5}]
    time_step(model, method, {}, baseline="adamw", groups=groups, rounds=1)
    for parameter, weight, gradient in zip(model.parameters(), weights, gradients, strict=True):
        assert torch.equal(parameter, weight)
        assert torch.equal(parameter.grad, gradient)


def test_forward_and_backward_leave_the_last_gradients(model, clock):
    clock([1000, 1, 5, 3])
    seen = []

    def forward_backward(net, batch):
        seen.append(batch)

    assert time_forward_backward(forward_backward, model, [1, 2, 3, 4]) == 3
    assert seen == [1, 2, 3, 4]
    clock([7])
    assert time_forward_backward(forward_backward, model, [1]) == 7


def test_the_clock_runs_what_it_times():
    ran = []
    assert timing.timed_ms(lambda: ran.append(1), set()) >= 0
    assert ran == [1]
