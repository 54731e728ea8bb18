"""How earlier runs on this machine compared with their predictions, and what that says of new ones.

A peak's estimate stays what it is; its interval is widened by as much as earlier runs went beyond theirs, and never
narrowed. A step's time is multiplied by the median where a recipe is made, see `subopt.recipes.advice.calibrated`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

import torch

from ..record.base import MOST
from ..record.cost import Calibration, Peak, Ratios
from .runs import PastRun, PeakSource, device_name, past_runs

# Shorter runs say little of a step's time: the first steps warm up caches and fit bases.
LEAST_STEPS = 20
# From so many runs on, one far from the others is left out of the extremes.
_OUTLIERS_FROM = 10
# Far: more scaled median deviations from the median than this, of a deviation of at least 2 %.
_FAR = 3.5
_LEAST_DEVIATION = 0.02
_NORMAL = 1.4826  # a normal distribution's standard deviation, in median absolute deviations
# A ratio beyond these is a broken record and no measurement.
_LEAST_RATIO, _LARGEST_RATIO = 1e-3, 1e3


def calibration(device: torch.device, precision: str) -> Calibration | None:
    """Return how earlier runs compared with their predictions, or None where none can be compared.

    Args:
        device: Runs on this device's model, and with as many threads where it is the CPU.
        precision: Runs in this precision.

    Returns:
        Ratios of peaks that the allocator counted, and of step times, under this version (major.minor) of torch.
    """
    name, version = device_name(device), _minor(torch.__version__)
    like = [
        run
        for run in past_runs()
        if run.device == name and run.precision == precision and _minor(run.torch) == version
    ]
    # as the prediction counts: the growth of a whole process holds libraries too
    peak, step_ms = peak_ratios(like, "allocator"), step_ratios(like)
    return None if peak is None and step_ms is None else Calibration(peak=peak, step_ms=step_ms)


def ratios_of(values: Iterable[float]) -> Ratios | None:
    """Return median, least and largest of ratios, or None of none.

    Of ten and more, those are left out of the extremes whose logarithm is further than 3.5 scaled median absolute
    deviations from the median's.
    """
    found = [value for value in values if _LEAST_RATIO <= value <= _LARGEST_RATIO]
    if not found:
        return None
    kept = _without_outliers(found) if len(found) >= _OUTLIERS_FROM else found
    return Ratios(
        runs=len(found), median=statistics.median(found), least=min(kept), largest=max(kept)
    )


def widened(peak: Peak | None, ratios: Ratios | None) -> Peak | None:
    """Return a peak whose interval holds what earlier runs took of their predictions; the estimate stays."""
    if peak is None or ratios is None or peak.source == "formula":
        return peak
    low = math.floor(peak.bytes * min(1.0, ratios.least))
    high = min(math.ceil(peak.bytes * max(1.0, ratios.largest)), MOST)
    return peak.model_copy(
        update={"low_bytes": min(peak.low_bytes, low), "high_bytes": max(peak.high_bytes, high)}
    )


def state_ratios(runs: Iterable[PastRun]) -> Ratios | None:
    """Return actual over predicted bytes of optimizer state: 1 unless something is broken."""
    return ratios_of(
        run.actual.state_bytes / run.predicted.state_bytes
        for run in runs
        if run.actual.state_bytes and run.predicted.state_bytes
    )


def peak_ratios(runs: Iterable[PastRun], source: PeakSource) -> Ratios | None:
    """Return actual over predicted peaks of the runs whose actual one was counted by `source`."""
    return ratios_of(
        run.actual.peak_bytes / run.predicted.peak_bytes
        for run in runs
        if run.peak_source == source and run.actual.peak_bytes and run.predicted.peak_bytes
    )


def step_ratios(runs: Iterable[PastRun]) -> Ratios | None:
    """Return actual over predicted time of a step, of runs of 20 steps and more that torch did not compile."""
    return ratios_of(
        run.actual.step_ms / run.predicted.step_ms
        for run in runs
        if run.steps >= LEAST_STEPS
        and not run.compile
        and run.actual.step_ms
        and run.predicted.step_ms
    )


def _without_outliers(values: Sequence[float]) -> list[float]:
    logarithms = [math.log(value) for value in values]
    middle = statistics.median(logarithms)
    deviation = statistics.median(abs(value - middle) for value in logarithms)
    far = _FAR * max(_NORMAL * deviation, _LEAST_DEVIATION)
    return [
        value for value, place in zip(values, logarithms, strict=True) if abs(place - middle) <= far
    ]


def _minor(version: str) -> str:
    """Return "2.13" of "2.13.0+cpu"."""
    return ".".join(version.split(".")[:2])
