"""Predictions corrected by earlier runs on the same machine, and how to say so.

Each number is corrected once: intervals of peaks where the profile is made (`subopt.profilers.history`),
predicted time of a step where a recipe is made, here. The recipe keeps the factor, and the history stores the
prediction without it.
"""

from __future__ import annotations

from subopt.profilers.record.profile import Calibration, Profile, Ratios

# A step's time is corrected by the median of so many runs or more.
LEAST_RUNS = 3


def step_factor(profile: Profile) -> float | None:
    """Return by what the predicted time of a step is to be multiplied; None without enough earlier runs."""
    found = profile.calibration.step_ms if profile.calibration else None
    return found.median if found and found.runs >= LEAST_RUNS else None


def calibration_sentences(calibration: Calibration | None) -> list[str]:
    """Say what earlier runs on this machine took of what was predicted."""
    if calibration is None:
        return []
    found = ((calibration.peak, "peak"), (calibration.step_ms, "time of a step"))
    return [
        f"{_runs(ratios)} on this machine took {_range(ratios)} the predicted {what}."
        for ratios, what in found
        if ratios is not None
    ]


def step_correction_text(profile: Profile) -> str | None:
    """Say that and why a recipe's time of a step is not the profile's own; None where it is."""
    factor = step_factor(profile)
    if factor is None or profile.calibration is None or profile.calibration.step_ms is None:
        return None
    runs = profile.calibration.step_ms.runs
    return f"predicted time of a step: {factor:.2f} times the profile's, as {runs} earlier runs on this machine took"


def _runs(ratios: Ratios) -> str:
    return "1 earlier run" if ratios.runs == 1 else f"{ratios.runs} earlier runs"


def _range(ratios: Ratios) -> str:
    least, largest = f"{ratios.least:.2f}", f"{ratios.largest:.2f}"
    return f"{least} times" if least == largest else f"{least} to {largest} times"
