"""The two passes at another batch size where the profile followed none: activations in proportion, on the safe side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from subopt.errors import UsageError
from subopt.optimizers import get_method
from subopt.profilers.schema import MethodCost, Profile

from .passes import Way

if TYPE_CHECKING:
    from .peaks import Phase


def scaled_passes(
    profile: Profile, cost: MethodCost, phases: dict[Phase, int], batch_size: int, way: Way
) -> dict[Phase, int]:
    """Return the phases at another batch size.

    For a smaller batch only the activations shrink; for a larger one everything grows that is neither parameter,
    gradient nor optimizer state.

    Args:
        profile: The profile.
        cost: The method's row in it.
        phases: Bytes by phase at the profile's batch size.
        batch_size: Examples of one micro-batch.
        way: How the passes are run; they cannot be recomputed or update the weights here.

    Raises:
        UsageError: The profile has no activations to scale, or the passes are to be run another way.
    """
    own = profile.settings.batch_size
    if way.recomputed or way.fused:
        what = "recomputed activations" if way.recomputed else "updates in the backward pass"
        raise UsageError(
            f"the profile does not know what {cost.method} takes with {what}",
            "make it again with: subopt profile",
        )
    if batch_size != own and profile.memory.activation_bytes is None:
        raise UsageError(
            f"the profile was taken at batch size {own} and does not hold activation memory",
            f"profile again with --batch-size {batch_size}",
        )
    factor = batch_size / own
    scaled = {
        phase: size + _growth(profile, cost, phase, size, factor) for phase, size in phases.items()
    }
    if way.accumulating:
        for phase in ("forward", "backward"):
            if phase in scaled:
                scaled[phase] += gradient_bytes(profile, cost)
    return scaled


def weight_bytes(profile: Profile, cost: MethodCost) -> int:
    """Return what the weights take in the form that the method holds them in."""
    return max(profile.memory.parameter_bytes - cost.weight_bytes_saved, 0)


def gradient_bytes(profile: Profile, cost: MethodCost) -> int:
    """Return what all gradients take; they have the form of the weights they are of."""
    return max(profile.memory.gradient_bytes - cost.weight_bytes_saved, 0)
