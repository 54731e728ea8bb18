"""The words of a plan: what was changed so that it fits, what it takes of the budget, and what would make it fit."""

from __future__ import annotations

from subopt.recipes.advice.answer import FittingChange
from subopt.recipes.advice.calibrated import EarlierRuns, StepCorrection
from subopt.recipes.plan import reasons
from subopt.recipes.plan.budget import Budget
from subopt.recipes.plan.peaks import PeakAt
from subopt.recipes.ranking.reasons import DoesNotFit, LowRankLayers, MayNotFit

from ..text import percent
from ..units import format_bytes
from .words import filled, register, words

register({
    reasons.PartialBatchNorm: "Batch norms see one micro-batch at a time: their statistics are of {batch_size} "
    "examples, not of {examples_per_step}.",
    reasons.Recomputing: "recompute: the repeated blocks keep their inputs alone and compute the rest again in the "
    "backward pass. The numbers are the same, and the passes take about {time_share:.0%} more time.",
    reasons.FusedUpdates: "fused_backward: each weight is updated as soon as its gradient is complete, which is then "
    "freed. Gradients are not clipped.",
    reasons.LeanerOptions: "Its options were made leaner so that it fits: {options}. That changes what it computes.",
    PeakAt: "peak {bytes:bytes} in the {phase} phase",
    DoesNotFit: "does not fit: {excess_bytes:bytes} too much",
    StepCorrection: "predicted time of a step: {factor:.2f} times the profile's, as {runs:earlier run} on this "
    "machine took",
})


@words.register
def _(plan: reasons.LargestMicroBatch) -> str:
    whole = "" if plan.accumulate == 1 else ", {accumulate} of them to a step,"
    why = "{is_largest_known:whose memory the profile knows; a larger one may fit|that fits}"
    return filled(f"{{batch_size:example}}{whole} are the largest micro-batch {why}.", plan)


@words.register
def _(plan: reasons.SmallerMicroBatch) -> str:
    whole = f"{plan.batch_size * plan.accumulate} examples at once"
    why = f"{{is_memory_known:{whole} do not fit|the profile does not know the memory of {whole}}}"
    text = f"Micro-batches of {{batch_size}}, {{accumulate}} to a step: {why}. It is the same step."
    return filled(text, plan)


@words.register
def _(budget: Budget) -> str:
    parts = []
    if budget.context_bytes:
        parts.append("{context_bytes:bytes} go to the CUDA context")
        parts.append("{reserve_bytes:bytes} to the allocator's reserve")
    if budget.headroom_bytes:
        parts.append(f"{{headroom_bytes:bytes}} ({percent(budget.headroom)}) stay free as headroom")
    if not parts:
        return filled("The budget is {total_bytes:bytes}, all of it usable.", budget)
    text = "The budget is {total_bytes:bytes}, of which {usable_bytes:bytes} are usable: "
    return filled(
        text + " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]])) + ".", budget
    )


@words.register
def _(layers: LowRankLayers) -> str:
    what = "less" if layers.saved_bytes > 0 else "more"
    return (
        f"It trains low-rank layers in the place of the model's: {format_bytes(abs(layers.saved_bytes))} {what} of "
        "weights at the largest ranks they may take. The weights a run leaves behind are dense again."
    )


@words.register
def _(peak: MayNotFit) -> str:
    unknown = "activations are unknown, so its peak is a lower bound"
    return unknown if peak.high_bytes is None else filled("may need up to {high_bytes:bytes}", peak)


@words.register
def _(change: FittingChange) -> str:
    if change.question == "budget":
        counted = "" if change.counts_activations else ", without activations: the profile has none"
        return filled(
            "a budget of {budget_bytes:bytes} or more ({method}{counted})", change, counted=counted
        )
    asked = {
        "accumulate": "without --accumulate",
        "recompute": "--recompute auto",
        "fused_backward": "--fused-backward auto",
        "methods": f"--methods {change.method}",
        "batch_size": f"--batch-size {change.batch_size}",
    }[change.question]
    size = "batch size {batch_size}"
    if change.accumulate > 1:
        size = "{accumulate} micro-batches of {batch_size}"
    switches = {"recompute": change.recompute, "fused_backward": change.fused_backward}
    changed = {name: "true" for name, is_on in switches.items() if is_on} | dict(change.options)
    plan = ", ".join(["{method}", size, *(["{changed}"] if changed else [])])
    return filled(f"{asked}: {plan} (peak {{peak_bytes:bytes}})", change, changed=changed)


@words.register
def _(found: EarlierRuns) -> str:
    least, largest = f"{found.least:.2f}", f"{found.largest:.2f}"
    ratios = least if least == largest else f"{least} to {largest}"
    text = "{runs:earlier run} on this machine took {ratios} times the predicted {what}."
    return filled(text, found, ratios=ratios)
