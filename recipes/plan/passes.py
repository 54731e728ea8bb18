"""The two passes at any batch size and run in any way, from those that the profile followed.

Between two followed sizes the straight line is never too low (`subopt.profilers.memory.batch_curve`); beyond the
largest there is no answer. With b the batch size, b0 the profile's, and the bytes beyond weights and state by the
names of `BatchPoint`,

    forward  = forward(b)                    + all gradients, where earlier micro-batches have left them
    backward = backward(b)                   or, where earlier micro-batches have left the gradients,
               without_gradients(b) + all gradients
               or, where each weight is updated as soon as its gradient is complete,
               max(without_gradients(b), update(b) + the largest temporaries of an update)

and each method's own phases move by as much as these differ from those at b0; the step by as much as the batches do.
A fused backward pass has no step after it.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from subopt.errors import UsageError
from subopt.optimizers import get_method
from subopt.profilers.record.profile import BatchPoint, MethodCost, Phase, Profile


@dataclass(frozen=True, slots=True)
class PassConfig:
    """How the passes of a step are run.

    Attributes:
        accumulating: Gradients of earlier micro-batches are alive.
        recomputed: The repeated blocks' activations are computed again in the backward pass.
        fused: Each weight is updated as soon as its gradient is complete, which then goes.
    """

    accumulating: bool = False
    recomputed: bool = False
    fused: bool = False


STANDARD_PASSES = PassConfig()


def changes_passes(cost: MethodCost) -> bool:
    """Return whether a method runs the passes itself or on layers of its own, unlike those that were followed."""
    return bool(cost.weight_bytes_saved) or "needs_closure" in get_method(cost.method).capabilities


def is_followed(profile: Profile, cost: MethodCost) -> bool:
    """Return whether the profile's followed passes are those of this method."""
    if cost.peak is None or cost.peak.source == "formula" or changes_passes(cost):
        return False
    return _point(profile, profile.settings.batch_size, recomputed=False) is not None


def can_recompute(profile: Profile, cost: MethodCost) -> bool:
    """Return whether the profile knows the passes with recomputed activations."""
    return is_followed(profile, cost) and any(p.recomputed for p in profile.memory.by_batch)


def largest_size(profile: Profile, *, recomputed: bool) -> int | None:
    """Return the largest batch whose passes the profile knows; None where it followed none."""
    sizes = [p.batch_size for p in profile.memory.by_batch if p.recomputed == recomputed]
    return max(sizes, default=None)


def changed_passes(
    profile: Profile,
    cost: MethodCost,
    phases: dict[Phase, int],
    batch_size: int,
    config: PassConfig,
) -> dict[Phase, int]:
    """Return the phases of micro-batches of `batch_size` examples, from the plain way's at the profile's batch size.

    Raises:
        UsageError: The profile does not know the passes of such a batch.
    """
    base = _known_point(profile, profile.settings.batch_size, recomputed=False)
    point = _known_point(profile, batch_size, recomputed=config.recomputed)
    gradients = profile.memory.gradient_bytes
    kept = point.retained_bytes - base.retained_bytes
    changed = {phase: size + kept for phase, size in phases.items() if not config.fused}
    changed["forward"] = phases["forward"] + point.forward_bytes - base.forward_bytes
    backward = point.backward_bytes
    if config.accumulating:
        changed["forward"] += gradients
        backward = point.without_gradients_bytes + gradients
    if config.fused:
        updated = point.update_bytes + _update_bytes(profile, cost, phases)
        backward = max(point.without_gradients_bytes, updated)
    changed["backward"] = phases["backward"] + backward - base.backward_bytes
    return changed


def _update_bytes(profile: Profile, cost: MethodCost, phases: dict[Phase, int]) -> int:
    """Return the largest temporaries of one weight's update, on a step that refreshes where there are some."""
    memory = profile.memory
    held = memory.parameter_bytes + memory.gradient_bytes + cost.state_bytes
    highest = max(phases.get("step", 0), phases.get("refresh", 0))
    return max(highest - held, cost.transient_bytes)


def _known_point(profile: Profile, batch_size: int, *, recomputed: bool) -> BatchPoint:
    if point := _point(profile, batch_size, recomputed=recomputed):
        return point
    largest = largest_size(profile, recomputed=recomputed)
    if largest is None:
        raise UsageError(
            "the profile does not know what recomputed activations take",
            "make it again with: subopt profile; of a model without repeated blocks none are recomputed",
        )
    raise UsageError(
        f"the profile knows the memory of batches of up to {largest} examples, not of {batch_size}",
        f"profile again with --batch-size {batch_size}",
    )


def _point(profile: Profile, batch_size: int, *, recomputed: bool) -> BatchPoint | None:
    """Return a followed point, or one on the line between two; below the smallest that one; above the largest None."""
    points = [point for point in profile.memory.by_batch if point.recomputed == recomputed]
    if not points or batch_size > points[-1].batch_size:
        return None
    index = bisect_left(points, batch_size, key=lambda point: point.batch_size)
    if index == 0:
        return points[0]
    left, right = points[index - 1 : index + 1]
    reach, examples = batch_size - left.batch_size, right.batch_size - left.batch_size
    between = {
        name: size - reach * (size - getattr(right, name)) // examples  # rounded up
        for name, size in left
        if name.endswith("_bytes")
    }
    return left.model_copy(update={"batch_size": batch_size, **between})
