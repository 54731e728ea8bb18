"""One method's row of the ranked table: its memory, its time, what is known of its quality, and what that rests on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from subopt.profilers.record.cost import BASELINE
from subopt.profilers.record.profile import MethodCost, Profile

from ..evidence.predicted import predicted_gain
from ..evidence.published import published
from ..evidence.raced import raced_gain
from ..evidence.start import early_doubts, starts_too_high
from ..plan.budget import Fit
from ..plan.peaks import PeakAt, peak_at
from ..plan.step_time import whole_step_ms
from ..prior.gains import prior_gain, worth_of_doubling
from ..prior.traits import Traits
from ..reason import Reason
from . import reasons
from .row import Row
from .rule import expected_gain, score, time_overhead


def make_row(
    profile: Profile,
    cost: MethodCost,
    baseline: MethodCost | None,
    batch_size: int,
    usable_bytes: int,
    traits: Traits,
    *,
    peak: PeakAt | None = None,
) -> Row:
    """Return a method's row at `batch_size` examples of a step, by default in one plain micro-batch.

    Gains predicted from gradients are not counted where these say little yet; and where the first loss is far above
    that of guessing evenly, no other method stands above the baseline without a race.
    """
    is_baseline = cost.method == BASELINE
    peak = peak_at(profile, cost, batch_size) if peak is None else peak
    overhead = time_overhead(profile, cost, baseline, batch_size)
    raced = raced_gain(profile, cost.method, batch_size)
    predicted = predicted_gain(profile, cost)
    prior = prior_gain(cost.method, traits)
    near = published(cost.method, traits.parameters, traits.kind, traits.tokens_per_step)
    cut_short = profile.race is not None and profile.race.interrupted
    expected = (
        None
        if is_baseline
        else expected_gain(
            raced,
            prior,
            None if early_doubts(profile) else predicted,
            near,
            overhead,
            doubling=worth_of_doubling(traits),
            cut_short=cut_short,
        )
    )
    found = (overhead, raced, prior, predicted, None if is_baseline else near)
    row = Row(
        method=cost.method,
        cost=cost,
        fit=peak.fits(usable_bytes),
        peak=peak,
        headroom_bytes=usable_bytes - peak.bytes,
        step_ms=whole_step_ms(profile, cost, batch_size),
        overhead=overhead,
        raced=raced,
        prior=prior,
        predicted=predicted,
        published=near,
        waits=not is_baseline and starts_too_high(profile),
        expected=expected,
        score=score(expected, is_baseline=is_baseline),
        evidence=(peak, *(item for item in found if item is not None)),
        reasons=(),
    )
    return replace(row, reasons=tuple(_reasons(row)))


def _reasons(row: Row) -> Iterator[Reason]:
    """Yield what is not known of a method, how it holds the weights, and whether it fits where that is not sure."""
    if row.is_baseline:
        yield reasons.IsBaseline()
    else:
        if row.predicted is None:
            yield reasons.NoPrediction()
        if row.published is None:
            yield reasons.NoComparison()
        if not (row.raced or row.prior or row.predicted or row.published):
            yield reasons.NothingKnown()
        if row.overhead is None:
            yield reasons.UnknownTime()
    if row.cost.weight_bytes_saved:
        yield reasons.LowRankLayers(row.cost.weight_bytes_saved)
    if row.fit is Fit.NO:
        yield reasons.DoesNotFit(-row.headroom_bytes)
    elif row.fit is Fit.MAYBE:
        yield reasons.MayNotFit(row.peak.high_bytes)
