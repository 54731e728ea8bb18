"""The time of a whole training step with a method, from what the profile timed."""

from __future__ import annotations

from subopt.profilers.record.cost import BASELINE
from subopt.profilers.record.profile import MethodCost, Profile


def outside_optimizer_ms(profile: Profile, batch_size: int) -> float | None:
    """Return what of a training step no method changes; None where the profile timed no passes.

        (forward_backward + batch) * batch_size / profile's batch size + clip

    The passes and the data grow with the examples of a step, its micro-batches together. What an older profile did not
    time counts as nothing.
    """
    if profile.forward_backward_ms is None:
        return None
    growth = batch_size / profile.settings.batch_size
    passes_ms = profile.forward_backward_ms + (profile.batch_ms or 0.0)
    return passes_ms * growth + (profile.clip_ms or 0.0)


def whole_step_ms(profile: Profile, cost: MethodCost, batch_size: int) -> float | None:
    """Return the time of an average training step with a method, refreshes included; None where none was timed.

    It is the baseline's step and the overhead that was timed in turn with it, so that the times of all methods and
    their overheads are of one step, whatever else the machine did while each was timed.
    """
    rest_ms, optimizer_ms = outside_optimizer_ms(profile, batch_size), _optimizer_ms(profile, cost)
    return None if rest_ms is None or optimizer_ms is None else rest_ms + optimizer_ms


def _optimizer_ms(profile: Profile, cost: MethodCost) -> float | None:
    """The baseline's optimizer step and the overhead over it; the method's own time where one of the two is unknown."""
    baseline_ms = next((row.step_ms for row in profile.methods if row.method == BASELINE), None)
    if baseline_ms is None or cost.overhead_ms is None:
        return cost.step_ms
    return baseline_ms + cost.overhead_ms


def relative_step_time(profile: Profile, cost: MethodCost, batch_size: int) -> float | None:
    """Return a training step with a method relative to one with the baseline, less 1; None where none was timed.

        overhead / (whole step - overhead)

    The overhead was timed in turn with the baseline's step, so whole step - overhead is the baseline's step.
    """
    whole_ms = whole_step_ms(profile, cost, batch_size)
    if whole_ms is None or cost.overhead_ms is None or whole_ms <= max(cost.overhead_ms, 0.0):
        return None
    return cost.overhead_ms / (whole_ms - cost.overhead_ms)
