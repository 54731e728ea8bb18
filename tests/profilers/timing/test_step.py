"""Timing a step: what it runs and how it averages. No test here depends on how long anything takes."""

from __future__ import annotations

import collections
import copy
import dataclasses
import statistics
from pathlib import Path

import pytest
import torch
from torch import nn

from subopt.optimizers import METHODS, Composed, Method, create, get_method, parameter_roles
from subopt.profilers import method_table
from subopt.profilers.costs.formula import weights_of
from subopt.profilers.memory.simulation import needs_closure
from subopt.profilers.method_table import MethodTable
from subopt.profilers.record.profile import Settings
from subopt.profilers.shape_classes import only_gradient_of, shape_classes
from subopt.profilers.target.load import load_target
from subopt.profilers.target.session import Session
from subopt.profilers.timing import clock, interleaved
from subopt.profilers.timing import step as timing
from subopt.profilers.timing.step import (
    StepTime,
    staggered_step_ms,
    time_forward_backward,
    time_step,
    time_whole_step,
)
from subopt.profilers.timing.step_by_shape import ShapeClassSteps

ASSETS = Path(__file__).parents[2] / "assets"


@pytest.fixture
def model():
    net = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4))
    net(torch.randn(3, 6)).square().sum().backward()
    return net


@pytest.fixture
def clocked(monkeypatch):
    """Let a function of the optimizer that steps, and of how many steps it has taken, stand in for the clock."""

    def install(taken_ms):
        counts = collections.Counter()

        def timed(run, devices):
            run()
            optimizer = run.__self__
            updated = tuple(
                p for g in optimizer.param_groups for p in g["params"] if p.grad is not None
            )
            counts[id(optimizer), updated] += 1
            return taken_ms(method_of(run), updated, counts[id(optimizer), updated])

        monkeypatch.setattr(clock, "timed_ms", timed)

    return install


@pytest.fixture
def layers():
    """Three equal layers and a wider one, without biases."""
    shapes = [(6, 6), (6, 6), (6, 6), (6, 9)]
    net = nn.Sequential(*(nn.Linear(m, n, bias=False) for m, n in shapes))
    net(torch.randn(3, 6)).square().sum().backward()
    return net


def method_of(step):
    return step.__self__.param_groups[0]["method"]


def test_an_average_step_spreads_the_refresh_over_the_period():
    assert StepTime(2.0, 102.0, 200, 1.0).step_ms == 2.5
    assert StepTime(2.0, None, None, 1.0).step_ms == 2.0
    assert StepTime(2.0, 1.5, 200, 1.0).step_ms == 2.0
    assert StepTime(2.0, 102.0, 200, 3.0).overhead_ms == -0.5


@pytest.mark.parametrize(
    ("period", "longest_ms"),
    [
        (200, 10 + 40),  # one layer per step: the longest
        (4, 10 + 40),
        (3, 10 + 40 + 30),  # two per step
        (2, 10 + 40 + 30),
        (1, 10 + 40 + 30 + 20 + 10),  # all of them
    ],
)
def test_layers_that_take_turns_spread_a_refresh(period, longest_ms):
    each_ms = [20.0, 40.0, 10.0, 30.0]
    assert staggered_step_ms(10.0, 110.0, period, each_ms) == pytest.approx(longest_ms)
    # Only the ratios of the single layers' count: the refresh of all may take less than they do one by one.
    halved = staggered_step_ms(10.0, 60.0, period, each_ms)
    assert halved == pytest.approx(10 + (longest_ms - 10) / 2)


def test_layers_that_take_turns_where_a_refresh_costs_nothing():
    assert staggered_step_ms(10.0, 9.0, 2, [1.0, 2.0, 3.0]) == 10
    assert staggered_step_ms(10.0, 19.0, 2, [0.0, 0.0, 0.0]) == pytest.approx(10 + 9 * 2 / 3)


