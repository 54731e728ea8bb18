"""The peak memory of a training step for one method, at any batch size, from what a profile holds.

Phases hold different things: parameters and optimizer state always, activations in the forward and backward pass,
gradients in the backward pass and the step, the method's own temporaries in the step. Only the two passes depend on the
batch, on recomputing and on when the weights are updated: by as much as the profile's followed passes differ there
(`passes`), or, of a profile without those, as much as its activations say (`scaled_passes`).
"""

from __future__ import annotations

from typing import Any, Literal

from subopt.profilers.memory.device_overhead import CPU, UNKNOWN_GPU, DeviceConstants, gpu_constants
from subopt.profilers.record.profile import MethodCost, Peak, Phase, Profile

from ..reason import Reason
from .budget import Fit, fit
from .passes import STANDARD_PASSES, PassConfig, changed_passes, is_followed
from .scaled_passes import gradient_bytes, scaled_passes, weight_bytes

# An earlier run's excess over its predicted peak is taken for granted after so many runs.
_LEAST_RUNS = 3


class PeakAt(Reason):
    """The highest memory of a step at one batch size.

    Attributes:
        batch_size: Examples of one micro-batch.
        bytes: The estimate.
        low_bytes: The peak is at least this.
        high_bytes: The peak is at most this; None where the profile has no activations and nothing bounds it.
        phase: The phase that sets it.
        by_phase: Bytes of every phase that is known.
        source: How the profile got it; a rescaled measurement is still called `measured`.
        overhead_bytes: What has to be free beside the estimate: for libraries and the allocator, and as much as earlier
            runs on this machine went over theirs.
    """

    batch_size: int
    bytes: int
    low_bytes: int
    high_bytes: int | None
    phase: Phase
    by_phase: tuple[tuple[Phase, int], ...]
    source: Literal["measured", "simulated", "formula"]
    overhead_bytes: int = 0

    def fits(self, usable_bytes: int) -> Fit:
        """Return whether it fits what tensors can use."""
        needed = None if self.high_bytes is None else self.bytes + self.overhead_bytes
        return fit(self.low_bytes, needed, usable_bytes)


def peak_at(
    profile: Profile, cost: MethodCost, batch_size: int, config: PassConfig = STANDARD_PASSES
) -> PeakAt:
    """Return the peak of a step with one method and micro-batches of `batch_size` examples.

    At the profile's own batch size and in the plain way this is the profile's number.

    Raises:
        UsageError: The profile does not know the passes of such a batch, or run that way.
    """
    phases = _phases(profile, cost)
    if batch_size == profile.settings.batch_size and config == STANDARD_PASSES:
        return _interval(profile, cost, batch_size, phases, phases)
    run_passes = changed_passes if is_followed(profile, cost) else scaled_passes
    changed = run_passes(profile, cost, phases, batch_size, config)
    return _interval(profile, cost, batch_size, phases, changed)


def _interval(
    profile: Profile,
    cost: MethodCost,
    batch_size: int,
    own: dict[Phase, int],
    phases: dict[Phase, int],
) -> PeakAt:
    """Return the peak of these phases; what is not sure of the profile's own ones is so in proportion."""
    highest = max(phases, key=phases.__getitem__)
    estimate = phases[highest]
    below, above = _margins(profile, cost, own)
    device = _device(profile, cost)
    fixed = min(device.non_tensor_bytes, above or 0)
    widening = max(estimate / max(*own.values(), 1), 1.0)
    followed = _followed_peak(cost)
    high = None if above is None else estimate + fixed + round((above - fixed) * widening)
    return PeakAt(
        batch_size=batch_size,
        bytes=estimate,
        low_bytes=max(estimate - round(below * widening), 0),
        high_bytes=high,
        phase=highest,
        by_phase=tuple(phases.items()),
        source="formula" if followed is None else followed.source,
        overhead_bytes=fixed + round(_excess(profile, followed) * estimate),
    )


def _excess(profile: Profile, followed: Peak | None) -> float:
    """Return the share by which earlier runs on this machine went over their predicted peaks."""
    found = None if profile.calibration is None else profile.calibration.peak
    if found is None or followed is None or found.runs < _LEAST_RUNS:
        return 0.0
    return max(found.largest - 1.0, 0.0)


def _device(profile: Profile, cost: MethodCost) -> DeviceConstants:
    """Return what the device takes beside the tensors that were followed; a measurement has it all."""
    if cost.peak is None or cost.peak.source != "simulated":
        return CPU
    if profile.settings.simulate:
        return UNKNOWN_GPU
    gpu = profile.environment.gpu
    return CPU if profile.settings.device == "cpu" or gpu is None else gpu_constants(gpu.name)


def _followed_peak(cost: MethodCost) -> Peak | None:
    """Return the peak of a whole step; one by formula covers the optimizer's part alone and is left out."""
    return None if cost.peak is None or cost.peak.source == "formula" else cost.peak


def _phases(profile: Profile, cost: MethodCost) -> dict[Phase, int]:
    """Bytes by phase as the profile has them, or summed from the parts where it followed no step."""
    peak = _followed_peak(cost)
    if peak is not None:
        phases: dict[Any, int] = peak.by_phase.model_dump(exclude_none=True)
        return {**phases, peak.phase: peak.bytes}
    held = weight_bytes(profile, cost) + cost.state_bytes
    gradients = gradient_bytes(profile, cost)
    activations = profile.memory.activation_bytes or 0
    return {
        "forward": held + activations,
        "backward": held + gradients + activations,
        "step": held + gradients + cost.transient_bytes,
    }


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
