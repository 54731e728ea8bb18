"""Advice from hand-built profiles: what fits, what ranks first, what it says, and the recipe that comes of it."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from subopt.errors import OptionError, UsageError
from subopt.optimizers import METHODS
from subopt.optimizers.state import low_bit
from subopt.profilers.costs.architectures import WeightShape, llama_shapes
from subopt.profilers.costs.formula import method_costs
from subopt.profilers.record.profile import Layer, Memory, Profile, Settings, Target
from subopt.recipes.advice.advisor import recommend, to_recipe
from subopt.recipes.advice.proposal import profile_sha256, recipe_reasons, relative_target
from subopt.recipes.advice.reasons import (
    ActivationsFillMemory,
    BaselineDoesNotFit,
    BaselineFits,
    ChosenRate,
    Comparisons,
    DecidedBy,
    HowSure,
    NeedsBatches,
    NotInstalled,
    PublishedNear,
    Rival,
)
from subopt.recipes.advice.regimes import SmallBatch
from subopt.recipes.evidence.published import load_evidence
from subopt.recipes.plan import method_options
from subopt.recipes.plan.budget import Fit, read_budget
from subopt.recipes.plan.passes import PassConfig
from subopt.recipes.plan.peaks import peak_at
from subopt.recipes.plan.solving import PlanRequest
from subopt.recipes.prior.gains import GAIN_PER_DOUBLING
from subopt.recipes.prior.portfolio import portfolio
from subopt.recipes.prior.rates import BesideRate, prior_rate
from subopt.recipes.prior.traits import model_kind, trainable_parameters, traits_of_profile
from subopt.recipes.ranking.reasons import (
    LowRankLayers,
    MayNotFit,
    UnknownTime,
)
from subopt.recipes.ranking.rule import WORTH_A_CHANGE, expected_gain
from subopt.recipes.recipe.load import dump_recipe, parse_recipe

from ..advice_profile import only
from ..llama_profile import ENVIRONMENT, GIB, MIB, layers, peak_of, weight_bytes

BASELINE = load_evidence().baseline


@cache
def table(size, tokens):
    # Following a step of shared-basis takes as long as following those of all others.
    names = [name for name in METHODS if name != "shared-basis"]
    return method_costs(llama_shapes(size), names, tokens=tokens)


def make_profile(
    size="60m",
    *,
    activation_bytes=2 * GIB,
    batch_size=8,
    step_ms=None,
    model_ms=100.0,
    source="simulated",
    margin=0.0,
    spec="model.py",
    file=None,
    tokens=131_072,
    drop=(),
):
    """A profile of a LLaMA, its costs from the method table and its peaks from the parts.

    `step_ms` gives the optimizer step by method; the others take 10 ms. `source=None` leaves the peaks out.
    """
    shapes = llama_shapes(size)
    costs = [cost for cost in table(size, tokens) if cost.method not in drop]
    parameters = weight_bytes(shapes)

    def finished(cost):
        peak = source and peak_of(
            cost, parameters, activation_bytes or 0, source=source, margin=margin
        )
        own_ms, base_ms = ((step_ms or {}).get(name, 10.0) for name in (cost.method, BASELINE))
        timed = {
            "step_ms": own_ms,
            "overhead_ms": own_ms - base_ms,
            "step_ms_source": "measured",
        }
        return cost.model_copy(update={"peak": peak, **(timed if model_ms else {})})

    rows = [finished(cost) for cost in costs]
    adamw = next((row for row in rows if row.method == BASELINE), rows[0])
    return Profile(
        target=Target(spec=spec, picked="function build_model", file=file, sha256="ab" * 32),
        environment=ENVIRONMENT,
        settings=Settings(batch_size=batch_size, batches=8, tokens_per_batch=tokens),
        layers=layers(shapes),
        memory=Memory(
            parameter_bytes=parameters,
            gradient_bytes=parameters,
            activation_bytes=activation_bytes,
            optimizer_state_bytes=adamw.state_bytes,
            peak_bytes=adamw.peak.bytes if adamw.peak else None,
            source=source or "formula",
        ),
        methods=rows,
        forward_backward_ms=model_ms,
    )


def row_of(advice, method):
    (row,) = [row for row in advice.rows if row.method == method]
    return row


def order(advice):
    return [row.method for row in advice.rows]


# When a test needs them, for all methods' temporaries at these sizes take a while: not when tests are collected.
@cache
def standard():
    return make_profile()


@cache
def uncertain():
    return make_profile(margin=0.1)


# ---- low-rank layers, and what is not installed


def low_rank(profile, saved_bytes):
    """The profile with low-rank layers in dlrt's row that save so much."""
    rows = [
        row.model_copy(update={"weight_bytes_saved": saved_bytes}) if row.method == "dlrt" else row
        for row in profile.methods
    ]
    return profile.model_copy(update={"methods": rows})


