"""Why a plan is not what was asked for: what was changed so that it fits, and what that costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from subopt.profilers.record.profile import Profile

from ..reason import Reason
from .passes import largest_size
from .solving import RECOMPUTE_SHARE, PlanRequest, Solved, asked_sizes


class LargestMicroBatch(Reason):
    """The micro-batch is the largest that fits, or the largest whose memory the profile knows."""

    batch_size: int
    accumulate: int
    is_largest_known: bool


class SmallerMicroBatch(Reason):
    """The examples of a step are cut into micro-batches: all at once do not fit, or take an unknown memory."""

    batch_size: int
    accumulate: int
    is_memory_known: bool


class PartialBatchNorm(Reason):
    """Batch norms see one micro-batch of the step at a time."""

    batch_size: int
    examples_per_step: int


class Recomputing(Reason):
    """Activations are computed again in the backward pass, which adds this share to the passes' time."""

    time_share: float


class FusedUpdates(Reason):
    """Each weight is updated in the backward pass, as soon as its gradient is complete."""


class LeanerOptions(Reason):
    """The method's options were changed so that it fits."""

    options: Mapping[str, Any]


def plan_reasons(profile: Profile, request: PlanRequest, plan: Solved) -> Iterator[Reason]:
    """Yield what a person should know of a plan; nothing where it is what was asked for."""
    size, count = plan.batch_size, plan.accumulate
    if request.batch_size == "auto":
        yield LargestMicroBatch(size, count, plan.is_largest)
    elif size != asked_sizes(profile, request)[1]:
        known = largest_size(profile, recomputed=plan.recompute)
        yield SmallerMicroBatch(size, count, known is None or plan.examples_per_step <= known)
    if count > 1 and any(layer.module_type.startswith("BatchNorm") for layer in profile.layers):
        yield PartialBatchNorm(size, plan.examples_per_step)
    if plan.recompute:
        yield Recomputing(RECOMPUTE_SHARE)
    if plan.fused_backward:
        yield FusedUpdates()
    if plan.options:
        yield LeanerOptions(plan.options)
