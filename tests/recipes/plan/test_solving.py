"""Solving for the rest of a plan: the smallest change that fits, and the largest batch under auto."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from subopt.errors import DoesNotFitError, UsageError
from subopt.profilers.costs.formula import method_costs
from subopt.profilers.record.profile import Contestant, Race
from subopt.recipes.advice.advisor import recommend, to_recipe
from subopt.recipes.advice.proposal import recipe_reasons
from subopt.recipes.advice.reasons import ChosenRate, LeanerRival
from subopt.recipes.evidence.raced_settings import RacedFallbackRate, RacedRate
from subopt.recipes.plan.method_options import with_options
from subopt.recipes.plan.passes import PassConfig
from subopt.recipes.plan.peaks import peak_at
from subopt.recipes.plan.reasons import (
    FusedUpdates,
    LargestMicroBatch,
    Recomputing,
    SmallerMicroBatch,
)
from subopt.recipes.plan.solving import RECOMPUTE_SHARE, PlanRequest, solve
from subopt.recipes.ranking.planned import solved_plans
from subopt.recipes.ranking.rule import GAIN_PER_DOUBLING
from subopt.recipes.recipe.load import dump_recipe, parse_recipe

from ..advice_profile import contestant, only, race
from ..llama_profile import MIB, SHAPES, WEIGHTS, known_passes

EXAMPLE = 200 * MIB  # activations of one example, and a tenth of it with blocks recomputed
LARGEST = 500


def make_profile(*methods, blocks=True, **changes):
    """A LLaMA at batch size 8 whose passes are known by hand."""
    return known_passes(
        methods or ["adamw"],
        example_bytes=EXAMPLE,
        sizes=(1, 8, LARGEST),
        sizes_recomputed=(1, LARGEST) if blocks else (),
        **changes,
    )


PROFILE = make_profile()
ADAMW = PROFILE.methods[0]
HELD = WEIGHTS + ADAMW.state_bytes


def plan(usable, profile=PROFILE, **asked):
    return solve(profile, profile.methods[0], usable, PlanRequest(**asked))


def test_what_fits_as_asked_is_left_as_it_is():
    found = plan(HELD + WEIGHTS + 8 * EXAMPLE)
    assert (found.batch_size, found.accumulate, found.recompute, found.options) == (8, 1, False, {})


def test_first_comes_a_smaller_micro_batch_with_the_same_examples_per_step():
    found = plan(HELD + WEIGHTS + 8 * EXAMPLE - 1)
    assert (found.batch_size, found.accumulate) == (4, 2)
    assert found.peak.bytes == HELD + WEIGHTS + 4 * EXAMPLE  # gradients stay from the first one
    asked = plan(HELD + WEIGHTS + 8 * EXAMPLE - 1, examples_per_step=120)
    assert (asked.batch_size, asked.accumulate) == (6, 20)


def test_then_activations_are_computed_again():
    found = plan(HELD + WEIGHTS + EXAMPLE - 1)
    assert (found.recompute, found.batch_size, found.accumulate) == (True, 8, 1)
    assert found.peak.bytes == HELD + WEIGHTS + 8 * EXAMPLE // 10


def test_then_weights_move_in_the_backward_pass():
    found = plan(HELD + WEIGHTS - 1)
    assert (found.fused_backward, found.accumulate, found.options) == (True, 1, {})
    assert found.peak.phase in {"forward", "backward"}


def test_then_the_state_is_rounded_and_last_the_rank_lowered():
    galore = make_profile("galore")
    cost = galore.methods[0]
    least = peak_at(galore, cost, 8, PassConfig(recomputed=True, fused=True)).bytes
    found = plan(least - 1, galore)
    assert set(found.options) == {"state_dtype"}
    rounded = with_options(galore, cost, {"state_dtype": "bf16"})
    lower = plan(
        peak_at(galore, rounded, 8, PassConfig(recomputed=True, fused=True)).bytes - 1, galore
    )
    assert "rank" in lower.options
    assert lower.options["rank"] < cost.options["rank"]
    assert plan(WEIGHTS, galore) is None


def test_what_the_user_fixed_stays_fixed():
    tight = HELD + WEIGHTS + 8 * EXAMPLE - 1
    assert plan(tight, accumulate=1, recompute=False, fused_backward=False).options
    for asked in ({"recompute": False}, {"fused_backward": False}):
        found = plan(HELD + WEIGHTS + EXAMPLE - 1, **asked)
        assert not any(getattr(found, key) for key in asked)
    always = plan(10**12, recompute=True)
    assert (always.recompute, always.batch_size) == (True, 8)
    fused = plan(10**12, fused_backward=True)
    assert (fused.fused_backward, fused.accumulate) == (True, 1)


@pytest.mark.parametrize("usable", [HELD + WEIGHTS + k * EXAMPLE + 7 for k in (1, 13, 86)])
def test_auto_is_the_largest_whole_number_that_fits(usable):
    found = plan(usable, batch_size="auto")
    assert found.peak.bytes <= usable
    assert peak_at(PROFILE, ADAMW, found.batch_size + 1).bytes > usable
    assert not found.is_largest


def test_auto_says_where_the_profile_ends():
    found = plan(10**15, batch_size="auto")
    assert (found.batch_size, found.is_largest) == (LARGEST, True)
    advice = recommend(PROFILE, budget_bytes=10**15, batch_size="auto")
    assert advice.plan_reasons == (LargestMicroBatch(LARGEST, 1, is_largest_known=True),)


def test_auto_divides_the_examples_of_a_step_and_counts_held_gradients():
    usable = HELD + WEIGHTS + 7 * EXAMPLE
    found = plan(usable, batch_size="auto", examples_per_step=120)
    assert (found.batch_size, found.accumulate) == (6, 20)
    held = plan(usable, batch_size="auto", accumulate=3)
    assert (held.batch_size, held.accumulate) == (7, 3)


def test_a_step_of_more_examples_than_the_profile_knows_is_accumulated():
    recipe, advice = recipe_for(10**15, examples_per_step=8 * LARGEST)
    assert (recipe.data.batch_size, recipe.data.accumulate) == (LARGEST, 8)
    assert advice.plan_reasons == (SmallerMicroBatch(LARGEST, 8, is_memory_known=False),)
    recipe, _ = recipe_for(HELD + 2 * WEIGHTS + 8 * EXAMPLE, examples_per_step=8 * LARGEST)
    assert recipe.data.batch_size * recipe.data.accumulate == 8 * LARGEST
    assert recipe.data.batch_size <= 8
    with pytest.raises(UsageError, match=f"not of {2 * LARGEST}"):
        recipe_for(10**15, batch_size=2 * LARGEST, examples_per_step=8 * LARGEST)


def test_a_better_method_that_fits_only_with_leaner_options_is_told_so():
    profile = make_profile("adamw", "soap", blocks=False)
    first, soap = profile.methods
    times = {"step_ms": 1.0, "overhead_ms": 0.0}
    profile = profile.model_copy(
        update={
            "forward_backward_ms": 100.0,
            "methods": [cost.model_copy(update=times) for cost in (first, soap)],
            "race": race(contestant("soap", (1.5, 1.5), spread=0.01)),
        }
    )
    # With its state in bf16 one example of SOAP's fits, and in fp32 none.
    usable = 2 * WEIGHTS + int(0.8 * soap.state_bytes) + EXAMPLE
    advice = recommend(
        profile,
        budget_bytes=usable,
        device="cpu",
        request=PlanRequest(recompute=False, fused_backward=False),
    )
    assert advice.chosen.method == "adamw"
    rival = only(advice.reasons, LeanerRival)
    assert (rival.method, rival.options) == ("soap", {"state_dtype": "bf16"})


def test_auto_recomputes_only_where_one_example_does_not_fit_without():
    found = plan(HELD + WEIGHTS + EXAMPLE - 1, batch_size="auto")
    assert (found.recompute, found.batch_size) == (True, 9)
    assert not plan(HELD + WEIGHTS + EXAMPLE, batch_size="auto").recompute


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"batch_size": 3, "examples_per_step": 8}, "no multiple of the batch size 3"),
        ({"accumulate": 3, "examples_per_step": 8}, "cannot be cut into 3"),
        ({"batch_size": 2, "accumulate": 2, "examples_per_step": 8}, "are not 8 examples"),
        ({"accumulate": 2, "fused_backward": True}, "used up each gradient"),
        ({"accumulate": 0}, "trains nothing"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(asked, message):
    with pytest.raises(UsageError, match=message):
        PlanRequest(**asked)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"recompute": True}, "no method of the profile can be run this way"),
        ({"fused_backward": True, "examples_per_step": LARGEST + 1}, "at once"),
    ],
)
def test_auto_refuses_a_way_that_no_batch_can_run(asked, message):
    profile = make_profile(blocks=False)
    request = PlanRequest(batch_size="auto", **asked)
    with pytest.raises(UsageError, match=message):
        recommend(profile, budget_bytes=10**12, request=request)


def test_recomputing_that_others_need_not_has_its_price_in_the_ranking():
    profile = make_profile("adamw", "adafactor-nomom")
    usable = HELD + WEIGHTS + EXAMPLE - 1  # too little for AdamW with one example
    found = solved_plans(profile, profile.methods, PlanRequest(batch_size="auto"), usable)
    rows = {item.plan.recompute: item.row for item in found}
    assert rows[True].score == pytest.approx(-GAIN_PER_DOUBLING * math.log2(4 / 3))


def test_a_fused_backward_pass_still_begins_with_all_activations():
    phases = dict(peak_at(PROFILE, ADAMW, 8, PassConfig(fused=True)).by_phase)
    assert (
        phases["backward"] == HELD + 8 * EXAMPLE
    )  # the update's own instant has a quarter of them


def test_a_model_without_blocks_cannot_be_told_to_recompute():
    flat = make_profile(blocks=False)
    with pytest.raises(UsageError, match="no method of the profile can be run this way"):
        recommend(flat, budget_bytes=10**12, request=PlanRequest(recompute=True))
    assert not plan(HELD + WEIGHTS + EXAMPLE - 1, flat).recompute


# ---- the recipe


def recipe_for(budget, profile=PROFILE, **asked):
    advice = recommend(profile, budget_bytes=budget, device="cpu", request=PlanRequest(**asked))
    return to_recipe(advice, profile, recipe_path=Path("recipe.yaml")), advice


def test_the_recipe_has_the_whole_plan_and_says_what_was_solved():
    recipe, advice = recipe_for(HELD + WEIGHTS + EXAMPLE - 1, examples_per_step=64)
    assert recipe.data.batch_size * recipe.data.accumulate == 64
    assert recipe.recompute
    assert recipe.clip_norm == 1.0
    assert recipe.why.predicted_peak_bytes == advice.plan.peak.bytes
    small, again = advice.plan_reasons
    assert (small.batch_size * small.accumulate, small.is_memory_known) == (64, True)
    assert again == Recomputing(RECOMPUTE_SHARE)
    assert set(advice.plan_reasons) <= set(advice.reasons)
    assert set(advice.plan_reasons) <= set(recipe_reasons(advice, PROFILE))
    assert parse_recipe(dump_recipe(recipe)) == recipe


def test_gradients_that_are_gone_are_not_clipped():
    recipe, advice = recipe_for(HELD + WEIGHTS - 1)
    assert recipe.fused_backward
    assert recipe.clip_norm is None
    assert FusedUpdates() in advice.reasons
    assert parse_recipe(dump_recipe(recipe)) == recipe


def test_headroom_is_kept_free():
    budget = 10 * (HELD + WEIGHTS)
    tight, roomy = (
        recommend(PROFILE, budget_bytes=budget, batch_size="auto", device="cpu", headroom=share)
        for share in (0.0, 0.2)
    )
    assert tight.chosen.peak.bytes > 0.8 * budget >= roomy.chosen.peak.bytes > 0.75 * budget


def test_a_step_that_recomputes_takes_a_third_of_its_passes_longer():
    timed = PROFILE.model_copy(
        update={
            "forward_backward_ms": 300.0,
            "methods": [ADAMW.model_copy(update={"step_ms": 10.0, "overhead_ms": 0.0})],
        }
    )
    recipe, _ = recipe_for(10**12, timed, recompute=True)
    assert recipe.why.predicted_step_ms == pytest.approx(300 * 4 / 3 + 10)


def test_with_nothing_left_to_change_it_is_refused_with_a_larger_budget():
    with pytest.raises(DoesNotFitError, match="nothing fits"):
        recipe_for(WEIGHTS)


# ---- raced settings


def raced(profile, **changes):
    entry = Contestant(
        method="galore",
        options={"rank": 16},
        lr=0.0123,
        step_ms=1.0,
        state_bytes=0,
        trials=7,
        verdict="better",
    )
    race = Race(
        baseline="adamw",
        metric="held-out loss",
        minutes=20,
        spent_seconds=1200,
        horizon_seconds=60,
        device="cpu",
        precision="fp32",
        batch_size=8,
        target_sha256="ab" * 32,
        seeds=[0],
        fallback_lr=0.0045,
        contestants=[entry.model_copy(update=changes)],
        trials=[],
    )
    return profile.model_copy(update={"race": race})


def test_the_recipe_takes_rate_options_and_fallback_of_the_race():
    galore = make_profile("galore")
    recipe, advice = recipe_for(10**12, raced(galore))
    assert recipe.optimizer.lr == 0.0123
    assert recipe.optimizer.options == {"rank": 16}
    assert recipe.optimizer.fallback.lr == 0.0045
    rate, fallback = list(recipe_reasons(advice, raced(galore)))[-2:]
    assert rate == ChosenRate("galore", 0.0123, RacedRate(7, 60.0, "cpu"))
    assert fallback == ChosenRate("galore", 0.0045, RacedFallbackRate(), is_fallback=True)
    lower = method_costs(SHAPES, ["galore"], {"rank": 16})[0]
    assert recipe.why.predicted_state_bytes == advice.chosen.cost.state_bytes == lower.state_bytes


@pytest.mark.parametrize("changes", [{"verdict": "diverged"}, {"method": "soap"}])
def test_a_race_without_a_result_for_the_method_changes_nothing(changes):
    galore = make_profile("galore")
    plain, _ = recipe_for(10**12, galore)
    recipe, _ = recipe_for(10**12, raced(galore, **changes))
    assert recipe.optimizer == plain.optimizer


def test_a_race_of_another_version_of_the_model_changes_nothing():
    galore = raced(make_profile("galore"))
    target = galore.target.model_copy(update={"sha256": "cd" * 32})
    recipe, _ = recipe_for(10**12, galore.model_copy(update={"target": target}))
    assert recipe.optimizer.lr != 0.0123


def test_a_peak_that_leaves_no_room_for_what_libraries_take_is_not_recommended():
    simulated = PROFILE.model_copy(
        update={"settings": PROFILE.settings.model_copy(update={"simulate": True})}
    )
    cost = ADAMW.model_copy(
        update={"peak": ADAMW.peak.model_copy(update={"high_bytes": ADAMW.peak.bytes + 64 * MIB})}
    )
    profile = simulated.model_copy(update={"methods": [cost]})
    advice = recommend(profile, budget_bytes=cost.peak.bytes + MIB, device="cpu")
    assert advice.plan.needed_bytes <= advice.budget.usable_bytes
    assert advice.plan.batch_size < 8
