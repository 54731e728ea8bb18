"""What there is to doubt about a gain predicted from gradients, and the share of the gain that each doubt leaves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from subopt.profilers.record.profile import MethodCost, Profile

from ..reason import Reason
from .method_family import family_of

# Gradients of untrained weights are nearly of rank one, and made-up data has none of the real one's structure: half.
# Little data, or a difference that was not measured: three quarters. A judgement.
UNTRAINED = 0.5
LITTLE = 0.75
FEW_BATCHES = 4
MOST = 0.5


class Doubt(Reason):
    """What weakens a predicted gain; `certainty` is the share of it that is left."""

    certainty: ClassVar[float] = LITTLE


class UntrainedGradients(Doubt):
    """The gradients are of untrained weights."""

    certainty = UNTRAINED


class FewBatches(Doubt):
    """The gradients are of few batches."""

    batches: int


class FewMatrices(Doubt):
    """Only this share of the matrices was measured, by size."""

    coverage: float


class SyntheticData(Doubt):
    """The data was made up."""

    certainty = UNTRAINED


class InterruptedProfile(Doubt):
    """The profile was interrupted."""


class EnergyBound(Doubt):
    """The energy kept is that of each gradient's own best basis, which is an upper bound."""


class NotMeasured(Doubt):
    """The method differs from the baseline in an option of which nothing was measured."""

    option: str
    value: str


def doubts_of(
    profile: Profile, cost: MethodCost, coverage: float, *, is_bound: bool
) -> Iterator[Doubt]:
    """Yield what weakens the gain predicted for a method.

    `coverage` is the share of its matrices that were measured, by size; `is_bound` says that of some the
    energy is known as a bound only.
    """
    settings = profile.settings
    if settings.steps + settings.warmup_steps == 0:
        yield UntrainedGradients()
    if settings.batches < FEW_BATCHES:
        yield FewBatches(settings.batches)
    if coverage < MOST:
        yield FewMatrices(coverage)
    if profile.target.synthetic_data:
        yield SyntheticData()
    if profile.interrupted:
        yield InterruptedProfile()
    if is_bound:
        yield EnergyBound()
    for option, value in family_of(cost).unmeasured:
        yield NotMeasured(option, value)
