"""The ranking rule: what is known of a method's quality, a race before all else, minus what time is worth.

Everything that weighs one type of evidence against another is in this file; `docs/advice.md` explains it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TypeAlias

from subopt.profilers.record.profile import MethodCost, Profile

from ..evidence.predicted import PredictedGain
from ..evidence.published import Certainty, Published
from ..evidence.raced import RacedGain
from ..plan.budget import Fit
from ..plan.step_time import relative_step_time
from ..prior.gains import GAIN_PER_DOUBLING, PriorGain
from .row import Estimate, EvidenceType, Expected, Objective, Row, TimeOverhead

# A method must promise more than this to be worth leaving plain AdamW for.
WORTH_A_CHANGE = 0.01

# Share of a race's gain to expect at other settings or of a longer run than the race's, and after one cut short.
OTHER_SETTINGS = 0.5
CUT_SHORT = 0.75

# Typical errors of an expected gain, in shares of the loss measure. Predicted from gradients: 0.16 on the dev half of
# the advice benchmark for the methods that were run there, and twice that, for it overrates others. Published, at the
# papers' own settings: AdaDiag's gain over four sizes of LLaMA runs from 8 to 11 %; and what is added where nothing of
# a published gain is certain.
PREDICTED_ERROR = 0.30
PUBLISHED_ERROR = 0.03
FAR_ERROR = 0.30
# FLOPs overrate the steps of models so small that starting kernels takes the time, and count a weight that is used at
# many positions, as in a recurrent net, once. With this much at most they are unbiased on the dev half of the advice
# benchmark, and half a doubling off (root mean square; 0.8 without).
MOST_BY_FLOPS = 1.0
# Seeds that happen to agree are no proof of exactness.
LEAST_ERROR = 0.01

_FIT_ORDER = {Fit.YES: 0, Fit.MAYBE: 1, Fit.NO: 2}

SortKey: TypeAlias = tuple[float, ...]


def expected_gain(
    raced: RacedGain | None,
    prior: PriorGain | None,
    predicted: PredictedGain | None,
    published: Published | None,
    overhead: TimeOverhead | None,
    *,
    doubling: float = GAIN_PER_DOUBLING,
    cut_short: bool = False,
) -> Expected | None:
    """Return the gain over plain AdamW at equal wall time to expect from all that is known of a method.

    A race at the settings of the question decides alone: time is in its result. Otherwise every gain g shrinks towards
    no difference by its own certainty c, pays for the time of a step, and what is left is averaged by its error:

        expected = sum w (c g - time) / sum w,     time = d log2(1 + overhead), 0 for a race
        w = 1 / (error + (1 - c) |g|)^2

    with errors of the seeds' spread, the prior's own, 0.30 predicted, and 0.03 + 0.30 (1 - c) published. What is
    published for another kind of model, or a size or batch far from these, does not count beside a prior. A step that
    takes `overhead` longer leaves 1 / (1 + overhead) of the steps in the same time, and twice the steps are worth
    d = `doubling` to such a run. A shorter step is worth nothing here, for timings are off by as much and a method has
    to promise something itself; one that is longer by FLOPs alone counts as at most twice as long; an unknown overhead
    costs nothing and is named among the reasons. The error of the mean is the least of the estimates' errors, for they
    rest on much the same comparisons.

    Returns:
        The expected gain, a share of the loss measure; None where nothing is known.
    """
    time = 0.0 if overhead is None else time_price(_counted(overhead), doubling)
    estimates = _estimates(raced, prior, predicted, published, time, cut_short=cut_short)
    if not estimates:
        return None
    first = estimates[0]
    counted = (first,) if first.decides_alone else estimates
    total = sum(estimate.weight for estimate in counted)
    return Expected(
        gain=sum(e.weight * e.expected for e in counted) / total,
        error=min(e.error for e in counted),
        decided_by=max(counted, key=lambda estimate: estimate.weight).evidence_type,
        estimates=estimates,
    )


def time_price(overhead: float, doubling: float) -> float:
    """Return what steps that take `overhead` longer cost at equal time, where twice the steps are worth `doubling`."""
    return doubling * math.log2(1 + overhead)


def _counted(overhead: TimeOverhead) -> float:
    """The overhead that a method pays for."""
    most = MOST_BY_FLOPS if overhead.source == "formula" else math.inf
    return min(max(overhead.share, 0.0), most)


def _estimates(
    raced: RacedGain | None,
    prior: PriorGain | None,
    predicted: PredictedGain | None,
    published: Published | None,
    time: float,
    *,
    cut_short: bool,
) -> tuple[Estimate, ...]:
    """What each type of evidence says, the most telling type first."""
    found = []
    if raced is not None and raced.gain is not None:
        sure = (1.0 if raced.settles else OTHER_SETTINGS) * (CUT_SHORT if cut_short else 1.0)
        error = max(raced.spread, LEAST_ERROR)
        one = _estimate("raced", raced.expected_gain, sure, error, 0.0)
        found.append(replace(one, gain=raced.gain, decides_alone=raced.settles))
    if prior is not None:
        found.append(_estimate("prior", prior.gain, 1.0, prior.error, time))
    if predicted is not None:
        sure = predicted.certainty
        found.append(_estimate("predicted", predicted.gain, sure, PREDICTED_ERROR, time))
    if published is not None and counts_published(published, prior):
        sure = published.share
        error = PUBLISHED_ERROR + FAR_ERROR * (1 - sure)
        found.append(_estimate("published", published.gain, sure, error, time))
    return tuple(found)


def counts_published(published: Published, prior: PriorGain | None) -> bool:
    """Return whether a published gain counts: a far one does not beside a prior."""
    return prior is None or published.certainty is not Certainty.FAR


def _estimate(
    evidence_type: EvidenceType, gain: float, certainty: float, error: float, time: float
) -> Estimate:
    """What is left of a gain; it counts the less, the larger its error and what its certainty takes off it."""
    error += (1 - certainty) * abs(gain)
    return Estimate(evidence_type, gain, gain * certainty - time, 1 / error**2, error)


def score(expected: Expected | None, *, is_baseline: bool) -> float | None:
    """Return the expected gain minus what a change from the default must promise, which AdamW itself does not pay.

    Returns:
        The score, AdamW's being 0; None where nothing is known: such a method ranks below all of which something is.
    """
    if is_baseline:
        return 0.0
    return None if expected is None else expected.gain - WORTH_A_CHANGE


def sort_key(row: Row, objective: Objective) -> SortKey:
    """Return what rows are sorted by, smallest first.

    What fits comes before what might, and that before what does not; then methods of which something is known before
    the others. After that `quality` takes what was raced at these settings first, and goes by score, where a method
    that has to wait (`Row.waits`) comes after plain AdamW; `speed` goes by step time, methods expected to be worse than
    AdamW last; `memory` by peak. Ties go by score, then by peak.
    """
    unproven = row.score is None
    tiebreak = 0.0 if row.score is None else -row.score
    first: SortKey = (_FIT_ORDER[row.fit], float(unproven))
    last: SortKey = (tiebreak, float(row.peak.bytes))
    if objective == "speed":
        share = math.inf if row.overhead is None else round(row.overhead.share, 2)
        is_worse = row.expected is not None and row.expected.gain < -WORTH_A_CHANGE
        return (*first, float(is_worse), share, *last)
    if objective == "memory":
        return (_FIT_ORDER[row.fit], float(row.peak.bytes), tiebreak)
    return (*first, float(not row.is_raced), float(row.waits), *last)


def time_overhead(
    profile: Profile, cost: MethodCost, baseline: MethodCost | None, batch_size: int
) -> TimeOverhead | None:
    """Return the time of a training step of `batch_size` examples with a method relative to one with the baseline.

    overhead / (forward_backward + step - overhead), with the optimizer step's overhead over the baseline's, the two
    timed in turn and refreshes included by their share; step - overhead is the baseline's step of that time. Forward
    and backward are taken to grow with the batch, the optimizer's step not. Without measured times the FLOPs stand in.
    """
    if baseline is None:
        return None
    growth = batch_size / profile.settings.batch_size
    share = relative_step_time(profile, cost, batch_size)
    if share is not None:
        return TimeOverhead(share, "measured", cost.step_ms)
    if cost.relative_flops is not None and baseline.relative_flops is not None:
        extra = (cost.relative_flops - baseline.relative_flops) / growth
        return TimeOverhead(extra / (1 + baseline.relative_flops / growth), "formula", cost.step_ms)
    return None
