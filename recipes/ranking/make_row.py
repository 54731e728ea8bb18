"""One method's row of the ranked table: its memory, its time, what is known of its quality, and what that rests on."""

from __future__ import annotations

from subopt.profilers.record.profile import MethodCost, Profile
from subopt.units import format_bytes, format_ms

from ..evidence.measured import MeasuredGain, measured_gain
from ..evidence.published import Published, load_evidence, published
from ..evidence.raced import RacedGain, raced_gain
from ..evidence.traits import model_type, tokens_per_step, trainable_parameters
from ..plan.budget import Fit
from ..plan.peaks import PeakAt, peak_at
from ..plan.step_time import whole_step_ms
from .phrases import gain_text, low_rank_text, measure_of, overhead_text, share_text
from .row import Evidence, Row, TimeOverhead
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
    measured = measured_gain(profile, cost)
    near = published(
        cost.method,
        trainable_parameters(profile),
        model_type(profile),
        tokens_per_step(profile, batch_size),
    )
    cut_short = profile.race is not None and profile.race.interrupted
    expected = (
        None if is_baseline else expected_gain(raced, measured, near, overhead, cut_short=cut_short)
    )
    fits = peak.fits(usable_bytes)
    return Row(
        method=cost.method,
        cost=cost,
        fit=fits,
        peak=peak,
        headroom_bytes=usable_bytes - peak.bytes,
        step_ms=whole_step_ms(profile, cost, batch_size),
        overhead=overhead,
        raced=raced,
        measured=measured,
        published=near,
        expected=expected,
        score=score(expected, is_baseline=is_baseline),
        evidence=_evidence(peak, overhead, raced, measured, near, cost),
        reasons=(
            *_quality_reasons(cost, overhead, raced, measured, near, measure_of(profile)),
            *_memory_reasons(cost, peak, fits, usable_bytes),
        ),
    )


def _evidence(
    peak: PeakAt,
    overhead: TimeOverhead | None,
    raced: RacedGain | None,
    measured: MeasuredGain | None,
    near: Published | None,
    cost: MethodCost,
) -> tuple[Evidence, ...]:
    memory = f"peak {format_bytes(peak.bytes)} in the {peak.phase} phase"
    items = [Evidence("measured here" if peak.source == "measured" else peak.source, memory)]
    if overhead is not None:
        beyond = cost.step_ms if cost.step_ms is not None and cost.step_ms >= 0 else None
        step = "" if beyond is None else f", optimizer step {format_ms(beyond)}"
        items.append(Evidence(overhead.source, f"time {overhead.share:+.1%}{step}"))
    if raced is not None:
        items.append(Evidence("raced here", raced.text))
    if measured is not None:
        items.append(Evidence("measured here", measured.text))
    if near is not None and cost.method != load_evidence().baseline:
        items.append(Evidence("published", near.result.source))
    return tuple(items)


def _quality_reasons(
    cost: MethodCost,
    overhead: TimeOverhead | None,
    raced: RacedGain | None,
    measured: MeasuredGain | None,
    near: Published | None,
    measure: str,
) -> tuple[str, ...]:
    """Say what each kind of evidence promises, or that there is none of it."""
    if cost.method == load_evidence().baseline:
        return ("the baseline every gain and overhead is measured against",)
    reasons = [] if raced is None else [_raced_reason(raced, measure)]
    if measured is None:
        reasons.append("nothing the profile measures of gradients speaks about it")
    else:
        doubts = _because(measured.certainty, measured.doubts)
        reasons.append(
            f"{share_text(measured.gain, measure)} by the gradients measured here{doubts}"
        )
    if near is None:
        reasons.append("no published comparison with AdamW")
    else:
        share = near.certainty.value
        far = "" if share == 1 else f", counted at {share:.0%} because kind, size or batch differ"
        reasons.append(f"{gain_text(near)}: {near.result.model}{far}")
    if raced is None and measured is None and near is None:
        reasons.append("so it ranks below the methods of which something is known")
    reasons.append(overhead_text(overhead))
    return tuple(reasons)


def _raced_reason(raced: RacedGain, measure: str) -> str:
    if raced.gain is None or not raced.contestant.losses:
        return raced.text
    verdict = "" if raced.counts else ", inside the spread: no difference"
    differs = f"; the race was {', '.join(raced.differs)}" if raced.differs else ""
    return f"{share_text(raced.gain, measure)} in the race{verdict}{differs}"


def _because(certainty: float, doubts: tuple[str, ...]) -> str:
    return "" if certainty == 1 else f", counted at {certainty:.0%}: {', '.join(doubts)}"


def _memory_reasons(
    cost: MethodCost, peak: PeakAt, fits: Fit, usable_bytes: int
) -> tuple[str, ...]:
    reasons = []
    if cost.weight_bytes_saved:
        reasons.append(low_rank_text(cost.weight_bytes_saved))
    if fits is Fit.NO:
        reasons.append(f"does not fit: {format_bytes(peak.bytes - usable_bytes)} too much")
    elif fits is Fit.MAYBE and peak.high_bytes is None:
        reasons.append("activations are unknown, so its peak is a lower bound")
    elif fits is Fit.MAYBE:
        reasons.append(f"may need up to {format_bytes(peak.high_bytes)}")
    return tuple(reasons)
