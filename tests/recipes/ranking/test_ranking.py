"""A race beats all else: how the types of evidence are weighed, and the reasons that are given."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subopt.optimizers import METHODS
from subopt.recipes.advice.advisor import recommend
from subopt.recipes.advice.reasons import (
    BaselineChosen,
    Comparisons,
    DecidedBy,
    HowSure,
    MethodChosen,
    PredictedLayers,
    RaceCutShort,
    RacedRival,
    RacedSeeds,
    RaceResult,
    Rival,
    RunnerUp,
)
from subopt.recipes.evidence.predicted import PredictedGain, predicted_gain
from subopt.recipes.evidence.published import published
from subopt.recipes.evidence.raced import (
    UNKNOWN_SPREAD,
    OtherSetting,
    gain_from_losses,
    raced_gain,
)
from subopt.recipes.evidence.raced_settings import known_rate
from subopt.recipes.prior.gains import (
    GAIN_PER_DOUBLING,
    PriorGain,
    prior_gain,
    worth_of_doubling,
)
from subopt.recipes.prior.traits import Traits, traits_of_profile
from subopt.recipes.ranking.reasons import IsBaseline, NoComparison, NoPrediction
from subopt.recipes.ranking.row import TimeOverhead
from subopt.recipes.ranking.rule import (
    CUT_SHORT,
    FAR_ERROR,
    OTHER_SETTINGS,
    PREDICTED_ERROR,
    PUBLISHED_ERROR,
    WORTH_A_CHANGE,
    expected_gain,
)

from ..advice_profile import (
    GIB,
    agreement,
    contestant,
    cost,
    diagonality,
    layer,
    life,
    only,
    profile,
    race,
)

BUDGET = 80 * GIB
# Gradients that speak strongly for SOAP, a little less for Muon, and against low-rank subspaces.
MATRIX = layer(
    diagonality=diagonality(),
    agreement=agreement(),
    subspace={"gradient": life([0.3, 0.3], [0.3, 0.3], own=0.3)},
)
ALL = ("adamw", "adadiag", "soap", "muon", "galore", "lion")


def advise(*, raced=None, costs=ALL, objective="quality", layers=(MATRIX,), **changes):
    return recommend(
        profile(layers, costs, race=raced, **changes), budget_bytes=BUDGET, objective=objective
    )


def order(advice):
    return [row.method for row in advice.rows]


def row_of(advice, method):
    (row,) = [row for row in advice.rows if row.method == method]
    return row


def predicted(gain, certainty=1.0):
    return PredictedGain(gain, "loss", 1, 1.0, certainty, None, None, None, False, ())


def prior(gain, error=0.1):
    return PriorGain(gain, error, "small models", "loss")


# ---- the mean, by hand


def test_estimates_are_averaged_by_error_and_certainty():
    near = published("adadiag", 10_000_000, "language")  # its authors' own, six times as large
    time = TimeOverhead(1.0, "formula")
    found = expected_gain(None, prior(0.05), predicted(0.2, 0.75), near, time)
    errors = (
        0.1,
        PREDICTED_ERROR + 0.25 * 0.2,
        PUBLISHED_ERROR + 0.625 * FAR_ERROR + 0.625 * near.gain,
    )
    gains = (0.05, 0.75 * 0.2, 0.375 * near.gain)
    weights = [1 / error**2 for error in errors]
    mean = sum(w * g for w, g in zip(weights, gains, strict=True)) / sum(weights)
    assert found.gain == pytest.approx(mean - GAIN_PER_DOUBLING)
    assert found.error == pytest.approx(0.1)
    assert found.decided_by == "prior"
    assert [e.evidence_type for e in found.estimates] == ["prior", "predicted", "published"]


def test_a_step_pays_what_twice_the_steps_are_worth_to_such_a_run():
    for source, share, wanted in (
        ("measured", 7.0, 3 * 0.2),
        ("formula", 7.0, 0.2),  # FLOPs overrate: at most twice as long
        ("formula", 2**0.5 - 1, 0.5 * 0.2),
        ("measured", -0.5, 0.0),
    ):
        time = TimeOverhead(share, source)
        found = expected_gain(None, prior(0.5), None, None, time, doubling=0.2)
        assert found.gain == pytest.approx(0.5 - wanted)


def test_small_models_gain_more_by_more_steps_and_fine_tuning_less():
    small = Traits(None, 200_000, 64, 4, None)
    large = replace(small, parameters=100_000_000)
    assert worth_of_doubling(replace(small, fine_tunes=True)) < worth_of_doubling(large)
    assert worth_of_doubling(large) == GAIN_PER_DOUBLING < worth_of_doubling(small)


def test_the_rows_of_small_models_pay_the_price_of_small_models():
    row = row_of(advise(costs=[cost("adamw"), cost("soap", overhead_ms=55.0)]), "soap")
    (estimate,) = (one for one in row.expected.estimates if one.evidence_type == "prior")
    assert row.overhead.share == pytest.approx(0.5)
    assert row.prior.regime == "small models"
    assert estimate.expected == pytest.approx(estimate.gain - 0.2 * math.log2(1.5))


def test_nothing_known_is_none():
    assert expected_gain(None, None, None, None, TimeOverhead(0.0, "formula")) is None


def test_each_type_alone_is_shrunk_by_its_own_certainty():
    near = published("galore", 60_000_000, "language")
    assert expected_gain(None, None, None, near, None).gain == pytest.approx(near.gain)
    assert expected_gain(None, None, predicted(0.1, 0.5), None, None).gain == pytest.approx(0.05)
    assert expected_gain(None, prior(0.1), None, None, None).gain == pytest.approx(0.1)


def test_a_far_setting_does_not_count_beside_a_prior():
    far = published("galore", 1_000_000, "vision")
    assert far.gain < -0.2
    assert expected_gain(None, prior(0.08), None, far, None).gain == pytest.approx(0.08)


@given(gain=st.floats(-0.5, 0.5), other=st.floats(-0.5, 0.5), share=st.floats(-0.5, 30))
def test_more_of_any_gain_is_never_worse(gain, other, share):
    low, high = sorted((gain, other))
    near = published("adadiag", 60_000_000, "language")
    time = TimeOverhead(share, "formula")
    worse, better = (expected_gain(None, prior(g), predicted(g), near, time) for g in (low, high))
    assert worse.gain <= better.gain


# ---- races


@pytest.mark.parametrize(
    ("kind", "expected"), [("language", 1 - math.exp(-0.1)), ("vision", 0.05), (None, 0.05)]
)
def test_gain_of_losses_is_of_perplexity_or_loss(kind, expected):
    assert gain_from_losses(1.9, 2.0, kind) == pytest.approx(expected)


def test_losses_without_a_share_give_none():
    assert gain_from_losses(math.nan, 2.0, "language") is None
    assert gain_from_losses(math.inf, 2.0, None) is None
    assert gain_from_losses(-1.0, 0.0, None) is None
    assert gain_from_losses(1e300, 1e-300, None) is None


def test_a_race_beats_all_else():
    plain = advise()
    assert plain.chosen.method == "soap"
    assert row_of(plain, "soap").expected.decided_by == "prior"
    against = advise(raced=race(contestant("galore", (1.8, 1.8)), contestant("soap", (2.2, 2.2))))
    assert against.chosen.method == "galore"  # raced, however little is known for it
    assert against.chosen.expected.decided_by == "raced"
    assert order(against)[:3] == ["galore", "adamw", "soap"]


@pytest.mark.parametrize(("share", "settles"), [(None, True), (0.3, True), (0.1, False)])
def test_a_race_of_a_small_part_of_the_run_does_not_settle_which_method(share, settles):
    advice = advise(raced=race(contestant("galore", (1.9, 1.9)), share=share))
    galore = row_of(advice, "galore")
    assert galore.is_raced is settles
    assert (galore.expected.gain == pytest.approx(0.05)) is settles
    assert (advice.chosen.method == "galore") is settles


def test_time_is_in_a_race_already():
    slow = [cost("adamw"), cost("soap", overhead_ms=500.0)]
    advice = advise(raced=race(contestant("soap", (1.8, 1.8))), costs=slow)
    assert row_of(advice, "soap").expected.gain == pytest.approx(0.1)
    assert advice.chosen.method == "soap"
    assert row_of(advise(costs=slow), "soap").score < 0


def test_inside_the_spread_is_no_win():
    advice = advise(raced=race(contestant("soap", (1.98, 2.0), spread=0.05)))
    soap = row_of(advice, "soap")
    assert soap.raced.gain == pytest.approx(0.005)
    assert soap.raced.expected_gain == 0.0
    assert soap.score == -WORTH_A_CHANGE
    assert advice.chosen.method == "adamw"
    rival = only(advice.reasons, RacedRival)
    assert rival == RacedRival("soap", RaceResult(soap.raced.gain, "loss", counts=False))


def test_one_seed_is_judged_by_the_widest_spread_of_the_others():
    def outcome(loss):
        single = contestant("muon", (loss,), verdict="one seed only")
        repeated = contestant("soap", (2.2, 2.2), spread=0.1)
        return raced_gain(profile([MATRIX], ALL, race=race(repeated, single)), "muon", 8)

    assert outcome(1.85).counts
    assert not outcome(1.95).counts
    alone = race(contestant("muon", (1.95,), verdict="one seed only"))
    found = raced_gain(profile([MATRIX], ALL, race=alone), "muon", 8)
    assert (found.spread, found.counts) == (UNKNOWN_SPREAD, False)


@pytest.mark.parametrize("losses", [(1.9, 1.9), (1.9,)])
def test_seeds_that_do_not_differ_have_no_spread(losses):
    verdict = "better" if len(losses) > 1 else "one seed only"
    own = contestant("muon", losses, verdict=verdict, spread=0.0)
    repeated = contestant("soap", (2.2, 2.2), spread=0.0)
    found = raced_gain(profile([MATRIX], ALL, race=race(repeated, own)), "muon", 8)
    assert (found.spread, found.counts) == (0.0, True)


def test_what_diverged_is_last():
    gone = contestant("soap", (), verdict="diverged")
    advice = advise(raced=race(gone, contestant("muon", (2.5, 2.5))))
    assert order(advice)[:3] == ["adamw", "muon", "soap"]
    soap = row_of(advice, "soap")
    assert soap.raced in soap.evidence
    assert (soap.raced.contestant.verdict, soap.raced.gain) == ("diverged", -1.0)


def test_what_was_dropped_early_counts_as_not_raced():
    dropped = contestant("soap", (), verdict="worse")
    advice = advise(raced=race(dropped, contestant("muon", (1.8, 1.8))))
    assert advice.chosen.method == "muon"
    assert not row_of(advice, "soap").is_raced
    assert row_of(advice, "soap").raced.gain is None


def test_a_race_without_the_baselines_loss_says_nothing():
    lost = race(contestant("soap", (1.8, 1.8))).model_copy(
        update={"contestants": [contestant("soap", (1.8, 1.8)), contestant("muon", (1.9, 1.9))]}
    )
    assert raced_gain(profile([MATRIX], ALL, race=lost), "soap", 8).gain is None


@pytest.mark.parametrize("method", ["soap", "muon"])
def test_a_race_without_adamw_says_nothing_of_a_gain_over_it(method):
    entries = [contestant("soap", (1.9,), verdict="baseline"), contestant("muon", (1.5,))]
    others = race(share=0.3).model_copy(update={"contestants": entries, "baseline": "soap"})
    assert raced_gain(profile([MATRIX], ALL, race=others), method, 8) is None


@pytest.mark.parametrize("method", ["adamw", "soap"])
def test_a_race_of_one_methods_rates_gives_its_rate_and_no_gain(method):
    """What `subopt lr` finds: the recipe gets the rate, and nothing is called raced."""
    setting = {"lr": 0.3, "weight_decay": 0.0003 * 0.3 / 0.1}  # which is 0.0008999999999999999
    alone = contestant(method, (1.0,), verdict="baseline").model_copy(update=setting)
    rates = race(share=0.02).model_copy(update={"contestants": [alone], "baseline": method})
    known = profile([MATRIX], ALL, race=rates)
    assert raced_gain(known, method, 8) is None
    found = known_rate(known, method, traits_of_profile(known))
    assert (found.lr, found.weight_decay) == (0.3, 0.0009)
    with_race, without = advise(raced=rates), advise()
    assert not any(row.is_raced or row.raced for row in with_race.rows)
    assert with_race.chosen.method == without.chosen.method
    assert order(with_race) == order(without)


@pytest.mark.parametrize(
    ("changes", "setting", "value"),
    [
        ({"precision": "bf16"}, "precision", "bf16"),
        ({"batch_size": 64}, "batch size", 64),
        ({"accumulate": 4}, "batch size", 32),
        ({"target_sha256": "cd" * 32}, "model file", "cd" * 4),
        ({"device": "cuda:0"}, "device", "cuda:0"),
    ],
)
def test_a_race_at_other_settings_counts_less_and_says_so(changes, setting, value):
    same, other = (
        advise(raced=race(contestant("soap", (1.8, 1.8)), **c)) for c in ({}, changes)
    )  # fmt: skip
    assert len(row_of(same, "soap").expected.estimates) >= 2
    assert row_of(same, "soap").expected.gain == pytest.approx(0.1)
    found = row_of(other, "soap")
    assert not found.is_raced
    raced = found.expected.estimates[0]
    error = 0.01 + 0.05  # the seeds' spread of 0.02 nats of 2, and half of the gain
    assert raced.expected == pytest.approx(OTHER_SETTINGS * 0.1)
    assert raced.weight == pytest.approx(1 / error**2)
    assert found.raced.differs == (OtherSetting(setting, value),)
    if other.chosen.method == "soap":
        assert OtherSetting(setting, value) in only(other.reasons, HowSure).grounds


def test_a_race_cut_short_counts_less():
    short = race(contestant("soap", (1.8, 1.8)), interrupted=True)
    found = row_of(advise(raced=short), "soap").expected
    assert found.gain == pytest.approx(CUT_SHORT * 0.1)
    assert RaceCutShort() in only(advise(raced=short).reasons, HowSure).grounds


def test_nothing_raced_that_fits_leaves_the_unraced():
    heavy = [cost("adamw"), cost("soap"), cost("muon")]
    heavy[:2] = [row.model_copy(update={"state_bytes": 100 * GIB}) for row in heavy[:2]]
    advice = advise(raced=race(contestant("soap", (1.8, 1.8))), costs=heavy)
    assert advice.chosen.method == "muon"


# ---- when plain AdamW is the answer


def test_nothing_worth_its_time_is_adamws():
    advice = advise(costs=[cost("adamw"), cost("muon", overhead_ms=2000.0)])
    assert advice.chosen.method == "adamw"
    assert only(advice.reasons, Rival).method == "muon"


def test_what_promises_nothing_is_no_reason_to_leave_adamw():
    advice = advise(costs=("adamw", "lion"))
    assert order(advice) == ["adamw", "lion"]
    assert [type(reason) for reason in advice.reasons[:2]] == [BaselineChosen, Rival]
    assert advice.confidence == "low"  # lion's error is larger than what it lacks


def test_speed_never_takes_what_gradients_speak_against():
    fast = [cost("adamw"), cost("galore", overhead_ms=-9.0), cost("muon", overhead_ms=-5.0)]
    advice = advise(costs=fast, objective="speed")
    assert order(advice) == ["muon", "adamw", "galore"]


def test_memory_goes_by_peak_and_then_by_gain():
    advice = advise(costs=("adamw", "muon", "galore"), objective="memory")
    assert order(advice) == ["muon", "adamw", "galore"]  # all of one size
    lean = cost("galore").model_copy(update={"state_bytes": 100 * 2**20 - 1})
    advice = advise(costs=("adamw", "muon", lean), objective="memory")
    assert order(advice) == ["galore", "muon", "adamw"]  # a byte less, in a budget of 80 GiB


# ---- the reasons


def test_the_choice_says_what_decided_and_who_comes_next():
    near = [cost("adamw"), cost("soap"), cost("soap-one-sided"), cost("lion")]
    alike = layer(diagonality=diagonality(one_sided=0.8), agreement=agreement(one_sided=0.7))
    advice = advise(costs=near, layers=(alike,))
    chosen, decided, second = advice.reasons[:3]
    assert (type(chosen), chosen.method) == (MethodChosen, "soap")
    assert chosen.promise.gain == advice.chosen.expected.gain
    others = {"predicted": advice.chosen.predicted.gain}
    assert decided == DecidedBy("prior", advice.chosen.prior, others)
    assert (type(second), second.method) == (RunnerUp, "soap-one-sided")
    assert 0 < second.behind < second.error
    assert not second.is_raced
    sure = only(advice.reasons, HowSure)
    assert sure.grounds == (Comparisons("small models"), PredictedLayers(1))
    assert sure.confidence == advice.confidence == "low"  # the error of small models is large


def test_a_clear_second_is_not_called_a_tie():
    advice = advise(raced=race(contestant("soap", (1.5, 1.5)), contestant("muon", (1.9, 1.9))))
    second, sure = (only(advice.reasons, reason) for reason in (RunnerUp, HowSure))
    assert second.behind == pytest.approx(0.2)
    assert second.behind > second.error
    assert type(only(advice.reasons, MethodChosen).promise) is RaceResult
    assert (sure.confidence, sure.grounds) == ("medium", (RacedSeeds(2),))


@pytest.mark.parametrize(
    ("changes", "steps", "confidence"),
    [
        ({"share": 0.3}, 1000, "high"),
        ({"share": 1.0}, 100, "high"),
        ({"share": 0.3}, 300, "medium"),  # 90 steps
        ({"share": None}, 1000, "medium"),  # short runs of their own
    ],
)
def test_only_a_race_of_enough_of_the_run_is_sure(changes, steps, confidence):
    won = contestant("soap", (1.5, 1.5)).model_copy(update={"steps": steps})
    advice = advise(raced=race(won, **changes))
    assert advice.chosen.method == "soap"
    assert advice.confidence == confidence


def test_a_race_that_adamw_won_clearly_is_sure():
    lost = contestant("soap", (2.5, 2.5)).model_copy(update={"steps": 1000})
    advice = advise(raced=race(lost, share=0.3))
    assert (advice.chosen.method, advice.confidence) == ("adamw", "high")
    tied = contestant("soap", (2.0, 2.0)).model_copy(update={"steps": 1000})
    advice = advise(raced=race(tied, share=0.3))
    assert (advice.chosen.method, advice.confidence) == ("adamw", "medium")


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_has_evidence_or_says_that_there_is_none(method):
    row = row_of(advise(costs=dict.fromkeys(["adamw", method])), method)
    if row.is_baseline:
        assert row.reasons == (IsBaseline(),)
        return
    known = [row.prior, row.predicted, row.published]
    assert set(row.evidence) == {row.peak, row.overhead, *known} - {None}
    assert (row.predicted is None) == (NoPrediction() in row.reasons)
    assert (row.published is None) == (NoComparison() in row.reasons)
    assert row.score is not None


def test_the_answer_does_not_depend_on_the_order_of_anything():
    layers = [layer("a", diagonality=diagonality()), layer("b", diagonality=diagonality(raw=0.05))]
    answers = {
        tuple(order(advise(layers=some, costs=rows)))
        for some in permutations(layers)
        for rows in permutations(("adamw", "adadiag", "soap", "muon"))
    }
    assert len(answers) == 1


def test_the_same_profile_gives_the_same_answer():
    assert advise() == advise()


def test_a_profile_without_measurements_falls_back_on_the_prior():
    bare = profile([layer()], ("adamw", "adadiag"))
    found = row_of(recommend(bare, budget_bytes=BUDGET), "adadiag")
    assert found.expected.decided_by == "prior"
    assert found.prior == prior_gain("adadiag", traits_of_profile(bare))
    assert predicted_gain(bare, cost("adadiag")) is None
