"""The plan in words: what was changed so that it fits, and what that costs."""

from __future__ import annotations

from collections.abc import Iterator

from subopt.profilers.record.profile import Profile

from .passes import largest_size
from .solving import PlanRequest, Solved, asked_sizes


def plan_sentences(profile: Profile, request: PlanRequest, plan: Solved) -> Iterator[str]:
    """Yield what a person should know of a plan; nothing where it is what was asked for."""
    if request.batch_size == "auto":
        yield _filled(plan)
    elif plan.batch_size != asked_sizes(profile, request)[1]:
        whole = plan.examples_per_step
        known = largest_size(profile, recomputed=plan.recompute)
        why = f"{whole} examples at once do not fit"
        if known is not None and whole > known:
            why = f"the profile does not know the memory of {whole} examples at once"
        yield (
            f"Micro-batches of {plan.batch_size}, {plan.accumulate} to a step: "
            f"{why}, and this is the same step."
        )
    if plan.accumulate > 1 and _has_batch_norm(profile):
        yield "Batch norms see one micro-batch at a time: their statistics are of fewer examples."
    if plan.recompute:
        yield (
            "recompute: the repeated blocks keep what enters them and compute the rest again in the backward pass, "
            "the same numbers in about a third more time."
        )
    if plan.fused_backward:
        yield (
            "fused_backward: each weight is updated as soon as its gradient is complete, which then goes; "
            "gradients are not clipped."
        )
    if plan.options:
        yield f"Its options were made leaner so that it fits: {options_text(plan)}. That changes what it computes."


def options_text(plan: Solved) -> str:
    """Return the options that were changed for a plan as the recipe writes them."""
    return ", ".join(f"{name}: {value}" for name, value in plan.options.items())


def _filled(plan: Solved) -> str:
    count = "" if plan.accumulate == 1 else f", {plan.accumulate} of them to a step,"
    why = "that fits"
    if plan.is_largest:
        why = "whose memory the profile knows; a larger one may fit"
    return f"{plan.batch_size} examples{count} are the largest micro-batch {why}."


def _has_batch_norm(profile: Profile) -> bool:
    return any(layer.module_type.startswith("BatchNorm") for layer in profile.layers)
