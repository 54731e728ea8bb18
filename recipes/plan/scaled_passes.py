"""The two passes at another batch size where the profile followed none: activations in proportion, on the safe side."""

from __future__ import annotations

from subopt.errors import UsageError
from subopt.profilers.record.profile import MethodCost, Phase, Profile

from .passes import PassConfig, changes_passes


def scaled_passes(
    profile: Profile,
    cost: MethodCost,
    phases: dict[Phase, int],
    batch_size: int,
    config: PassConfig,
) -> dict[Phase, int]:
    """Return the phases of micro-batches of `batch_size` examples, from those at the profile's batch size.

    For a smaller batch only the activations shrink; for a larger one everything grows that is neither parameter,
    gradient nor optimizer state.

    Raises:
        UsageError: The profile has no activations to scale, or the passes are to be run another way.
    """
    own = profile.settings.batch_size
    if config.recomputed or config.fused:
        what = "recomputed activations" if config.recomputed else "updates in the backward pass"
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
    return _accumulating(profile, cost, scaled) if config.accumulating else scaled


def weight_bytes(profile: Profile, cost: MethodCost) -> int:
    """Return what the weights take in the form that the method holds them in."""
    return max(profile.memory.parameter_bytes - cost.weight_bytes_saved, 0)


def gradient_bytes(profile: Profile, cost: MethodCost) -> int:
    """Return what all gradients take; they have the form of the weights they are of."""
    return max(profile.memory.gradient_bytes - cost.weight_bytes_saved, 0)


def _accumulating(profile: Profile, cost: MethodCost, phases: dict[Phase, int]) -> dict[Phase, int]:
    """Return the passes with the gradients of earlier micro-batches alive in all of them.

    What the backward pass takes beside gradients is most at its highest instant or where it begins.
    """
    gradients = gradient_bytes(profile, cost)
    categories = {} if cost.peak is None else cost.peak.categories.get("backward", {})
    complete = min(categories.get("gradient", gradients), gradients)
    changed = dict(phases)
    if "forward" in phases:
        changed["forward"] += gradients
    if "backward" in phases:
        begins = changed.get("forward", 0)
        changed["backward"] = max(phases["backward"] - complete + gradients, begins)
    return changed


def _growth(profile: Profile, cost: MethodCost, phase: Phase, size: int, factor: float) -> int:
    """What another batch size adds to a phase; negative for a smaller batch."""
    if phase not in {"forward", "backward"} or factor == 1:
        return 0
    activations = profile.memory.activation_bytes or 0
    if cost.peak is not None and changes_passes(cost):  # those of a method with layers of its own
        categories = cost.peak.categories.get(phase, {})
        activations = min(categories.get("activation", activations), activations)
    weights = weight_bytes(profile, cost)
    fixed = weights + cost.state_bytes
    is_whole = cost.peak is None or cost.peak.source == "formula"
    if phase == "backward" and (is_whole or factor < 1 or not changes_passes(cost)):
        fixed += gradient_bytes(profile, cost)
    variable = max(size - fixed, 0)
    variable = min(activations, variable) if factor < 1 else max(activations, variable)
    return round((factor - 1) * min(variable, max(size - weights, 0)))