def test_low_rank_weights_and_their_gradients_make_room():
    by_formula = make_profile(source=None)
    dense, lean = (
        next(row for row in low_rank(by_formula, saved).methods if row.method == "dlrt")
        for saved in (0, 10 * MIB)
    )
    assert peak_at(by_formula, dense, 8).bytes - peak_at(by_formula, lean, 8).bytes == 20 * MIB
    forward = [dict(peak_at(by_formula, row, 8).by_phase)["forward"] for row in (dense, lean)]
    assert forward[0] - forward[1] == 10 * MIB
    # A larger batch adds activations, however small the weights are.
    grown = [
        peak_at(by_formula, row, 16).bytes - peak_at(by_formula, row, 8).bytes
        for row in (dense, lean)
    ]
    assert grown == [by_formula.memory.activation_bytes] * 2


@pytest.mark.parametrize("saved", [3 * MIB, -MIB])
def test_low_rank_weights_are_a_reason(saved):
    advice = recommend(low_rank(standard(), saved), budget_bytes=80 * GIB, methods=["dlrt"])
    (row,) = advice.rows
    assert LowRankLayers(saved) in row.reasons
    assert LowRankLayers(saved) in advice.reasons
    plain = recommend(standard(), budget_bytes=80 * GIB, methods=["lion"])
    reasons = (*plain.reasons, *plain.rows[0].reasons)
    assert LowRankLayers not in map(type, reasons)


def test_a_lower_largest_rank_is_worth_its_weights_too():
    """By hand: what another rank saves of weights counts beside what it saves of state."""
    method = METHODS["dlrt"]
    weights = [WeightShape("", (64, 64), "matrix")]
    lower = {"rank": 4, "rank_mode": "fixed"}
    expected = method.state_bytes((64, 64), options=lower) + 4 * (4 * 128 + 16) - 4 * 64 * 64
    (weight,) = weights
    state, saved = method_options._held_for(weight, "dlrt", json.dumps(lower))
    assert state - saved == expected


def test_what_is_not_installed_is_left_out_and_said_with_how_to_get_it(monkeypatch):
    monkeypatch.setattr(low_bit, "is_installed", lambda: False)
    advice = recommend(standard(), budget_bytes=80 * GIB)
    absent = {"adamw-8bit", "galore-8bit", "osd-8bit"}
    assert {name for name, _ in advice.unavailable} == absent
    assert not absent & set(order(advice))
    assert len(advice.rows) == len(standard().methods) - len(absent)
    assert only(advice.reasons, NotInstalled).methods == advice.unavailable
    assert ("osd-8bit", "pip install 'subopt[lowbit]'") in advice.unavailable
    with pytest.raises(UsageError, match="osd-8bit needs a package") as caught:
        recommend(standard(), budget_bytes=80 * GIB, methods=["adamw", "osd-8bit"])
    assert caught.value.hint == "pip install 'subopt[lowbit]'"
    tight = recommend(standard(), budget_bytes=2 * GIB, methods=["adamw"])
    assert not any(change.method in absent for change in tight.changes)


