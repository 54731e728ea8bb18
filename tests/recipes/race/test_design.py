"""What a budget buys, what that costs at most, and the grid of rates."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from subopt.recipes.race.design import Design, Rung, design_for, designs, least_cost_runs, rung_step
from subopt.recipes.race.rate_grid import half_decades_from, within


def spent(design):
    """The cost of the runs that stop, one by one."""
    cost = 0.0
    survivors = []
    for _ in range(design.methods):
        going = design.rates + design.moves
        for rung in design.rate_rungs:
            cost += max(0, going - rung.keep) * rung.share
            going = min(going, rung.keep)
        if design.lowers:  # those that were best stop too, and others begin
            cost += going * design.rate_rungs[-1].share
        survivors.append(going)
    going = sum(survivors)
    for rung in design.method_rungs:
        cost += max(0, going - rung.keep) * rung.share
        going = min(going, rung.keep)
    return cost


@pytest.mark.parametrize("methods", [1, 2, 3, 4])
def test_the_cost_counts_every_run_that_stops(methods):
    for design in designs(methods):
        assert design.cost_runs == pytest.approx(spent(design))
        assert (design.rate_rungs + design.method_rungs)[-1].keep == 1
    costs = [design.cost_runs for design in designs(methods)]
    assert costs == sorted(costs)
    assert least_cost_runs(methods, steps=1000) == costs[0]


def test_only_rates_that_were_compared_within_the_warm_up_are_lowered():
    for methods in (1, 2, 3):
        for design in designs(methods):
            assert design.lowers == (design.rate_rungs[-1].share < 0.1)


@pytest.mark.parametrize(
    ("share", "methods", "cost"),
    [(0.06, 1, 0.06), (0.1, 1, 0.06), (0.5, 1, 0.5), (0.9, 1, 0.5), (1.5, 2, 1.3), (50, 2, 1.3)],
)
def test_what_a_budget_buys(share, methods, cost):
    design = design_for(share, steps=1000, most_methods=4)
    assert design.methods == methods
    assert design.cost_runs == pytest.approx(cost)


def test_a_budget_is_never_exceeded_and_more_buys_no_less():
    before = 0.0
    for percent in range(1, 300):
        design = design_for(percent / 100, steps=1000, most_methods=4)
        if design is None:
            assert percent / 100 < least_cost_runs(1, steps=1000)
            continue
        assert design.cost_runs <= percent / 100 + 1e-9
        assert design.methods >= before
        before = design.methods
        counted = design_for(percent / 100, steps=1000, most_methods=4, with_winner=True)
        if counted is not None:
            assert counted.cost_runs + counted.decided_at <= percent / 100 + 1e-9


def test_so_many_methods_as_were_asked_for_or_none():
    assert design_for(0.2, steps=1000, most_methods=3, fixed_methods=3) is None
    assert design_for(2, steps=1000, most_methods=3, fixed_methods=3).methods == 3
    assert design_for(2, steps=1000, most_methods=3, fixed_methods=1).methods == 1


def test_in_a_short_run_the_first_rung_lies_behind_the_warm_up_and_lowers_nothing():
    quick = designs(1)[0]
    assert quick.over(500) == quick
    assert [quick.over(steps).lowers for steps in (500, 101, 100, 20)] == [True, True, False, False]
    assert quick.over(100).cost_runs == pytest.approx(0.2)


def test_in_short_runs_rungs_that_fall_together_are_one():
    rungs = (Rung(share=0.02, keep=2), Rung(share=0.05, keep=1))
    last = (Rung(share=0.3, keep=1),)
    design = Design(methods=2, rates=3, moves=1, rate_rungs=rungs, method_rungs=last)
    assert design.over(1000) == design
    assert design.over(400).rate_rungs == (Rung(share=0.025, keep=2), Rung(share=0.05, keep=1))
    assert design.over(250).rate_rungs == (Rung(share=0.05, keep=1),)
    assert design.over(100).rate_rungs == (Rung(share=0.1, keep=1),)
    assert design.over(100).cost_runs == pytest.approx(2 * 3 * 0.1 + 0.3)
    tiny = design.over(12)
    assert (tiny.rate_rungs, tiny.method_rungs) == (
        (Rung(share=10 / 12, keep=1),), (Rung(share=10 / 12, keep=1),),
    )  # fmt: skip
    assert Design.model_validate(tiny.model_dump()) == tiny
    for steps in (1, 5, 10, 12, 100, 250, 1000):
        for rung in design.over(steps).rate_rungs:
            assert rung_step(rung.share, steps) == pytest.approx(rung.share * steps, abs=0.5)


@pytest.mark.parametrize(
    ("share", "steps", "step"),
    [(0.02, 1000, 20), (0.02, 100, 10), (0.02, 5, 5), (1.0, 7, 7), (0.3, 15, 10)],
)
def test_the_step_of_a_rung(share, steps, step):
    assert rung_step(share, steps) == step


@pytest.mark.parametrize(
    "change",
    [
        {"rates": 0}, {"rates": 10**9}, {"moves": 10**9}, {"methods": 10**9}, {"rate_rungs": []},
        {"rate_rungs": [Rung(share=0.1, keep=2), Rung(share=0.1, keep=1)]},
        {"rate_rungs": [Rung(share=0.5, keep=2)]}, {"rate_rungs": [Rung(share=0.4, keep=1)]},
        {"rate_rungs": [Rung(share=(k + 1) / 100, keep=1) for k in range(25)]},
        {"rate_rungs": [{"share": 1.5, "keep": 1}]},
    ],
)  # fmt: skip
def test_what_makes_no_design(change):
    usual = designs(2)[0].model_dump()
    with pytest.raises(ValidationError):
        Design.model_validate(usual | change)


def test_rates_stand_on_half_decades():
    assert [half_decades_from(1e-3, k) for k in range(-2, 4)] == [
        1e-4,
        3e-4,
        1e-3,
        3e-3,
        1e-2,
        3e-2,
    ]
    assert [half_decades_from(3e-2, k) for k in (-1, 0, 1)] == [1e-2, 3e-2, 1e-1]
    assert [half_decades_from(2e-3, k) for k in (-1, 0, 1)] == [6.3e-4, 2e-3, 6.3e-3]
    for lr in (1e-9, 1e-5, 3e-1, 100.0):
        assert half_decades_from(half_decades_from(lr, 1), -1) == lr
    assert (within(1e3), within(1e-12), within(0.1)) == (100.0, 1e-9, 0.1)
