"""How a race stands, against a twin that halves a full table of losses by loops."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subopt.profilers.record.race import LeftOut
from subopt.recipes.race.candidates import Candidate
from subopt.recipes.race.design import Design, Rung, rung_step
from subopt.recipes.race.folder import Entry, Point, RacePlan
from subopt.recipes.race.standing import Standing

GRID = [
    float(f"{digit}e{power}")
    for power in range(-9, 3)
    for digit in (1, 3)
    if digit * 10.0**power <= 100
]
STEPS = 1000


def plan_of(methods, *, rates, moves, rate_rungs, method_rungs, lowers=False, start=1e-2):
    return RacePlan(
        settings={},
        design=Design(
            methods=len(methods), rates=rates, moves=moves, lowers=lowers,
            rate_rungs=[Rung(share=share, keep=keep) for share, keep in rate_rungs],
            method_rungs=[Rung(share=share, keep=keep) for share, keep in method_rungs],
        ),
        candidates=[Candidate(method=name, start_lr=start, steps=STEPS) for name in methods],
    )  # fmt: skip


def point(method, lr, share, loss):
    step = rung_step(share, STEPS)
    return Point(
        method=method, lr=lr, share=share, step=step, tokens=step,
        loss=loss if math.isfinite(loss) else None,
    )  # fmt: skip


def played(plan, loss_of):
    """Run a race to its end; return what it trained, in order, and how it stands."""
    entries, order = [], []
    while (following := Standing(plan, entries).next()) is not None:
        run, share = following
        name = (run.candidate.method, run.lr)
        order.append((*name, share))
        entries.append(Entry(point=point(*name, share, loss_of(*name, share)), wall_seconds=1))
        assert len(order) < 1000
    return order, Standing(plan, entries)


def twin(methods, start, rates, moves, rate_rungs, lowers, method_rungs, loss_of):
    """The same from the whole table: which runs exist, how far each goes, and who is left."""
    furthest, finalists = {}, []
    for method in methods:
        at = GRID.index(start) - (0 if lowers else (rates - 1) // 2)
        low, high = max(at, 0), min(at + rates - 1, len(GRID) - 1)
        first = rate_rungs[0][0]
        for _ in range(moves):
            losses = [loss_of(method, lr, first) for lr in GRID[low : high + 1]]
            best = low + losses.index(min(losses))
            if best == low and low > 0:
                low -= 1
            elif best == high and low != high and high < len(GRID) - 1:
                high += 1
            else:
                break
        going = GRID[low : high + 1]
        for share, keep in rate_rungs:
            furthest |= {(method, lr): share for lr in going}
            alive = [lr for lr in going if math.isfinite(loss_of(method, lr, share))]
            going = sorted(alive, key=lambda lr: loss_of(method, lr, share))[:keep]
        if lowers:
            lower = [GRID[max(GRID.index(lr) - 1, 0)] for lr in going]
            furthest |= {(method, lr): share for lr in lower if (method, lr) not in furthest}
            furthest |= {(method, lr): max(furthest[method, lr], share) for lr in lower}
            going = [lr for lr in lower if math.isfinite(loss_of(method, lr, share))] or going
        finalists += [(method, lr) for lr in going]
    if len(finalists) > 1:
        for share, keep in method_rungs:
            furthest |= dict.fromkeys(finalists, share)
            alive = [one for one in finalists if math.isfinite(loss_of(*one, share))]
            finalists = sorted(alive, key=lambda one: loss_of(*one, share))[:keep]
    return furthest, finalists


@st.composite
def races(draw):
    methods = draw(st.sampled_from([["soap"], ["adamw", "soap"], ["adamw", "lion", "soap"]]))
    rates, moves = draw(st.integers(1, 5)), draw(st.integers(0, 4))
    start = draw(st.sampled_from([1e-9, 1e-3, 3e-3, 1e-2, 30.0, 100.0]))
    rate_rungs = draw(
        st.sampled_from([[(0.05, 1)], [(0.02, 2), (0.05, 1)], [(0.02, 3), (0.05, 2), (0.1, 1)]])
    )
    method_rungs = draw(st.sampled_from([[(0.3, 1)], [(0.2, 2), (0.3, 1)]]))
    values = draw(st.randoms(use_true_random=False))
    slope = draw(st.sampled_from([-1.0, 0.0, 1.0]))  # a best rate at an end
    diverging = draw(st.sampled_from([0.0, 0.2, 0.9, 1.0]))
    table = {}

    def loss_of(method, lr, share):
        key = (method, lr, share)
        if key not in table:
            loss = slope * math.log10(lr) + values.random()
            table[key] = math.inf if values.random() < diverging else loss
        return table[key]

    lowers = draw(st.booleans())
    return (methods, start, rates, moves, rate_rungs, lowers, method_rungs, loss_of)


@settings(max_examples=400, deadline=None)
@given(races())
def test_halving_against_its_twin(race):
    methods, start, rates, moves, rate_rungs, lowers, method_rungs, loss_of = race
    plan = plan_of(
        methods,
        rates=rates,
        moves=moves,
        rate_rungs=rate_rungs,
        method_rungs=method_rungs,
        lowers=lowers,
        start=start,
    )
    order, standing = played(plan, loss_of)
    furthest, finalists = twin(*race)
    assert standing.is_decided
    assert [(run.candidate.method, run.lr) for run in standing.going_on] == finalists
    assert {(run.candidate.method, run.lr) for run in standing.runs()} == furthest.keys()
    for method, lr, share in order:
        assert share <= furthest[method, lr]
    for key, share in furthest.items():
        assert max(s for *one, s in order if tuple(one) == key) == share
    assert len(set(order)) == len(order)  # nothing is trained twice
    if finalists:
        assert (
            standing.leaders()[0].run.candidate.method,
            standing.leaders()[0].run.lr,
        ) == finalists[0]
    stopped = sum(share for key, share in furthest.items() if key not in finalists[:1])
    if finalists:
        assert stopped <= plan.design.cost_runs + 1e-9


@settings(max_examples=100, deadline=None)
@given(races(), st.randoms(use_true_random=False))
def test_the_order_of_the_entries_does_not_matter(race, numbers):
    methods, start, rates, moves, rate_rungs, lowers, method_rungs, loss_of = race
    plan = plan_of(
        methods,
        rates=rates,
        moves=moves,
        rate_rungs=rate_rungs,
        method_rungs=method_rungs,
        lowers=lowers,
        start=start,
    )
    order, standing = played(plan, loss_of)
    entries = [Entry(point=point(*key, loss_of(*key)), wall_seconds=1) for key in order]
    numbers.shuffle(entries)
    other = Standing(plan, entries)
    assert other.going_on == standing.going_on
    assert other.leaders() == standing.leaders()
    cut = entries[
        : len(entries) // 2
    ]  # whatever is known, what comes next is a part of the same race
    following = Standing(plan, cut).next()
    assert (
        following is None or (following[0].candidate.method, following[0].lr, following[1]) in order
    )


def test_ties_go_to_the_lower_rate_and_the_first_method():
    plan = plan_of(
        ["soap", "adamw"], rates=3, moves=0, rate_rungs=[(0.05, 1)], method_rungs=[(0.3, 1)]
    )
    _, standing = played(plan, lambda method, lr, share: 1.0)
    assert [(run.candidate.method, run.lr) for run in standing.going_on] == [("soap", 3e-3)]


def test_it_goes_further_out_while_the_best_is_at_an_end():
    plan = plan_of(["soap"], rates=3, moves=2, rate_rungs=[(0.05, 1)], method_rungs=[])
    order, _ = played(plan, lambda method, lr, share: -lr)
    assert [lr for _, lr, _ in order] == [3e-3, 1e-2, 3e-2, 1e-1, 3e-1]
    order, _ = played(plan, lambda method, lr, share: lr)
    assert [lr for _, lr, _ in order] == [3e-3, 1e-2, 3e-2, 1e-3, 3e-4]
    order, _ = played(plan, lambda method, lr, share: abs(lr - 1e-2))
    assert [lr for _, lr, _ in order] == [3e-3, 1e-2, 3e-2]


def test_half_a_decade_below_the_best_goes_on():
    wanted = {"rates": 2, "moves": 1, "rate_rungs": [(0.02, 1)], "method_rungs": [], "lowers": True}
    order, standing = played(plan_of(["soap"], **wanted), lambda method, lr, share: -lr)
    assert [lr for _, lr, _ in order] == [1e-2, 3e-2, 1e-1]
    assert [run.lr for run in standing.going_on] == [3e-2]
    assert [leader.run.lr for leader in standing.leaders()] == [3e-2]
    order, standing = played(plan_of(["soap"], **wanted), lambda method, lr, share: abs(lr - 3e-3))
    assert [lr for _, lr, _ in order] == [1e-2, 3e-2, 3e-3, 1e-3]  # the last one is new
    assert [run.lr for run in standing.going_on] == [1e-3]


def test_a_lowered_rate_that_diverges_gives_way():
    wanted = {"rates": 2, "moves": 0, "rate_rungs": [(0.02, 1)], "method_rungs": [], "lowers": True}
    _, standing = played(
        plan_of(["soap"], **wanted), lambda method, lr, share: lr if lr > 3e-3 else math.inf
    )
    assert [run.lr for run in standing.going_on] == [1e-2]
    assert [leader.run.lr for leader in standing.leaders()] == [1e-2]


def test_where_everything_diverges_it_goes_lower_and_ends_with_nobody():
    plan = plan_of(["soap"], rates=3, moves=2, rate_rungs=[(0.02, 2), (0.05, 1)], method_rungs=[])
    order, standing = played(plan, lambda method, lr, share: math.inf)
    assert [lr for _, lr, _ in order] == [3e-3, 1e-2, 3e-2, 1e-3, 3e-4]
    assert standing.is_decided
    assert standing.going_on == []
    assert standing.leaders() == []


def test_a_method_that_leaves_takes_its_runs_with_it():
    plan = plan_of(
        ["adamw", "soap"], rates=1, moves=0, rate_rungs=[(0.05, 1)], method_rungs=[(0.3, 1)]
    )
    gone = Entry(left_out=LeftOut(method="adamw", reason="out of memory"), wall_seconds=1)
    standing = Standing(plan, [Entry(point=point("adamw", 1e-2, 0.05, 0.1), wall_seconds=1), gone])
    run, share = standing.next()
    assert (run.candidate.method, share) == ("soap", 0.05)
    done = Entry(point=point("soap", 1e-2, 0.05, 5.0), wall_seconds=1)
    standing = Standing(plan, [gone, done])
    assert standing.is_decided  # nobody is left to compare it with
    assert [run.candidate.method for run in standing.going_on] == ["soap"]


@pytest.mark.parametrize("losses", [{}, {("soap", 3e-3): 2.0}])
def test_before_a_rung_is_complete_nobody_is_stopped(losses):
    plan = plan_of(["soap"], rates=3, moves=1, rate_rungs=[(0.05, 1)], method_rungs=[])
    entries = [Entry(point=point(*key, 0.05, loss), wall_seconds=1) for key, loss in losses.items()]
    standing = Standing(plan, entries)
    assert len(standing.going_on) == 3
    assert not standing.is_decided
    assert [leader.run.lr for leader in standing.leaders()] == [lr for _, lr in losses]