def test_everything_installed_leaves_nothing_out():
    assert recommend(standard(), budget_bytes=80 * GIB).unavailable == ()


# ---- reading the profile


def test_profile_is_of_a_language_model_of_60m():
    assert model_kind(standard()) == "language"
    assert 55e6 < trainable_parameters(standard()) < 65e6


def test_convolutions_make_it_vision_and_neither_is_unknown():
    conv = Layer(name="w", shape=[8, 3, 3, 3], kind="Conv2d", role="matrix", reason="")
    plain = Layer(name="w", shape=[8, 8], kind="Linear", role="matrix", reason="")
    assert model_kind(standard().model_copy(update={"layers": [conv, plain]})) == "vision"
    assert model_kind(standard().model_copy(update={"layers": [plain]})) is None


def test_frozen_parameters_are_not_counted():
    frozen = Layer(name="w", shape=[8, 8], kind="Linear", role="frozen", reason="")
    free = Layer(name="v", shape=[2, 3], kind="Linear", role="matrix", reason="")
    assert trainable_parameters(standard().model_copy(update={"layers": [frozen, free]})) == 6


# ---- peaks


def test_peak_at_the_profiles_batch_size_is_the_profiles():
    for cost in standard().methods:
        peak = peak_at(standard(), cost, 8)
        assert (peak.bytes, peak.phase, peak.source) == (
            cost.peak.bytes,
            cost.peak.phase,
            "simulated",
        )


def test_half_the_batch_takes_half_the_activations_off():
    cost = standard().methods[0]
    assert cost.peak.phase == "backward"
    peak = peak_at(standard(), cost, 4)
    assert peak.bytes == cost.peak.bytes - standard().memory.activation_bytes // 2


