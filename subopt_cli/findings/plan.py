"""The words of a plan: what was changed so that it fits, what it takes of the budget, and what would make it fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from subopt.recipes.advice.answer import FittingChange
from subopt.recipes.advice.calibrated import EarlierRuns, StepCorrection
from subopt.recipes.plan.budget import Budget
from subopt.recipes.plan.peaks import PeakAt
from subopt.recipes.plan.reasons import (
    FusedUpdates,
    LargestMicroBatch,
    LeanerOptions,
    PartialBatchNorm,
    Recomputing,
    SmallerMicroBatch,
)
from subopt.recipes.ranking.reasons import DoesNotFit, LowRankLayers, MayNotFit

from ..text import percent, plural
from ..units import format_bytes
from .words import fixed, words

fixed({
    FusedUpdates: "fused_backward: each weight is updated as soon as its gradient is complete, which is then freed. "
    "Gradients are not clipped."
})


def options_text(options: Mapping[str, Any]) -> str:
    """Return options as the recipe writes them."""
    return ", ".join(f"{name}: {value}" for name, value in options.items())


@words.register
def _(plan: LargestMicroBatch) -> str:
    count = "" if plan.accumulate == 1 else f", {plan.accumulate} of them to a step,"
    why = "that fits"
    if plan.is_largest_known:
        why = "whose memory the profile knows; a larger one may fit"
    return f"{plural(plan.batch_size, 'example')}{count} are the largest micro-batch {why}."


@words.register
def _(plan: SmallerMicroBatch) -> str:
    whole = f"{plan.batch_size * plan.accumulate} examples at once"
    why = f"{whole} do not fit"
    if not plan.is_memory_known:
        why = f"the profile does not know the memory of {whole}"
    return (
        f"Micro-batches of {plan.batch_size}, {plan.accumulate} to a step: {why}. "
        "It is the same step."
    )


@words.register
def _(norm: PartialBatchNorm) -> str:
    return (
        f"Batch norms see one micro-batch at a time: their statistics are of {norm.batch_size} examples, "
        f"not of {norm.examples_per_step}."
    )


@words.register
def _(plan: Recomputing) -> str:
    return (
        "recompute: the repeated blocks keep their inputs alone and compute the rest again in the backward pass. The "
        f"numbers are the same, and the passes take about {percent(plan.time_share)} more time."
    )


@words.register
def _(plan: LeanerOptions) -> str:
    options = options_text(plan.options)
    return (
        f"Its options were made leaner so that it fits: {options}. That changes what it computes."
    )


@words.register
def _(budget: Budget) -> str:
    total, usable = format_bytes(budget.total_bytes), format_bytes(budget.usable_bytes)
    parts = []
    if budget.context_bytes:
        parts.append(f"{format_bytes(budget.context_bytes)} go to the CUDA context")
        parts.append(f"{format_bytes(budget.reserve_bytes)} to the allocator's reserve")
    if budget.headroom_bytes:
        headroom = f"{format_bytes(budget.headroom_bytes)} ({percent(budget.headroom)})"
        parts.append(f"{headroom} stay free as headroom")
    if not parts:
        return f"The budget is {total}, all of it usable."
    *most, last = parts
    listed = f"{', '.join(most)} and {last}" if most else last
    return f"The budget is {total}, of which {usable} are usable: {listed}."


@words.register
def _(peak: PeakAt) -> str:
    return f"peak {format_bytes(peak.bytes)} in the {peak.phase} phase"


@words.register
def _(layers: LowRankLayers) -> str:
    what = "less" if layers.saved_bytes > 0 else "more"
    return (
        f"It trains low-rank layers in the place of the model's: {format_bytes(abs(layers.saved_bytes))} {what} of "
        "weights at the largest ranks they may take. The weights a run leaves behind are dense again."
    )


@words.register
def _(peak: DoesNotFit) -> str:
    return f"does not fit: {format_bytes(peak.excess_bytes)} too much"


@words.register
def _(peak: MayNotFit) -> str:
    if peak.high_bytes is None:
        return "activations are unknown, so its peak is a lower bound"
    return f"may need up to {format_bytes(peak.high_bytes)}"


@words.register
def _(change: FittingChange) -> str:
    if change.question == "budget":
        counted = "" if change.counts_activations else ", without activations: the profile has none"
        return f"a budget of {format_bytes(change.budget_bytes)} or more ({change.method}{counted})"
    asked = {
        "accumulate": "without --accumulate",
        "recompute": "--recompute auto",
        "fused_backward": "--fused-backward auto",
        "methods": f"--methods {change.method}",
        "batch_size": f"--batch-size {change.batch_size}",
    }[change.question]
    size = f"batch size {change.batch_size}"
    if change.accumulate > 1:
        size = f"{change.accumulate} micro-batches of {change.batch_size}"
    switches = {"recompute": change.recompute, "fused_backward": change.fused_backward}
    changed = {name: "true" for name, is_on in switches.items() if is_on} | dict(change.options)
    plan = ", ".join(filter(None, [change.method, size, options_text(changed)]))
    return f"{asked}: {plan} (peak {format_bytes(change.peak_bytes)})"


@words.register
def _(found: EarlierRuns) -> str:
    least, largest = f"{found.least:.2f}", f"{found.largest:.2f}"
    ratios = least if least == largest else f"{least} to {largest}"
    runs = plural(found.runs, "earlier run")
    return f"{runs} on this machine took {ratios} times the predicted {found.what}."


@words.register
def _(found: StepCorrection) -> str:
    return (
        f"predicted time of a step: {found.factor:.2f} times the profile's, as "
        f"{plural(found.runs, 'earlier run')} on this machine took"
    )
