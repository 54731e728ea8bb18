"""One method's row of the ranked table: its memory, its time, what is known of its quality, and what that rests on."""

from __future__ import annotations

from collections.abc import Iterator

from subopt.profilers.record.profile import MethodCost, Profile

from ..evidence.predicted import PredictedGain, predicted_gain
from ..evidence.published import Published, load_evidence, published
from ..evidence.raced import RacedGain, raced_gain
from ..evidence.traits import model_type, tokens_per_step, trainable_parameters
from ..plan.budget import Fit
from ..plan.peaks import PeakAt, peak_at
from ..plan.step_time import whole_step_ms
from ..reason import Reason
from . import reasons
from .row import Row, TimeOverhead
from .rule import expected_gain, score, time_overhead


def make_row(
    profile: Profile,
    cost: MethodCost,
    baseline: MethodCost | None,
    batch_size: int,
    usable_bytes: int,
    *,
    peak: PeakAt | None = None,
) -> Row:
    """Return a method's row at one batch size.

    Args:
        profile: The profile.
        cost: The method's costs in it.
        baseline: The baseline's costs; None where the profile has none.
        batch_size: Examples of one step.
        usable_bytes: Usable part of the budget.
        peak: Its peak; by default that of all examples in one plain micro-batch.
    """
    is_baseline = cost.method == load_evidence().baseline
    peak = peak_at(profile, cost, batch_size) if peak is None else peak
    overhead = time_overhead(profile, cost, baseline, batch_size)
    raced = raced_gain(profile, cost.method, batch_size)
    predicted = predicted_gain(profile, cost)
    near = published(
        cost.method,
        trainable_parameters(profile),
        model_type(profile),
        tokens_per_step(profile, batch_size),
    )
    cut_short = profile.race is not None and profile.race.interrupted
    expected = (
        None
        if is_baseline
        else expected_gain(raced, predicted, near, overhead, cut_short=cut_short)
    )
    fits = peak.fits(usable_bytes)
    found = (overhead, raced, predicted, None if is_baseline else near)
    about = (reasons.IsBaseline(),) if is_baseline else _missing(raced, predicted, near, overhead)
    return Row(
        method=cost.method,
        cost=cost,
        fit=fits,
        peak=peak,
        headroom_bytes=usable_bytes - peak.bytes,
        step_ms=whole_step_ms(profile, cost, batch_size),
        overhead=overhead,
        raced=raced,
        predicted=predicted,
        published=near,
        expected=expected,
        score=score(expected, is_baseline=is_baseline),
        evidence=(peak, *(item for item in found if item is not None)),
        reasons=(*about, *_memory_reasons(cost, peak, fits, usable_bytes)),
    )


def _missing(
    raced: RacedGain | None,
    predicted: PredictedGain | None,
    near: Published | None,
    overhead: TimeOverhead | None,
) -> Iterator[Reason]:
    """Yield what of a method's quality and time is not known."""
    if predicted is None:
        yield reasons.NoPrediction()
    if near is None:
        yield reasons.NoComparison()
    if raced is None and predicted is None and near is None:
        yield reasons.NothingKnown()
    if overhead is None:
        yield reasons.UnknownTime()


def _memory_reasons(
    cost: MethodCost, peak: PeakAt, fits: Fit, usable_bytes: int
) -> Iterator[Reason]:
    """Yield how a method holds the weights, and whether its peak fits, where that is no plain yes."""
    if cost.weight_bytes_saved:
        yield reasons.LowRankLayers(cost.weight_bytes_saved)
    if fits is Fit.NO:
        yield reasons.DoesNotFit(peak.bytes - usable_bytes)
    elif fits is Fit.MAYBE:
        yield reasons.MayNotFit(peak.high_bytes)
