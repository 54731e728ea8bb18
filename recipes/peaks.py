"""The peak memory of a training step for one method, at any batch size, from what a profile holds.

Phases hold different things: parameters and optimizer state always, activations in the forward and backward pass,
gradients in the backward pass and the step, the method's own temporaries in the step. Only activations and what lives
beside them depend on the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from subopt.errors import UsageError
from subopt.profilers.schema import MethodCost, Peak, Profile

from .budget import Fit, fit

Phase = Literal["forward", "backward", "step", "refresh"]

# No batch size is searched beyond this.
LARGEST_BATCH = 2**16


@dataclass(frozen=True, slots=True)
class PeakAt:
    """The highest memory of a step at one batch size.

    Attributes:
        batch_size: Examples of one micro-batch.
        bytes: The estimate.
        low_bytes: The peak is at least this.
        high_bytes: The peak is at most this; None where the profile has no activations and nothing bounds it.
        phase: The phase that sets it.
        by_phase: Bytes of every phase that is known.
        source: How the profile got it; a rescaled measurement is still called `measured`.
    """

    batch_size: int
    bytes: int
    low_bytes: int
    high_bytes: int | None
    phase: Phase
    by_phase: tuple[tuple[Phase, int], ...]
    source: Literal["measured", "simulated", "formula"]

    def fits(self, usable_bytes: int) -> Fit:
        """Return whether it fits what tensors can use."""
        return fit(self.low_bytes, self.high_bytes, usable_bytes)

    def shifted(self, delta_bytes: int) -> PeakAt:
        """Return the peak with something held throughout the step made larger or smaller."""
        high = None if self.high_bytes is None else self.high_bytes + delta_bytes
        return replace(
            self,
            bytes=self.bytes + delta_bytes,
            low_bytes=self.low_bytes + delta_bytes,
            high_bytes=high,
            by_phase=tuple((phase, size + delta_bytes) for phase, size in self.by_phase),
        )


def peak_at(
    profile: Profile, cost: MethodCost, batch_size: int, *, accumulating: bool = False
) -> PeakAt:
    """Return the peak of a step with one method.

    At the profile's own batch size this is the profile's number. For a smaller batch only the activations shrink; for
    a larger one everything grows that is neither parameter, gradient nor optimizer state: both err on the safe side.

    Args:
        profile: The profile.
        cost: The method's row in it.
        batch_size: Examples of one micro-batch.
        accumulating: Whether gradients of earlier micro-batches are held during the forward pass.

    Raises:
        UsageError: Another batch size than the profile's, and the profile has no activations to scale.
    """
    measured = batch_size == profile.settings.batch_size
    if not measured and profile.memory.activation_bytes is None:
        raise UsageError(
            f"the profile was taken at batch size {profile.settings.batch_size} and does not hold activation memory",
            f"profile again with --batch-size {batch_size}",
        )
    followed = _followed_peak(cost)
    phases = _phases(profile, cost)
    factor = batch_size / profile.settings.batch_size
    scaled = {
        phase: size + _growth(profile, cost, phase, size, factor) for phase, size in phases.items()
    }
    if accumulating and "forward" in scaled:
        scaled["forward"] += _gradient_bytes(profile, cost)
    highest = max(scaled, key=lambda phase: scaled[phase])
    below, above = _margins(profile, cost, phases)
    widening = max(factor, 1.0)
    estimate = scaled[highest]
    return PeakAt(
        batch_size=batch_size,
        bytes=estimate,
        low_bytes=max(estimate - round(below * widening), 0),
        high_bytes=None if above is None else estimate + round(above * widening),
        phase=highest,
        by_phase=tuple(scaled.items()),
        source="formula" if followed is None else followed.source,
    )


def largest_batch(
    fits: Callable[[int], bool], *, candidates: tuple[int, ...] | None = None
) -> int | None:
    """Return the largest batch size that fits, or None where none does.

    Args:
        fits: Whether a batch size fits; a smaller one than one that fits must fit too.
        candidates: Batch sizes to choose from; powers of two by default.
    """
    if candidates is None:
        candidates = tuple(2**power for power in range(LARGEST_BATCH.bit_length()))
    best = None
    for size in sorted(candidates):
        if not fits(size):
            break
        best = size
    return best


def _followed_peak(cost: MethodCost) -> Peak | None:
    """Return the peak of a whole step; one by formula covers the optimizer's part alone and is left out."""
    return None if cost.peak is None or cost.peak.source == "formula" else cost.peak


def _phases(profile: Profile, cost: MethodCost) -> dict[Phase, int]:
    """Bytes by phase as the profile has them, or summed from the parts where it followed no step."""
    peak = _followed_peak(cost)
    if peak is not None:
        known = peak.by_phase
        named: tuple[tuple[Phase, int | None], ...] = (
            ("forward", known.forward),
            ("backward", known.backward),
            ("step", known.step),
            ("refresh", known.refresh),
        )
        phases = {phase: size for phase, size in named if size is not None}
        phases[peak.phase] = peak.bytes
        return phases
    memory = profile.memory
    held = _weight_bytes(profile, cost) + cost.state_bytes
    gradients = _gradient_bytes(profile, cost)
    activations = memory.activation_bytes or 0
    return {
        "forward": held + activations,
        "backward": held + gradients + activations,
        "step": held + gradients + cost.transient_bytes,
    }


def _weight_bytes(profile: Profile, cost: MethodCost) -> int:
    return max(profile.memory.parameter_bytes - cost.weight_bytes_saved, 0)


def _gradient_bytes(profile: Profile, cost: MethodCost) -> int:
    """Gradients have the form of the weights they are of."""
    return max(profile.memory.gradient_bytes - cost.weight_bytes_saved, 0)


def _growth(profile: Profile, cost: MethodCost, phase: Phase, size: int, factor: float) -> int:
    """What another batch size adds to a phase; negative for a smaller batch."""
    if phase not in {"forward", "backward"} or factor == 1:
        return 0
    activations = profile.memory.activation_bytes or 0
    weights = _weight_bytes(profile, cost)
    fixed = weights + cost.state_bytes
    if phase == "backward":
        fixed += _gradient_bytes(profile, cost)
    variable = activations if factor < 1 else max(activations, size - fixed)
    return round((factor - 1) * min(variable, max(size - weights, 0)))


def _margins(
    profile: Profile, cost: MethodCost, phases: dict[Phase, int]
) -> tuple[int, int | None]:
    """How far the true peak may lie below and above the estimate, in bytes."""
    peak = _followed_peak(cost)
    if peak is not None:
        return max(peak.bytes - peak.low_bytes, 0), max(peak.high_bytes - peak.bytes, 0)
    if profile.memory.activation_bytes is None:
        return 0, None
    # Gradients appear as activations go, so the backward pass may peak without one of them.
    backward = phases["backward"]
    lowest = max(phases["forward"], phases["step"])
    return max(backward - lowest, 0), 0
