"""What fits into the minutes: long enough runs first, then contestants, then trials."""

from __future__ import annotations

import pytest

from subopt.errors import UsageError
from subopt.recipes.race.candidates import Candidate
from subopt.recipes.race.plan import LATER_TRIALS_SHARE, USABLE_SHARE, lay_out
from subopt.recipes.race.step_time import CandidateStepTime, steps_within

NAMES = ("adamw", "lion", "muon", "galore", "osd", "hfac", "soap", "adadiag")
ENTRANTS = [Candidate(method=name, start_lr=1e-3) for name in NAMES]


def laid_out(minutes, *, step_ms=100.0, step_times=None, candidates=ENTRANTS, **keys):
    step_times = {
        name: CandidateStepTime(ordinary_ms=step_ms, build_ms=500, eval_ms=50) for name in NAMES
    } | (step_times or {})
    settings = {"spent_s": 5.0, "finalists": 3, "seeds": 3, "is_fixed": False, "most_steps": None}
    return lay_out(candidates, step_times, minutes=minutes, **settings | keys), step_times


def planned_s(layout, step_times, spent_s=5.0):
    """The real time of a layout as its rule counts it."""
    searching = 1 + (layout.trials - 1) * LATER_TRIALS_SHARE
    own = [
        (p.build_ms + 10 * p.eval_ms) / 1000
        for p in (step_times[e.method] for e in layout.contestants)
    ]
    finals = (min(3, len(own) - 1) + 1) * (layout.seeds - 1)
    return (
        spent_s
        + searching * sum(layout.horizon_s + s for s in own)
        + finals * (layout.horizon_s + max(own))
    )


@pytest.mark.parametrize("minutes", [1, 2, 5, 20, 60, 600])
def test_it_fits_the_minutes_and_uses_them(minutes):
    layout, step_times = laid_out(minutes)
    assert planned_s(layout, step_times) == pytest.approx(60 * minutes * USABLE_SHARE)
    assert layout.contestants[0].method == "adamw"
    out = [item.method for item in layout.left_out]
    assert [e.method for e in layout.contestants] + out == list(NAMES)


def test_more_minutes_are_more_contestants_then_more_trials():
    found = [laid_out(minutes)[0] for minutes in (1.5, 5, 20, 40, 90, 600)]
    sizes = [(len(layout.contestants), layout.trials) for layout in found]
    assert sizes[0][0] < 8
    assert [count for count, _ in sizes] == sorted(count for count, _ in sizes)
    assert sizes[-1] == (8, 9)
    assert all(item.reason.startswith("too few minutes") for item in found[0].left_out)


def test_those_asked_for_all_take_part_or_none():
    layout, _ = laid_out(4, is_fixed=True)
    assert len(layout.contestants) == 8
    assert laid_out(4)[0].trials >= layout.trials
    with pytest.raises(UsageError, match=r"0\.5 minutes are too few"):
        laid_out(0.5, is_fixed=True)


def test_the_shortest_race_there_is_needs_the_minutes_it_names():
    with pytest.raises(UsageError) as caught:
        laid_out(0.05)
    needed = float(caught.value.hint.partition("--minutes ")[2].partition(";")[0])
    layout, _ = laid_out(needed)
    assert len(layout.contestants) <= 3  # a tenth of a minute is a trial or two
    assert (layout.trials, layout.seeds) == (1, 1)
    with pytest.raises(UsageError):
        laid_out(needed - 0.1)


def test_a_method_too_slow_for_the_horizon_is_left_out():
    slow = CandidateStepTime(ordinary_ms=60_000.0)
    layout, _ = laid_out(20, step_times={"soap": slow})
    assert [item.method for item in layout.left_out] == ["soap"]
    assert "too slow" in layout.left_out[0].reason


def test_slow_methods_never_leave_a_race_of_one():
    slow = {name: CandidateStepTime(ordinary_ms=60_000.0) for name in NAMES if name != "adamw"}
    for settings in (
        {"step_times": slow},
        {"step_times": {"soap": slow["soap"]}, "is_fixed": True},
    ):
        with pytest.raises(UsageError) as caught:
            laid_out(5, **settings)
        needed = float(caught.value.hint.partition("--minutes ")[2].partition(";")[0])
        layout, _ = laid_out(needed, **settings)
        assert len(layout.contestants) == (8 if "is_fixed" in settings else 2)
        assert layout.trials == 1


def test_runs_are_never_longer_than_the_recipes():
    layout, step_times = laid_out(600, most_steps=400)
    assert steps_within(layout.horizon_s, step_times["adamw"], "adamw", {})[0] == 400
    assert planned_s(layout, step_times) < 60 * 600