def test_refreshes_and_ordinary_steps_are_told_apart(layers, clocked):
    """Whole steps: the first 1000 ms, then 1, 50, 3, 70. A single layer's refresh takes 9 or, the wide one, 29 ms."""

    def taken_ms(method, updated, t):
        if method == "lion":
            return 0.0
        if len(updated) == 1:
            return {1: 5.0, 2: 1.0, 3: 30.0 if 9 in updated[0].shape else 10.0}[t]
        return [1000.0, 1.0, 50.0, 3.0, 70.0][t - 1]

    clocked(taken_ms)
    taken = time_step(layers, "adadiag", {"period": 10}, baseline="lion", rounds=2, budget_s=1e9)
    longest = 2.0 + 58.0 * 29 / (29 + 3 * 9)
    assert taken == StepTime(2.0, 60.0, 10, 0.0, pytest.approx(longest))


# Of SOAP those that refresh before or after the step, with a first step that moves something or nothing.
REFRESHING = [
    ("adadiag", {}), ("galore", {"solver": "power"}), ("shampoo", {}), ("sketchy", {"rank": 2}),
    ("adadiag", {"source": "covariance", "stagger": True}), ("soap", {"stagger": True}),
    *(("soap", {"use_current_gradient": before, "skip_first": skips})
      for before in (False, True) for skips in (False, True)),
]  # fmt: skip


@pytest.mark.parametrize(("method", "options"), REFRESHING)
@pytest.mark.parametrize("budget_s", [0.0, 1e9])
def test_steps_in_which_a_basis_is_refreshed_are_the_refreshes(
    layers, monkeypatch, method, options, budget_s
):
    """A layer's refresh takes 10 ms, by the optimizer's own count; whatever else a step does, 1 ms."""

    def timed(run, devices):
        def count():
            return sum(int(s["refreshes"]) for s in states.values() if "refreshes" in s)

        states = run.__self__.state
        before = count()
        run()
        return 1.0 + 10.0 * (count() - before)

    monkeypatch.setattr(clock, "timed_ms", timed)
    taken = time_step(layers, method, options, baseline="lion", rounds=2, budget_s=budget_s)
    assert (taken.ordinary_ms, taken.refresh_ms) == (1.0, 41.0)


def test_a_method_without_decompositions_has_only_ordinary_steps(layers, clocked):
    clocked(lambda method, updated, t: 1000.0 if t == 1 else float(t))
    taken = time_step(layers, "lion", {}, baseline="lion", rounds=2, budget_s=1e9)
    assert taken == StepTime(ordinary_ms=3.5, refresh_ms=None, period=None, baseline_ms=3.5)
    assert taken.overhead_ms == 0


@pytest.mark.parametrize("method", ["shared-basis", "osd"])
def test_what_is_new_at_every_step_is_no_refresh(layers, method):
    taken = time_step(layers, method, {}, baseline="adamw", rounds=1, budget_s=1e9)
    assert (taken.refresh_ms, taken.staggered_ms, taken.period) == (None, None, None)


