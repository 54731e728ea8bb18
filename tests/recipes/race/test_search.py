"""The search: its first rates, going further out, what it stops, and that told trials leave it where it was."""

from __future__ import annotations

import random

import pytest

from subopt.optimizers import METHODS
from subopt.profilers.record.race import CurvePoint, Trial
from subopt.recipes.race.candidates import Candidate
from subopt.recipes.race.search import FIRST_RUNG, REDUCTION, Search, best_of

PARTS = 10
ADAMW = Candidate(method="adamw", start_lr=1e-3)


def trial(lr, losses, status="done", options=None, method="adamw"):
    curve = [CurvePoint(step=k, seconds=k, tokens=k, loss=loss) for k, loss in enumerate(losses, 1)]
    return Trial(
        method=method, options=options or {}, lr=lr, seed=0, role="search", status=status,
        steps=len(losses), seconds=len(losses), tokens=len(losses),
        loss=None if status == "diverged" else losses[-1], curve=curve,
    )  # fmt: skip


def run(search, curve_of, count):
    """Run trials whose losses are a function of the rate and the options."""
    for _ in range(count):
        lr, options = search.propose()
        losses, status = [], "done"
        for part, loss in enumerate(curve_of(lr, options), start=1):
            losses.append(loss)
            if part < PARTS and search.is_hopeless(part, loss):
                status = "stopped"
                break
        search.tell(trial(lr, losses, status, options))
    return search.trials


def flat(lr, options):
    return [(3 - __import__("math").log10(lr / 1e-3)) ** 2 + 1] * PARTS


def test_the_first_rates_are_multiples_of_the_start():
    trials = run(Search(ADAMW, seed=0), lambda lr, options: [lr] * PARTS, 3)
    assert [t.lr for t in trials] == pytest.approx([1e-3, 1e-3 / 3, 3e-3])
    assert [t.options for t in trials] == [{}] * 3


def test_while_the_best_rate_is_at_an_end_it_goes_further_out():
    up = run(Search(ADAMW, seed=0), lambda lr, options: [1 / lr] * PARTS, 6)
    assert [t.lr for t in up[3:]] == pytest.approx([3e-2, 3e-1, 3.0])
    down = run(Search(ADAMW, seed=0), lambda lr, options: [lr] * PARTS, 5)
    assert [t.lr for t in down[3:]] == pytest.approx([1e-3 / 30, 1e-3 / 300])


def test_then_between_the_neighbours_of_the_best():
    trials = run(Search(ADAMW, seed=0), lambda lr, options: [abs(lr - 1e-3)] * PARTS, 9)
    for number, found in enumerate(trials[3:], start=3):
        tried = sorted(t.lr for t in trials[:number])
        at = tried.index(best_of(trials[:number]).lr)
        assert tried[at - 1] <= found.lr <= tried[at + 1]
    assert best_of(trials).lr == 1e-3


def test_where_everything_diverges_it_goes_lower():
    search = Search(ADAMW, seed=0)
    rates = []
    for _ in range(5):
        lr, options = search.propose()
        rates.append(lr)
        search.tell(trial(lr, [], "diverged", options))
    assert rates[3:] == pytest.approx([1e-3 / 30, 1e-3 / 300])
    lr, options = search.propose()
    assert not search.is_hopeless(FIRST_RUNG, 5.0)
    search.tell(trial(lr, [5.0] * PARTS, "done", options))
    assert best_of(search.trials).lr == lr


def test_halving_against_its_twin():
    """At each rung the best third of those that came so far goes on, and at least one."""
    curves = random.Random(0)

    def curve(lr, options):
        return [curves.random() for _ in range(PARTS)]

    trials = run(Search(ADAMW, seed=3), curve, 30)
    rungs = {FIRST_RUNG: [], FIRST_RUNG * REDUCTION: []}
    for found in trials:
        expected = PARTS
        for rung, values in rungs.items():
            loss = found.curve[rung - 1].loss if len(found.curve) >= rung else None
            values.append(loss)
            if sorted(values).index(loss) >= max(1, len(values) // REDUCTION):
                expected = rung
                break
        assert len(found.curve) == expected
    assert {len(found.curve) for found in trials} == {FIRST_RUNG, FIRST_RUNG * REDUCTION, PARTS}


@pytest.mark.parametrize("told", [0, 1, 3, 4, 7])
def test_told_trials_leave_a_search_where_it_was(told):
    def curve(lr, options):
        noise = random.Random(f"{lr}{options}")
        return [abs(lr - 2e-3) + noise.random() / 100 for _ in range(PARTS)]

    whole = run(Search(ADAMW, seed=5), curve, 9)
    resumed = Search(ADAMW, seed=5)
    for found in whole[:told]:
        resumed.replay(found)
    assert run(resumed, curve, 9 - told) == whole
    assert run(Search(ADAMW, seed=6), curve, 9) != whole


def test_options_are_searched_beside_rates():
    tried = run(
        Search(Candidate(method="soap", start_lr=1e-3), seed=0), lambda lr, o: [lr] * PARTS, 9
    )
    assert {tuple(t.options.items()) for t in tried} == {(), (("period", 50),)}
    own = Candidate(method="soap", options={"period": 7}, start_lr=1e-3)
    tried = run(Search(own, seed=0), lambda lr, o: [lr] * PARTS, 9)
    assert tried[0].options == {"period": 7}
    assert {t.options["period"] for t in tried} <= {7, 10, 50}
    assert len({t.options["period"] for t in tried}) > 1


@pytest.mark.parametrize("name", METHODS)
def test_searched_options_are_the_methods_own_and_take_no_more_memory(name):
    method = METHODS[name]
    default = method.resolve({})
    assert len(method.searched) <= 2
    for option, values in method.searched.items():
        assert option in method.tunable
        assert values[0] == (tuple(default[option]) if option == "betas" else default[option])
        for value in values:
            for shape in ((64, 96), (128, 8)):
                assert method.state_bytes(shape, options={option: value}) <= method.state_bytes(
                    shape
                )
