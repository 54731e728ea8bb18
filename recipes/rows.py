"""One method's row of the ranked table: its memory, its time, what is known of its quality, and what that rests on."""

from __future__ import annotations

from subopt.profilers.schema import MethodCost, Profile
from subopt.units import format_bytes, format_ms

from .advice import Evidence, Row, TimeOverhead
from .budget import Fit
from .evidence import Published, load_evidence, published
from .peaks import PeakAt, peak_at
from .ranking import score, time_overhead
from .sentences import gain_text, low_rank_text, overhead_text
from .traits import model_kind, tokens_per_step, trainable_parameters


def make_row(
    profile: Profile,
    cost: MethodCost,
    baseline: MethodCost | None,
    batch_size: int,
    usable_bytes: int,
) -> Row:
    """Return a method's row at one batch size.

    Args:
        profile: The profile.
        cost: The method's costs in it.
        baseline: The baseline's costs; None where the profile has none.
        batch_size: Examples of one micro-batch.
        usable_bytes: Usable part of the budget.
    """
    peak = peak_at(profile, cost, batch_size)
    overhead = time_overhead(profile, cost, baseline, batch_size)
    near = published(
        cost.method,
        trainable_parameters(profile),
        model_kind(profile),
        tokens_per_step(profile, batch_size),
    )
    growth = batch_size / profile.settings.batch_size
    timed = profile.forward_backward_ms is not None and cost.step_ms is not None
    step_ms = (
        (profile.forward_backward_ms or 0.0) * growth + (cost.step_ms or 0.0) if timed else None
    )
    fits = peak.fits(usable_bytes)
    return Row(
        method=cost.method,
        cost=cost,
        fit=fits,
        peak=peak,
        headroom_bytes=usable_bytes - peak.bytes,
        step_ms=step_ms,
        overhead=overhead,
        published=near,
        score=score(cost.method, near, overhead),
        evidence=_evidence(peak, overhead, near, cost),
        reasons=_reasons(cost, peak, fits, usable_bytes, overhead, near),
    )


def _evidence(
    peak: PeakAt, overhead: TimeOverhead | None, near: Published | None, cost: MethodCost
) -> tuple[Evidence, ...]:
    memory = f"peak {format_bytes(peak.bytes)} in the {peak.phase} phase"
    items = [Evidence("measured here" if peak.source == "measured" else peak.source, memory)]
    if overhead is not None:
        beyond = cost.step_ms if cost.step_ms is not None and cost.step_ms >= 0 else None
        step = "" if beyond is None else f", optimizer step {format_ms(beyond)}"
        items.append(Evidence(overhead.source, f"time {overhead.share:+.1%}{step}"))
    if near is not None and cost.method != load_evidence().baseline:
        items.append(Evidence("published", near.result.source))
    return tuple(items)


def _reasons(
    cost: MethodCost,
    peak: PeakAt,
    fits: Fit,
    usable_bytes: int,
    overhead: TimeOverhead | None,
    near: Published | None,
) -> tuple[str, ...]:
    reasons = []
    if cost.method == load_evidence().baseline:
        reasons.append("the baseline every gain and overhead is measured against")
    elif near is None:
        reasons.append(
            "no published comparison with AdamW, so it ranks below the methods that have one"
        )
    else:
        reasons.append(f"{gain_text(near)}: {near.result.model}{_discount(near)}")
        reasons.append(overhead_text(overhead))
    if cost.weight_bytes_saved:
        reasons.append(low_rank_text(cost.weight_bytes_saved))
    if fits is Fit.NO:
        reasons.append(f"does not fit: {format_bytes(peak.bytes - usable_bytes)} too much")
    elif fits is Fit.MAYBE and peak.high_bytes is None:
        reasons.append("activations are unknown, so its peak is a lower bound")
    elif fits is Fit.MAYBE:
        reasons.append(f"may need up to {format_bytes(peak.high_bytes)}")
    return tuple(reasons)


def _discount(near: Published) -> str:
    share = near.certainty.value
    return "" if share == 1 else f", counted at {share:.0%} because kind, size or batch differ"