def test_the_baseline_is_timed_in_turn_so_that_a_changing_load_falls_on_both(model, monkeypatch):
    """Each pair of steps finds the machine twice as slow as the one before; the ratio of the two stays."""
    calls = []

    def timed(run, devices):
        run()
        calls.append(method_of(run))
        own_ms = {"lion": 5.0, "adamw": 2.0}[calls[-1]]
        return own_ms * 2.0 ** ((len(calls) - 1) // 2)

    monkeypatch.setattr(clock, "timed_ms", timed)
    monkeypatch.setattr(ShapeClassSteps, "take", lambda self, most, end_s: None)
    monkeypatch.setattr(ShapeClassSteps, "whole_s", lambda self, steps: 0.0)
    monkeypatch.setattr(ShapeClassSteps, "excesses_ms", lambda self: [])
    taken = time_step(model, "lion", {}, baseline="adamw", rounds=2, budget_s=1e9)
    assert calls == ["lion", "adamw"] * 5
    load = (4 + 8) / 2  # the median of the pairs after the first: 2, 4, 8, 16
    assert (taken.step_ms, taken.baseline_ms) == (5 * load, 2 * load)
    assert taken.overhead_ms == 3 * load


def by_shape(narrow_ms, wide_ms, whole_ms=None):
    """Times of the layers' steps by t, 1, even or odd, and of whole ones; the baseline's are a tenth."""

    def taken_ms(method, updated, t):
        times = wide_ms if 9 in updated[0].shape else narrow_ms
        own_ms = times[0 if t == 1 else 1 + t % 2] if len(updated) == 1 else whole_ms
        return own_ms / (1 if method == "adadiag" else 10)

    return taken_ms


def test_where_whole_steps_would_take_too_long_layers_are_counted(layers, clocked):
    # A first step, ordinary ones and refreshes: three layers of 400, 100 and 300 ms, one of 4000, 1000 and 2000.
    clocked(by_shape([400.0, 100.0, 300.0], [4000.0, 1000.0, 2000.0]))
    taken = time_step(layers, "adadiag", {"period": 2}, baseline="adamw", rounds=1, budget_s=1.0)
    ordinary, refresh = 3 * 100 + 1000, 3 * 300 + 2000
    baseline = ordinary / 10  # the median of steps 2 to 6, three of which are short
    longest = ordinary + 1000 + 200  # two of four layers at a step
    assert taken == StepTime(
        pytest.approx(ordinary),
        pytest.approx(refresh),
        2,
        pytest.approx(baseline),
        pytest.approx(longest),
        "steps",
    )


@pytest.mark.parametrize(
    ("budget_s", "counted"),
    [
        (
            1.1 * (3 * 0.8 + 7.0) + 0.01,
            None,
        ),  # three steps of every layer, and the baseline's tenth
        (1.1 * (3 * 0.8 + 7.0) - 0.01, "refreshes"),
        (1.1 * 2 * (3 * 0.1 + 1.0) + 0.01, "refreshes"),  # two ordinary ones
        (1.1 * 2 * (3 * 0.1 + 1.0) - 0.01, "steps"),
    ],
)
def test_as_much_is_timed_with_all_layers_at_once_as_fits(
    layers, clocked, monkeypatch, budget_s, counted
):
    monkeypatch.setattr(timing.time, "perf_counter", lambda: 0.0)
    clocked(by_shape([400.0, 100.0, 300.0], [4000.0, 1000.0, 2000.0], whole_ms=2000.0))
    taken = time_step(layers, "adadiag", {}, baseline="adamw", rounds=1, budget_s=budget_s)
    assert taken.counted == counted
    ordinary, refresh = (1300, 2900) if counted == "steps" else (2000, 2000)
    if counted == "refreshes":
        refresh = 2000 + 3 * 200 + 1000
    assert (taken.ordinary_ms, taken.refresh_ms) == pytest.approx((ordinary, refresh))
    assert taken.baseline_ms == pytest.approx(ordinary / 10)


@pytest.mark.parametrize("method", [name for name in METHODS if not needs_closure(name)])
def test_ordinary_steps_of_all_layers_refresh_none(layers, method):
    """The state of one layer of each shape is copied to the others, and the weights stay as they are."""
    if get_method(method).missing_extra() is not None:
        pytest.skip(get_method(method).missing_extra())
    schedule = {"period": 2, "early_refresh": False, "start_step": 1}
    options = {k: v for k, v in schedule.items() if k in get_method(method).defaults}
    weights = [parameter.detach().clone() for parameter in layers.parameters()]
    optimizer = create(method, layers, lr=0.0, **options)
    steps = ShapeClassSteps([optimizer], lambda t: bool(options) and t % 2 == 1, set())
    steps.take(3, float("inf"))
    refreshes = sum(int(state.get("refreshes", 0)) for state in optimizer.state.values())
    (times_ms,) = steps.ordinary_steps(3, float("inf"))
    assert len(times_ms) == 3
    after = [int(state.get("refreshes", 0)) for state in optimizer.state.values()]
    assert len(after) == 4
    if options:  # without a period some count every step as one
        assert (
            sum(after) == 2 * refreshes
        )  # three narrow layers and a wide one, by the first of each
    for parameter, weight in zip(layers.parameters(), weights, strict=True):
        assert torch.equal(parameter, weight)


def test_nothing_is_counted_where_every_shape_is_there_once(model):
    assert not time_step(model, "adadiag", {}, baseline="adamw", budget_s=0).counted


@pytest.mark.parametrize(
    ("second_s", "steps"),
    [
        (
            0.125,
            4,
        ),  # each takes 4 calls of the clock: 0.5 s, and half of the 1.5 s after three is enough for one
        (0.25, 3),  # the third just ends after 3 s
        (0.3, 2),  # a third would end after 3.6 s
        (50.0, 2),
    ],
)
def test_long_steps_are_taken_twice_and_thrice_where_that_ends_soon(
    layers, monkeypatch, second_s, steps
):
    now = [0.0]
    calls = []

    def timed(run, devices):
        run()
        now[0] += second_s
        calls.append(method_of(run))
        return second_s * 1e3

    monkeypatch.setattr(clock, "timed_ms", timed)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    time_step(layers, "adadiag", {}, baseline="adamw", rounds=1, budget_s=0 if steps < 4 else 3.0)
    classes = 2
    assert calls == ["adadiag", "adamw"] * classes * steps


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

    monkeypatch.setattr(clock, "timed_ms", timed)
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
    assert order == ["own", "own", "plain"] * 3
    assert isinstance(own[0], nn.Sequential)
    loads = [3 * k for k in range(1, 4)][1:]
    beyond = [7 * load - 4 * (1 + load) for load in loads]
    assert taken.step_ms == statistics.median(beyond)
    assert taken.baseline_ms == statistics.median([1 + load for load in loads])
    assert taken.period is None
    for parameter, weight in zip(model.parameters(), weights, strict=True):
        assert torch.equal(parameter, weight)


def test_the_method_table_takes_the_times_and_says_which_were_counted(monkeypatch):
    session = Session(
        load_target("known_answers.py", base=ASSETS), Settings(batch_size=1, batches=1)
    )
    model, batch = session.build_on_device(), session.place(next(session.batches()))
    table = MethodTable(
        session, weights_of(parameter_roles(model)), ["lion", "galore"], lambda _: None, tokens=1
    )
    taken = {
        "adamw": StepTime(2.0, None, None, 2.0),
        "lion": StepTime(1.0, None, None, 2.0, counted="steps"),
        "galore": StepTime(3.0, 23.0, 10, 2.5, 5.0, counted="refreshes"),
    }
    monkeypatch.setattr(method_table, "time_step", lambda model, name, *_, **__: taken[name])
    table.time_steps(model, batch, rounds=1, budget_s=1.0)
    lion, galore = table.rows(["lion", "galore"])
    assert (lion.step_ms, lion.overhead_ms, lion.ordinary_ms) == (1.0, -1.0, 1.0)
    assert (lion.refresh_ms, lion.staggered_ms) == (None, None)
    assert (galore.step_ms, galore.overhead_ms) == (5.0, 2.5)
    assert (galore.ordinary_ms, galore.refresh_ms, galore.staggered_ms) == (3.0, 23.0, 5.0)
    assert galore.step_ms_source == "measured"
    assert [line.split(":")[0] for line in table.missing] == [
        "steps of all layers at once, with lion",
        "refreshes of all layers at once, with galore",
    ]


def test_what_comes_between_steps_is_called_before_each_whole_one_and_not_timed(layers, clocked):
    seen = []

    def duration(method, updated, t):
        seen.append("step" if len(updated) > 1 else "one parameter")
        return 1.0

    clocked(duration)
    time_step(
        layers, "lion", {}, baseline="adamw", budget_s=1e9, between=lambda: seen.append("passes")
    )
    whole = seen[seen.index("passes") :]
    assert whole == ["passes", "step"] * (len(whole) // 2)
    assert len(whole) >= 8


def test_what_was_timed_while_the_machine_was_busy_is_timed_again(monkeypatch):
    session = Session(
        load_target("known_answers.py", base=ASSETS), Settings(batch_size=1, batches=1)
    )
    model, batch = session.build_on_device(), session.place(next(session.batches()))
    names = ["lion", "galore", "osd"]
    table = MethodTable(
        session, weights_of(parameter_roles(model)), names, lambda _: None, tokens=1
    )
    windows = {
        "adamw": [StepTime(2.0, None, None, 2.0)],
        "lion": [StepTime(3.0, None, None, 4.0), StepTime(1.5, None, None, 2.0)],
        "galore": [StepTime(3.0, None, None, 2.1)],
        "osd": [StepTime(9.0, None, None, 3.0), StepTime(18.0, None, None, 6.0)],  # busier still
    }
    monkeypatch.setattr(
        method_table, "time_step", lambda model, name, *_, **__: windows[name].pop(0)
    )
    table.time_steps(model, batch, rounds=1, budget_s=60.0)
    assert [row.step_ms for row in table.rows(names)] == [1.5, 3.0, 9.0]
    assert windows["lion"] == windows["osd"] == []


def test_a_method_that_does_not_fit_has_no_time_and_the_next_one_has(monkeypatch):
    session = Session(
        load_target("known_answers.py", base=ASSETS), Settings(batch_size=1, batches=1)
    )
    model, batch = session.build_on_device(), session.place(next(session.batches()))
    table = MethodTable(
        session, weights_of(parameter_roles(model)), ["galore", "lion"], lambda _: None, tokens=1
    )

    def time_step(model, method, *_, **__):
        if method == "galore":
            raise torch.OutOfMemoryError("no room")
        return StepTime(2.0, None, None, 2.0)

    monkeypatch.setattr(method_table, "time_step", time_step)
    table.time_steps(model, batch, rounds=1, budget_s=1.0)
    assert [row.step_ms for row in table.rows(["galore", "lion"])] == [None, 2.0]
    assert table.missing == ["step time of galore: it ran out of GPU memory"]


def test_times_taken_before_an_interrupt_have_their_notes(monkeypatch):
    session = Session(
        load_target("known_answers.py", base=ASSETS), Settings(batch_size=1, batches=1)
    )
    model, batch = session.build_on_device(), session.place(next(session.batches()))
    table = MethodTable(
        session, weights_of(parameter_roles(model)), ["lion"], lambda _: None, tokens=1
    )

    def time_step(model, method, *_, **__):
        if method == "lion":
            raise KeyboardInterrupt
        return StepTime(2.0, None, None, 2.0, counted="steps")

    monkeypatch.setattr(method_table, "time_step", time_step)
    with pytest.raises(KeyboardInterrupt):
        table.time_steps(model, batch, rounds=1, budget_s=1.0)
    assert table.rows(["adamw"])[0].step_ms == 2.0
    (line,) = table.missing
    assert line.startswith("steps of all layers at once, with adamw:")


def test_out_of_time_the_first_step_stands_for_a_refresh(layers, clocked, monkeypatch):
    monkeypatch.setattr(timing, "LONG_S", 0.0)
    monkeypatch.setattr(interleaved, "LONG_S", 0.0)
    monkeypatch.setattr(timing, "_SHORT_S", 0.0)
    clocked(lambda method, updated, t: {1: 1000.0, 2: 2.0}[t] if method == "galore" else 0.0)
    taken = time_step(layers, "galore", {}, baseline="adamw", rounds=2, budget_s=0)
    period = get_method("galore").defaults["period"]
    assert taken == StepTime(4 * 2, 4 * 1000, period, 0, 3 * 2 + 1000, "steps")


def test_shape_classes_are_of_one_group_shape_layout_and_dtype_and_have_a_gradient():
    model = nn.ModuleList(nn.Linear(4, 5) for _ in range(7))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    model[1].weight.grad = None
    model[2].to(torch.bfloat16)
    model[3].weight.data = torch.zeros(4, 5).T
    groups = [
        {"params": list(model[:6].parameters())},
        {"params": list(model[6].parameters()), "betas": (0.5, 0.9)},
    ]
    for group in groups:
        for parameter in group["params"]:
            parameter.grad = None if parameter.grad is None else torch.zeros_like(parameter)
    classes = shape_classes(create("adadiag", model, groups=groups))
    weights = [(alike[0], len(alike)) for alike in classes if alike[0].ndim == 2]
    assert [count for _, count in weights] == [3, 1, 1, 1]
    expected = [model[0].weight, model[2].weight, model[3].weight, model[6].weight]
    assert all(found is one for (found, _), one in zip(weights, expected, strict=True))
    assert [len(alike) for alike in classes if alike[0].ndim == 1] == [5, 1, 1]


def test_a_single_gradient_is_left_and_the_others_come_back(layers):
    optimizer = create("adamw", layers)
    gradients = [p.grad for p in layers.parameters()]
    with only_gradient_of(layers[1].weight, optimizer):
        assert [p.grad is None for p in layers.parameters()] == [True, False, True, True]
    assert all(p.grad is g for p, g in zip(layers.parameters(), gradients, strict=True))


@pytest.mark.parametrize("method", ["galore", "adadiag++", "osd", "soap-one-sided"])
def test_no_product_is_multiplied_by_zero_which_blas_leaves_out(model, method, monkeypatch):
    rates, add_product = [], torch.addmm

    def watched(*arguments, **keywords):
        if keywords.get("out") is arguments[0]:  # a step's way back to the weights
            rates.append(keywords["alpha"])
        return add_product(*arguments, **keywords)

    monkeypatch.setattr(torch, "addmm", watched)
    time_step(model, method, {}, baseline="adamw", rounds=1)
    assert rates
    assert 0 not in rates


@pytest.mark.parametrize("method", ["adamw", "adadiag++", "osd", "lion"])
def test_the_weights_stay_and_so_do_the_gradients(model, method):
    with torch.no_grad():  # what a rate that rounding undoes could still move
        for parameter in model.parameters():
            parameter.view(-1)[::2] = 0.0
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    groups = [{"params": list(model.parameters()), "lr": 0.5}]
    time_step(model, method, {}, baseline="adamw", groups=groups, rounds=1)
    for parameter, weight, gradient in zip(model.parameters(), weights, gradients, strict=True):
        assert torch.equal(parameter, weight)
        assert torch.equal(parameter.grad, gradient)


def test_forward_and_backward_leave_the_last_gradients(model, monkeypatch):
    def pretend(times_ms):
        left = iter(times_ms)
        monkeypatch.setattr(clock, "timed_ms", lambda run, devices: run() or next(left))

    pretend([1000, 1, 5, 3])
    seen = []

    def forward_backward(net, batch):
        seen.append(batch)

    assert time_forward_backward(forward_backward, model, [1, 2, 3, 4]) == 3
    assert seen == [1, 2, 3, 4]
    pretend([7])
    assert time_forward_backward(forward_backward, model, [1]) == 7


def test_the_clock_runs_what_it_times():
    ran = []
    assert clock.timed_ms(lambda: ran.append(1), set()) >= 0
    assert ran == [1]
