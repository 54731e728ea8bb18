"""Predictions corrected by earlier runs on the same machine.

Each number is corrected once: intervals of peaks where the profile is made (`subopt.profilers.history`),
predicted time of a step where a recipe is made, here. The recipe keeps the factor, and the history stores the
prediction without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from subopt.profilers.record.profile import Calibration, Profile

from ..reason import Reason

# A step's time is corrected by the median of so many runs or more.
LEAST_RUNS = 3


class EarlierRuns(Reason):
    """What earlier runs on this machine took of what was predicted, as multiples of it."""

    what: Literal["peak", "step time"]
    runs: int
    least: float
    largest: float


class StepCorrection(Reason):
    """A recipe's time of a step is the profile's times this factor, which earlier runs took."""

    factor: float
    runs: int


def earlier_runs(calibration: Calibration | None) -> Iterator[EarlierRuns]:
    """Yield what earlier runs on this machine took of their predictions."""
    if calibration is not None and (peak := calibration.peak):
        yield EarlierRuns("peak", peak.runs, peak.least, peak.largest)
    if calibration is not None and (step := calibration.step_ms):
        yield EarlierRuns("step time", step.runs, step.least, step.largest)


def step_correction(profile: Profile) -> StepCorrection | None:
    """Return by what the predicted time of a step is to be multiplied; None without enough earlier runs."""
    found = profile.calibration.step_ms if profile.calibration else None
    return StepCorrection(found.median, found.runs) if found and found.runs >= LEAST_RUNS else None
