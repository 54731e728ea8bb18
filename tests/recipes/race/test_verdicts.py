"""What may be said of paired losses: never a win inside the spread."""

from __future__ import annotations

import itertools
import random

import pytest

from subopt.profilers.record.race import CurvePoint, Trial
from subopt.recipes.race.candidates import Candidate
from subopt.recipes.race.step_time import CandidateStepTime
from subopt.recipes.race.verdicts import contestants_of, finalists_of, method_results, verdict_of

SEEDS = [0, 1, 2]


def trial(method, loss, *, lr=0.1, seed=0, role="search", status="done", options=None):
    curve = [] if loss is None else [CurvePoint(step=10, seconds=10, tokens=80, loss=loss)]
    return Trial(
        method=method, options=options or {}, lr=lr, seed=seed, role=role, status=status,
        steps=10, seconds=10, tokens=80, loss=loss, curve=curve,
    )  # fmt: skip


def result(trials, names=("adamw", "lion", "muon")):
    candidates = [Candidate(method=name, start_lr=0.1) for name in names]
    found = method_results(candidates, trials)
    step_times = {name: CandidateStepTime(ordinary_ms=1000, state_bytes=7) for name in names}
    listed = contestants_of(
        found, trials, baseline="adamw", seeds=SEEDS, step_times=step_times, horizon_s=10
    )
    return {contestant.method: contestant for contestant in listed}


def twin(own, base):
    """The rule in other words: whether zero is outside the interval mean - spread .. mean + spread."""
    differences = [a - b for a, b in zip(own, base, strict=True)]
    mean = sum(differences) / len(differences)
    widest = max(abs(a - b) for a, b in itertools.product(differences, repeat=2))
    if mean - widest > 0:
        return "worse"
    return "better" if mean + widest < 0 else "inside the spread"


def test_against_its_twin():
    numbers, seen = random.Random(0), set()
    for _ in range(500):
        base = [numbers.gauss(2, 0.1) for _ in SEEDS]
        own = [loss + numbers.choice([-0.3, 0, 0.3]) + numbers.gauss(0, 0.08) for loss in base]
        trials = [trial("adamw", base[0]), trial("lion", own[0])]
        for seed in (1, 2):
            trials += [
                trial("adamw", base[seed], seed=seed, role="final"),
                trial("lion", own[seed], seed=seed, role="final"),
            ]
        found = result(trials, names=("adamw", "lion"))
        lion = found["lion"]
        assert lion.verdict == twin(own, base)
        assert lion.losses == own
        assert abs(lion.difference) <= lion.difference_spread or lion.verdict != "inside the spread"
        assert found["adamw"].verdict == "baseline"
        assert found["adamw"].difference is None
        seen.add(lion.verdict)
    assert seen == {"better", "worse", "inside the spread"}


def test_equal_losses_are_no_win():
    assert verdict_of([0.0, 0.0, 0.0], diverged=False) == "inside the spread"
    assert (
        verdict_of([-0.1, -0.2, -0.3], diverged=False) == "inside the spread"
    )  # as far as it varies
    assert verdict_of([-0.1, -0.2], diverged=False) == "better"
    assert verdict_of([-5.0], diverged=False) == "one seed only"
    assert verdict_of([-5.0, -5.0], diverged=True) == "diverged"


def test_pairs_are_of_common_seeds():
    trials = [
        trial("adamw", 2.0), trial("lion", 1.0), trial("muon", 3.0),
        trial("adamw", 2.5, seed=1, role="final"), trial("lion", 1.4, seed=1, role="final"),
        trial("lion", 9.0, seed=2, role="final"),
    ]  # fmt: skip
    found = result(trials)
    assert found["lion"].losses == [1.0, 1.4, 9.0]
    assert found["lion"].difference == pytest.approx((-1.0 - 1.1) / 2)
    assert found["lion"].difference_spread == pytest.approx(0.1)
    assert found["lion"].verdict == "better"
    assert found["muon"].verdict == "one seed only"
    assert found["muon"].difference == pytest.approx(1.0)


def test_a_repetition_that_diverges_loses():
    trials = [
        trial("adamw", 2.0), trial("lion", 1.0), trial("muon", None, status="diverged"),
        trial("adamw", 2.0, seed=1, role="final"),
        trial("lion", None, seed=1, role="final", status="diverged"),
    ]  # fmt: skip
    found = result(trials)
    assert found["lion"].verdict == "diverged"
    assert found["lion"].losses == [1.0]
    assert found["muon"].verdict == "diverged"
    assert found["muon"].losses == []
    assert found["muon"].lr == 0.1
    assert list(found) == [
        "adamw",
        "lion",
        "muon",
    ]  # who diverged comes last, whatever the losses before


def test_repetitions_of_another_setting_do_not_count():
    trials = [
        trial("adamw", 2.0), trial("lion", 1.5), trial("lion", 1.0, lr=0.2),
        trial("adamw", 2.0, seed=1, role="final"), trial("lion", 1.7, seed=1, role="final"),
    ]  # fmt: skip
    found = result([*trials, trial("adamw", 2.1)], names=("adamw", "lion"))["lion"]
    assert (found.lr, found.losses, found.verdict) == (0.2, [1.0], "one seed only")


def test_a_search_cut_short_counts_what_all_had():
    trials = [
        trial("adamw", 2.0), trial("adamw", 0.5, lr=0.2), trial("lion", 1.0), trial("muon", 3.0),
        trial("muon", 0.1, lr=0.3),
    ]  # fmt: skip
    found = result(trials)
    assert {name: entry.trials for name, entry in found.items()} == {
        "adamw": 1,
        "lion": 1,
        "muon": 1,
    }
    assert found["adamw"].losses == [2.0]
    assert found["muon"].losses == [3.0]
    assert "osd" not in result(trials, names=("adamw", "lion", "muon", "osd"))


def test_stopped_trials_are_nobodys_best():
    trials = [trial("adamw", 2.0), trial("adamw", 1.0, lr=0.2, status="stopped")]
    assert result(trials, names=("adamw",))["adamw"].lr == 0.1


def test_the_best_go_to_the_finals_with_adamw():
    names = ("adamw", "lion", "muon", "osd", "soap")
    losses = {"adamw": 5.0, "lion": 1.0, "muon": None, "osd": 2.0, "soap": 3.0}
    trials = [
        trial(name, loss, status="done" if loss else "diverged") for name, loss in losses.items()
    ]
    found = method_results([Candidate(method=name, start_lr=0.1) for name in names], trials)
    chosen = [result.candidate.method for result in finalists_of(found, "adamw", 2)]
    assert chosen == ["adamw", "lion", "osd"]
    assert len(finalists_of(found, "adamw", 9)) == 4
