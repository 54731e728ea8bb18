"""What would make training fit where nothing does: the smallest change first, each of them enough."""

from __future__ import annotations

import pytest

from subopt.errors import DoesNotFitError
from subopt.recipes.advice.advisor import recommend
from subopt.recipes.advice.reasons import SmallestChange
from subopt.recipes.plan.solving import PlanRequest

from ..llama_profile import MIB, WEIGHTS, known_passes

EXAMPLE = 400 * MIB
PROFILE = known_passes(
    ["adamw", "adafactor-nomom"],
    example_bytes=EXAMPLE,
    sizes=(1, 64),
    sizes_recomputed=(1, 64),
)
ADAMW, ADAFACTOR = PROFILE.methods
STUBBORN = PlanRequest(accumulate=1, recompute=False, fused_backward=False)
ONE = WEIGHTS + WEIGHTS + EXAMPLE  # weights, gradients and one example


def asked(budget, request=STUBBORN, methods=("adamw",), **more):
    return recommend(
        PROFILE, budget_bytes=budget, methods=methods, device="cpu", request=request, **more
    )


def kinds(advice):
    return [change.kind for change in advice.changes]


def test_too_small_is_an_error_with_status_3_and_a_way_out():
    advice = asked(ONE + ADAMW.state_bytes + EXAMPLE)
    assert advice.chosen is None
    assert advice.exit_status == 3
    assert advice.reasons[1] == SmallestChange(advice.changes[0])
    with pytest.raises(DoesNotFitError, match="nothing fits") as caught:
        advice.require_chosen(hint="this way")
    assert caught.value.hint == "this way"
    assert caught.value.exit_status == 3


def test_what_was_ruled_out_is_offered_and_each_offer_fits():
    budget = ONE + ADAMW.state_bytes + EXAMPLE
    advice = asked(budget)
    assert kinds(advice)[:2] == ["batch", "recompute"]
    free, again = advice.changes[:2]
    assert free.batch_size * free.accumulate == 8
    assert (free.question, again.question) == ("accumulate", "recompute")
    assert again.recompute
    assert all(change.peak_bytes <= budget for change in advice.changes if change.kind != "budget")
    relaxed = asked(budget, PlanRequest(recompute=False, fused_backward=False))
    assert relaxed.plan.batch_size == free.batch_size
    assert relaxed.plan.peak.bytes == free.peak_bytes


def test_a_fused_backward_pass_is_offered_where_the_gradients_are_what_is_too_much():
    budget = WEIGHTS + ADAMW.state_bytes // 2 + 8 * EXAMPLE // 10 + 90 * MIB
    request = PlanRequest(recompute=True, fused_backward=False, accumulate=1)
    assert "fused backward" in kinds(asked(budget, request))
    fused = asked(budget, PlanRequest(recompute=True, accumulate=1))
    assert fused.plan.fused_backward


def test_another_method_is_offered_where_the_question_left_it_out():
    budget = (ADAMW.peak.bytes + ADAFACTOR.peak.bytes) // 2
    lean = asked(budget, PlanRequest(accumulate=1, recompute=False, fused_backward=False))
    assert lean.chosen is not None  # AdamW with its state in bf16 fits
    tighter = WEIGHTS * 2 + ADAFACTOR.state_bytes + 8 * EXAMPLE
    change = next(c for c in asked(tighter).changes if c.kind == "method")
    assert change.method == "adafactor-nomom"
    assert asked(tighter, methods=("adafactor-nomom",)).chosen is not None


def test_fewer_examples_per_step_are_offered():
    budget = ONE + ADAMW.state_bytes + EXAMPLE
    request = PlanRequest(examples_per_step=8, accumulate=1, recompute=False, fused_backward=False)
    change = next(c for c in asked(budget, request).changes if c.question == "batch_size")
    assert change.accumulate == 1
    fewer = PlanRequest(batch_size=change.batch_size, recompute=False, fused_backward=False)
    assert asked(budget, fewer).plan.accumulate == 1


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_larger_budget_is_always_offered_and_enough_and_no_larger_than_it_must_be(device):
    advice = recommend(
        PROFILE, budget_bytes=1, request=STUBBORN, methods=["adamw"], device=device, headroom=0.1
    )
    last = advice.changes[-1]
    assert last.kind == "budget"

    def fits(budget):
        found = recommend(
            PROFILE,
            budget_bytes=budget,
            request=STUBBORN,
            methods=["adamw"],
            device=device,
            headroom=0.1,
        )
        return found.chosen is not None

    assert fits(last.budget_bytes)
    assert not fits(last.budget_bytes - 16)
