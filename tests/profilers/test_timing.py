"""Timing a step: what it runs and how it averages. No test here depends on how long anything takes."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from subopt.optimizers import get_method
from subopt.profilers import timing
from subopt.profilers.timing import StepTime, time_forward_backward, time_step


@pytest.fixture
def model():
    net = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4))
    net(torch.randn(3, 6)).square().sum().backward()
    return net


@pytest.fixture
def clock(monkeypatch):
    """A clock on which call number t takes durations[t] ms."""

    def install(durations):
        taken = itertools.chain(durations, itertools.repeat(1.0))

        def timed(run, devices):
            run()
            return next(taken)

        monkeypatch.setattr(timing, "timed_ms", timed)

    return install


def test_an_average_step_spreads_the_refresh_over_the_period():
    assert StepTime(2.0, 102.0, 200).step_ms == 2.5
    assert StepTime(2.0, None, None).step_ms == 2.0
    assert StepTime(2.0, 1.5, 200).step_ms == 2.0


def test_refreshes_and_ordinary_steps_are_told_apart(model, clock):
    clock([1000, 1, 2, 3, 50, 4, 5, 6, 70])
    taken = time_step(model, "adadiag", {"period": 10}, rounds=2, budget_s=1e9)
    assert taken == StepTime(ordinary_ms=3.5, refresh_ms=60, period=10)


def test_a_method_without_decompositions_has_only_ordinary_steps(model, clock):
    clock([1000, *range(1, 9)])
    taken = time_step(model, "lion", {}, rounds=2, budget_s=1e9)
    assert taken == StepTime(ordinary_ms=4.5, refresh_ms=None, period=None)


def test_out_of_time_the_first_step_stands_for_a_refresh(model, clock):
    clock([1000, 1, 2, 3, 50])
    taken = time_step(model, "galore", {}, rounds=2, budget_s=0)
    period = get_method("galore").defaults["period"]
    assert taken == StepTime(ordinary_ms=2, refresh_ms=1000, period=period)


@pytest.mark.parametrize("method", ["adamw", "adadiag++", "osd"])
def test_the_weights_stay_and_so_do_the_gradients(model, method):
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    groups = [{"params": list(model.parameters()), "lr": 0.5}]
    time_step(model, method, {}, groups=groups, rounds=1)
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