def test_step_does_not_shrink_with_the_batch():
    cost = standard().methods[0]
    peak = peak_at(make_profile(activation_bytes=GIB // 2**10), cost, 1)
    assert dict(peak.by_phase)["step"] == cost.peak.by_phase.step


def test_twice_the_batch_doubles_what_lives_beside_the_activations():
    cost = standard().methods[0]
    spare = (
        100 * MIB
    )  # temporaries of the backward pass that the profile does not count as activations
    by_phase = cost.peak.by_phase.model_copy(
        update={"backward": cost.peak.by_phase.backward + spare}
    )
    wider = cost.peak.model_copy(update={"bytes": cost.peak.bytes + spare, "by_phase": by_phase})
    cost = cost.model_copy(update={"peak": wider})
    grown = peak_at(standard(), cost, 16).bytes - wider.bytes
    assert grown == standard().memory.activation_bytes + spare


def test_accumulation_holds_gradients_in_the_forward_pass():
    cost = standard().methods[0]
    plain, kept = (
        dict(peak_at(standard(), cost, 4, PassConfig(accumulating=held)).by_phase)
        for held in (False, True)
    )
    assert kept["forward"] - plain["forward"] == standard().memory.gradient_bytes


@pytest.mark.parametrize("source", [None, "formula"])
def test_peak_by_formula_sums_the_parts(source):
    profile = make_profile(source=source)
    memory = profile.memory
    for cost in profile.methods:
        peak = peak_at(profile, cost, 8)
        assert peak.source == "formula"
        assert peak.bytes == (
            memory.parameter_bytes
            + memory.gradient_bytes
            - 2 * cost.weight_bytes_saved
            + cost.state_bytes
            + max(memory.activation_bytes, cost.transient_bytes)
        )
        assert peak.low_bytes <= peak.bytes == peak.high_bytes


def test_unknown_activations_leave_the_peak_open():
    profile = make_profile(source=None, activation_bytes=None)
    peak = peak_at(profile, profile.methods[0], 8)
    assert peak.high_bytes is None
    assert peak.fits(10**15) is Fit.MAYBE
    advice = recommend(profile, budget_bytes=40 * GIB)
    assert all(row.fit is Fit.MAYBE for row in advice.rows)
    assert MayNotFit(None) in advice.rows[0].reasons


def test_another_batch_size_needs_activations():
    profile = make_profile(source=None, activation_bytes=None)
    with pytest.raises(UsageError, match="does not hold activation memory") as caught:
        recommend(profile, budget_bytes=40 * GIB, batch_size=16)
    assert caught.value.hint == "profile again with --batch-size 16"


# ---- what fits


@given(
    budget=st.integers(1, 12 * GIB),
    batch=st.sampled_from([1, 3, 8, 16, 64, "auto", None]),
    objective=st.sampled_from(["quality", "speed", "memory"]),
    margin=st.sampled_from([0.0, 0.1]),
    device=st.sampled_from(["cuda", "cpu"]),
)
@settings(max_examples=60, deadline=None)
def test_nothing_recommended_exceeds_its_budget(budget, batch, objective, margin, device):
    assume((objective, batch) != ("memory", "auto"))  # refused
    profile = standard() if margin == 0 else uncertain()
    advice = recommend(
        profile, budget_bytes=budget, objective=objective, batch_size=batch, device=device
    )
    usable = read_budget(budget, device).usable_bytes
    assert advice.budget.usable_bytes == usable
    for row in advice.rows:
        assert row.headroom_bytes == usable - row.peak.bytes
        assert (row.fit is Fit.YES) == (row.peak.bytes + row.peak.overhead_bytes <= usable)
    fits = [row.fit for row in advice.rows]
    assert fits == sorted(fits, key=[Fit.YES, Fit.MAYBE, Fit.NO].index)
    if advice.chosen is None:
        assert advice.exit_status == 3
        assert all(row.fit is not Fit.YES for row in advice.rows)
        assert advice.changes
        assert all(c.peak_bytes <= usable for c in advice.changes if c.kind != "budget")
    else:
        assert advice.exit_status == 0
        assert advice.chosen.peak.bytes <= usable
        recipe = to_recipe(advice, profile, recipe_path=Path("recipe.yaml"))
        assert recipe.why.predicted_peak_bytes <= usable


def test_budget_between_two_peaks_keeps_the_smaller():
    heavy, light = (peak_at(standard(), c, 8).bytes for c in standard().methods[:2])
    assert light < heavy  # adamw, adafactor
    advice = recommend(standard(), budget_bytes=(heavy + light) // 2, device="cpu")
    assert row_of(advice, BASELINE).fit is Fit.NO
    assert row_of(advice, "adafactor").fit is Fit.YES


def test_an_interval_across_the_budget_ranks_below_a_sure_fit():
    edge = row_of(recommend(uncertain(), budget_bytes=20 * GIB), BASELINE).peak.bytes
    advice = recommend(uncertain(), budget_bytes=edge - MIB, device="cpu")
    assert row_of(advice, BASELINE).fit is Fit.MAYBE
    assert advice.chosen.fit is Fit.YES
    row = row_of(advice, BASELINE)
    assert MayNotFit(row.peak.high_bytes) in row.reasons


def test_auto_batch_is_the_largest_that_fits():
    advice = recommend(standard(), budget_bytes=8 * GIB, batch_size="auto", device="cpu")
    size, cost = advice.batch_size, advice.chosen.cost
    assert advice.chosen.peak == peak_at(standard(), cost, size)
    assert (
        peak_at(standard(), cost, size).bytes <= 8 * GIB < peak_at(standard(), cost, size + 1).bytes
    )


def test_the_least_memory_at_the_largest_batch_is_no_question():
    with pytest.raises(UsageError, match="fills the budget with every method"):
        recommend(standard(), budget_bytes=8 * GIB, batch_size="auto", objective="memory")


def test_auto_gives_each_method_its_own_largest_batch():
    budget = peak_at(
        standard(), standard().methods[0], 16
    ).bytes  # AdamW fits at 16, AdaDiag does not
    advice = recommend(standard(), budget_bytes=budget, batch_size="auto", device="cpu")
    sizes = {row.method: row.peak.batch_size for row in advice.rows}
    assert (sizes[BASELINE], sizes["adadiag"]) == (16, 15)
    assert advice.batch_size == sizes[advice.chosen.method]


def test_an_estimate_above_the_budget_is_never_chosen_whatever_its_interval():
    smallest = min(peak_at(uncertain(), cost, 8).bytes for cost in uncertain().methods)
    advice = recommend(
        uncertain(), budget_bytes=smallest - MIB, request=PlanRequest(accumulate=1), device="cpu"
    )
    assert any(row.fit is Fit.MAYBE for row in advice.rows)
    assert all(row.fit is not Fit.YES for row in advice.rows if row.peak.bytes > smallest - MIB)
    assert advice.chosen is None or advice.chosen.peak.bytes <= smallest - MIB


# ---- the rule


def test_score_is_the_rule_as_written():
    profile = make_profile(step_ms={"adadiag": 32.0})
    row = row_of(recommend(profile, budget_bytes=20 * GIB), "adadiag")
    assert row.overhead.share == pytest.approx(0.2)  # (32 - 10) / (100 + 10)
    assert (row.overhead.source, row.overhead.optimizer_ms) == ("measured", 32.0)
    assert row.published.gain == pytest.approx(1 - 28.71 / 31.12)
    known = expected_gain(None, row.prior, None, row.published, row.overhead)
    assert row.expected == known
    assert row.score == pytest.approx(known.gain - 0.01)
    without_time = expected_gain(None, row.prior, None, row.published, None)
    assert known.gain == pytest.approx(without_time.gain - 0.10 * math.log2(1.2))


def test_a_shorter_step_alone_is_no_reason_to_leave_adamw():
    """One timing of a step is off by this much on a busy machine."""
    fast = {method: 1.0 for method in METHODS if method != BASELINE}
    profile = make_profile(step_ms=fast, model_ms=20.0)
    advice = recommend(profile, budget_bytes=20 * GIB, fine_tunes=True)
    assert advice.chosen.method == BASELINE
    assert row_of(advice, "soap").overhead.share < -0.2


def test_the_baseline_scores_zero_whatever_its_step_takes():
    profile = make_profile(step_ms={BASELINE: 500.0})
    assert row_of(recommend(profile, budget_bytes=20 * GIB), BASELINE).score == 0.0


def test_a_gain_at_little_cost_wins():
    advice = recommend(standard(), budget_bytes=20 * GIB)
    assert advice.chosen.score == max(row.score for row in advice.rows)
    assert advice.chosen.method in portfolio(advice.traits, order(advice))
    decided = only(advice.reasons, DecidedBy)
    assert (decided.evidence_type, decided.evidence) == ("prior", advice.chosen.prior)
    peak_bytes = row_of(advice, BASELINE).peak.bytes
    assert only(advice.reasons, BaselineFits) == BaselineFits(peak_bytes)


def test_gain_bought_too_dearly_leaves_plain_adamw():
    slow = {method: 200.0 for method in METHODS if method != BASELINE}
    advice = recommend(make_profile(step_ms=slow), budget_bytes=20 * GIB)
    assert advice.chosen.method == BASELINE
    rival = only(advice.reasons, Rival)
    assert rival.promise.overhead.share == pytest.approx(190 / 110)


def test_switching_point_is_where_the_gain_exceeds_its_price():
    gain = row_of(recommend(standard(), budget_bytes=20 * GIB), "adadiag").expected.gain
    share = 2 ** ((gain - WORTH_A_CHANGE) / GAIN_PER_DOUBLING) - 1
    for factor, winner in ((0.98, "adadiag"), (1.02, BASELINE)):
        step = 10 + factor * share * 110
        advice = recommend(
            make_profile(step_ms={"adadiag": step}),
            budget_bytes=20 * GIB,
            methods=[BASELINE, "adadiag"],
        )
        assert advice.chosen.method == winner


def test_the_overhead_is_that_of_the_pair_timed_in_turn():
    """A machine twice as slow while it timed one method makes that method no slower than the others."""
    profile = make_profile(step_ms={"lion": 20.0})
    slowed = [
        row.model_copy(update={"overhead_ms": 1.0}) if row.method == "lion" else row
        for row in profile.methods
    ]
    advice = recommend(profile.model_copy(update={"methods": slowed}), budget_bytes=80 * GIB)
    assert row_of(advice, "lion").overhead.share == pytest.approx(1.0 / (100.0 + 10.0))


def test_without_times_flops_stand_in():
    profile = make_profile(model_ms=None)
    row = row_of(recommend(profile, budget_bytes=20 * GIB), "adadiag")
    assert row.overhead.source == "formula"
    assert 0 < row.overhead.share < 0.05
    assert row.step_ms is None


def test_with_neither_time_nor_flops_the_overhead_is_unknown():
    profile = make_profile(model_ms=None, tokens=None)
    row = row_of(recommend(profile, budget_bytes=20 * GIB), "adadiag")
    assert row.overhead is None
    assert UnknownTime() in row.reasons


def test_larger_batch_makes_the_same_step_cheaper():
    profile = make_profile(step_ms={"adadiag": 32.0})
    small, large = (
        row_of(recommend(profile, budget_bytes=90 * GIB, batch_size=size), "adadiag")
        for size in (8, 16)
    )
    assert large.overhead.share == pytest.approx(22 / 210)
    assert large.score > small.score
    assert large.step_ms == pytest.approx(232.0)


def test_speed_takes_the_cheapest_step_not_worse_than_adamw():
    fast = {"adafactor": 5.0, "galore": 1.0, "lion": 0.5}
    advice = recommend(make_profile(step_ms=fast), budget_bytes=20 * GIB, objective="speed")
    assert advice.chosen.method == "adafactor"
    assert order(advice).index("galore") > order(advice).index(BASELINE)


def test_memory_takes_the_smallest_peak():
    advice = recommend(standard(), budget_bytes=20 * GIB, objective="memory")
    peaks = [row.peak.bytes for row in advice.rows]
    assert peaks == sorted(peaks)
    assert advice.chosen is advice.rows[0]


def test_same_arguments_same_answer():
    assert recommend(standard(), budget_bytes=6 * GIB) == recommend(
        standard(), budget_bytes=6 * GIB
    )


def test_every_row_says_what_it_rests_on():
    for row in recommend(standard(), budget_bytes=20 * GIB).rows:
        assert row.evidence[:2] == (row.peak, row.overhead)
        assert (row.peak.source, row.overhead.source) == ("simulated", "measured")
        known = (row.prior, row.published)
        assert row.evidence[2:] == tuple(item for item in known if item is not None)


# ---- the reasons


def test_says_when_the_optimizer_is_not_what_fills_the_memory():
    profile = make_profile(activation_bytes=8 * GIB)
    found = only(recommend(profile, budget_bytes=40 * GIB).reasons, ActivationsFillMemory)
    assert (found.activation_bytes, found.batch_size) == (8 * GIB, 8)
    assert found.state_bytes == profile.memory.optimizer_state_bytes


def test_does_not_say_so_when_it_is():
    for activation_bytes in (MIB, None):
        profile = make_profile(activation_bytes=activation_bytes)
        reasons = recommend(profile, budget_bytes=40 * GIB).reasons
        assert ActivationsFillMemory not in map(type, reasons)


def test_says_when_adamw_does_not_fit():
    heavy = peak_at(standard(), standard().methods[0], 8).bytes
    advice = recommend(standard(), budget_bytes=heavy - MIB, device="cpu")
    assert only(advice.reasons, BaselineDoesNotFit) == BaselineDoesNotFit(heavy, MIB)


def test_says_what_is_usable_and_how_sure_it_is():
    advice = recommend(standard(), budget_bytes=24 * GIB)
    assert advice.reasons[-1] == advice.budget
    sure = only(advice.reasons, HowSure)
    assert (sure.memory_source, sure.time_source, sure.device) == ("simulated", "measured", "cpu")
    near = (PublishedNear(advice.chosen.published.certainty),) if advice.chosen.published else ()
    assert sure.grounds == (Comparisons("language models from scratch"), *near)
    assert (sure.may_exceed_budget, sure.missing_parts) == (False, 0)


def test_a_small_batch_wants_the_cheapest_state_and_no_accumulation():
    advice = recommend(make_profile(tokens=4_096), budget_bytes=20 * GIB)
    assert advice.chosen.method == BASELINE
    found = only(advice.reasons, SmallBatch)
    as_good = [row for row in advice.rows if row.is_baseline or row.prior.gain >= 0]
    assert found.leanest == min(as_good, key=lambda row: row.cost.state_bytes).method
    assert (found.tokens_per_step, found.accumulate) == (4_096, 1)
    twice = recommend(
        make_profile(tokens=4_096), budget_bytes=20 * GIB, request=PlanRequest(accumulate=2)
    )
    assert only(twice.reasons, SmallBatch) == SmallBatch(8_192, found.leanest, 2)
    large = recommend(make_profile(), budget_bytes=20 * GIB)
    assert SmallBatch not in map(type, large.reasons)


# ---- questions that make no sense


def test_unknown_method_is_refused_with_the_nearest():
    with pytest.raises(OptionError, match="did you mean 'galore'"):
        recommend(standard(), budget_bytes=GIB, methods=["galor"])


def test_method_that_the_profile_lacks_is_refused():
    with pytest.raises(UsageError, match="no costs of lion"):
        recommend(make_profile(drop=("lion",)), budget_bytes=GIB, methods=["lion"])


def test_profile_without_costs_is_refused():
    with pytest.raises(UsageError, match="no method costs"):
        recommend(standard().model_copy(update={"methods": []}), budget_bytes=GIB)


def test_no_examples_at_all_is_refused():
    with pytest.raises(UsageError, match="batch size of 0"):
        recommend(standard(), budget_bytes=GIB, batch_size=0)


def test_profile_without_the_baseline_still_ranks():
    advice = recommend(make_profile(drop=(BASELINE,)), budget_bytes=20 * GIB)
    assert advice.chosen.score == max(row.score for row in advice.rows)
    assert advice.chosen.overhead is None


# ---- the recipe


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "models").mkdir()
    file = tmp_path / "models" / "net.py"
    file.touch()
    profile = make_profile(spec="models/net.py:build_model", file=str(file), tokens=32_768)
    advice = recommend(profile, budget_bytes=20 * GIB, methods=["adadiag"])
    path = tmp_path / "runs" / "recipe.yaml"
    recipe = to_recipe(advice, profile, recipe_path=path, evidence=["a line", "another"])
    return recipe, profile, list(recipe_reasons(advice, profile))


def test_recipe_carries_the_choice(recipe):
    made, profile, reasons = recipe
    rate = prior_rate("adadiag", traits_of_profile(profile))
    assert made.optimizer.method == "adadiag"
    assert made.optimizer.lr == rate.lr
    assert made.optimizer.options == {}
    assert made.data.batch_size == 8
    assert made.model.sha256 == "ab" * 32
    assert ChosenRate("adadiag", rate.lr, rate.reason) in reasons
    assert made.why.evidence == ["a line", "another"]


def test_recipe_predicts_what_the_row_said(recipe):
    made, profile, reasons = recipe
    row = recommend(profile, budget_bytes=20 * GIB, methods=["adadiag"]).chosen
    assert made.why.predicted_peak_bytes == row.peak.bytes
    assert made.why.predicted_state_bytes == row.cost.state_bytes
    assert made.why.predicted_step_ms == pytest.approx(110.0)
    assert made.why.budget_bytes == 20 * GIB
    assert made.why.device == "cpu"
    assert reasons[: len(row.evidence)] == list(row.evidence)


def test_recipe_names_the_model_relative_to_itself(recipe):
    made = recipe[0]
    assert made.model.target == "../models/net.py:build_model"


def test_target_without_a_file_stays_as_written():
    profile = make_profile(spec="package.module:Net")
    assert relative_target(profile, Path("deep/recipe.yaml")) == "package.module:Net"


def test_recipe_survives_its_file(recipe):
    made = recipe[0]
    assert parse_recipe(dump_recipe(made)) == made


def test_profile_hash_is_of_the_file_it_is_saved_in(tmp_path):
    import hashlib

    standard().save(tmp_path / "profile.json")
    text = (tmp_path / "profile.json").read_bytes()
    assert profile_sha256(standard()) == hashlib.sha256(text).hexdigest()
    assert profile_sha256(Profile.load(tmp_path / "profile.json")) == profile_sha256(standard())


def test_options_other_than_the_defaults_go_into_the_recipe():
    profile = make_profile()
    costs = method_costs(llama_shapes("60m"), ["galore"], {"rank": 32})
    profile = profile.model_copy(update={"methods": costs})
    advice = recommend(profile, budget_bytes=20 * GIB)
    made = to_recipe(advice, profile, recipe_path=Path("recipe.yaml"))
    assert made.optimizer.options == {"rank": 32}


@pytest.mark.parametrize(("method", "times"), [("galore", 0.3), ("soap", 1), ("lion", 3)])
def test_the_fallback_trains_in_proportion(method, times):
    advice = recommend(standard(), budget_bytes=80 * GIB, methods=[method])
    made = to_recipe(advice, standard(), recipe_path=Path("recipe.yaml"))
    own = prior_rate(method, advice.traits)
    assert made.optimizer.lr == own.lr == advice.rate.lr
    assert made.optimizer.fallback.lr == own.fallback_lr == pytest.approx(times * own.lr)
    rate = ChosenRate(method, own.fallback_lr, BesideRate(times), is_fallback=True)
    assert rate in list(recipe_reasons(advice, standard()))
    assert parse_recipe(dump_recipe(made)) == made


@pytest.mark.parametrize("steps", [100, 100_000])
def test_the_length_of_the_run_is_part_of_the_answer(steps):
    advice = recommend(standard(), budget_bytes=80 * GIB, methods=[BASELINE], steps=steps)
    made = to_recipe(advice, standard(), recipe_path=Path("recipe.yaml"))
    traits = traits_of_profile(standard(), steps=steps)
    assert advice.traits == traits
    assert made.schedule.steps == steps
    assert made.optimizer.lr == prior_rate(BASELINE, traits).lr
    assert prior_rate(BASELINE, traits_of_profile(standard(), steps=100)).lr > 1e-3


def test_adamw_needs_no_other_rate_for_its_fallback():
    advice = recommend(standard(), budget_bytes=80 * GIB, methods=[BASELINE])
    made = to_recipe(advice, standard(), recipe_path=Path("recipe.yaml"))
    assert made.optimizer.fallback.lr is None
    assert not only(recipe_reasons(advice, standard()), ChosenRate).is_fallback


def test_made_up_data_means_the_recipe_cannot_train_yet():
    real = make_profile(file="/home/me/net.py")
    target = real.target.model_copy(update={"synthetic_data": True})
    made_up = real.model_copy(update={"target": target})
    for profile, times in ((real, 0), (made_up, 1)):
        advice = recommend(profile, budget_bytes=80 * GIB)
        for reasons in (advice.reasons, list(recipe_reasons(advice, profile))):
            assert reasons.count(NeedsBatches("net.py")) == times
