"""The rule that ranks methods: published gain over plain AdamW, minus what the measured time is worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

from subopt.profilers.schema import MethodCost, Profile

from .advice import Objective, Row, TimeOverhead
from .budget import Fit
from .evidence import Published, load_evidence

# What twice the steps are worth, as a share of perplexity. Nguyen et al. 2025, section 5.2 and table 2: AdaDiag reaches
# Adam's final perplexity in 1/1.8 to 1/2 of the steps, and after all of them is 7.7 to 11.4 % below it.
GAIN_PER_DOUBLING = 0.10

# A method must promise more than this to be worth leaving plain AdamW for.
WORTH_A_CHANGE = 0.01

_FIT_ORDER = {Fit.YES: 0, Fit.MAYBE: 1, Fit.NO: 2}
_PEAK_STEP = 0.01  # peaks closer than this share of the budget count as equal

SortKey: TypeAlias = tuple[float, ...]


def score(method: str, published: Published | None, overhead: TimeOverhead | None) -> float | None:
    """Return the expected gain over plain AdamW at equal wall time: a share of the loss measure, AdamW being 0.

        score = certainty * gain - 0.10 * log2(1 + overhead) - 0.01

    gain is the published one of the nearest setting, certainty 1, 0.75 or 0.5 by how near that is. A step that takes
    `overhead` longer leaves 1 / (1 + overhead) of the steps in the same time; twice the steps are worth 0.10. The last
    0.01 is what a change from the default must promise, and AdamW itself does not pay it. An unknown overhead costs
    nothing here and is named among the reasons.

    Args:
        method: Method id.
        published: The nearest published comparison.
        overhead: Step time relative to the baseline.

    Returns:
        The score, or None without published evidence: such a method ranks below all that have some.
    """
    if published is None:
        return None
    if method == load_evidence().baseline:
        return 0.0
    share = 0.0 if overhead is None else overhead.share
    return published.expected_gain - GAIN_PER_DOUBLING * math.log2(1 + share) - WORTH_A_CHANGE


def sort_key(row: Row, objective: Objective, usable_bytes: int) -> SortKey:
    """Return what rows are sorted by, smallest first.

    What fits comes before what might, and that before what does not; then methods with published evidence before
    those without. After that `quality` goes by score; `speed` by step time, methods expected to be worse than AdamW
    last; `memory` by peak. Ties go by score.

    Args:
        row: The row.
        objective: What the user wants most.
        usable_bytes: Usable part of the budget.
    """
    unproven = row.score is None
    tiebreak = 0.0 if row.score is None else -row.score
    first: SortKey = (_FIT_ORDER[row.fit], float(unproven))
    if objective == "speed":
        worse = row.published is not None and row.published.expected_gain < -WORTH_A_CHANGE
        share = math.inf if row.overhead is None else round(row.overhead.share, 2)
        return (*first, float(worse), share, tiebreak)
    if objective == "memory":
        bucket = row.peak.bytes // max(int(usable_bytes * _PEAK_STEP), 1)
        return (*first, float(bucket), tiebreak)
    return (*first, tiebreak, float(row.peak.bytes))


def time_overhead(
    profile: Profile, cost: MethodCost, baseline: MethodCost | None, batch_size: int
) -> TimeOverhead | None:
    """Return a training step's time with a method relative to one with the baseline.

    overhead / (forward_backward + step - overhead), with the optimizer step's overhead over the baseline's, the two
    timed in turn and refreshes included by their share; step - overhead is the baseline's step of that time. Forward
    and backward are taken to grow with the batch, the optimizer's step not. Without measured times the FLOPs stand in.

    Args:
        profile: The profile.
        cost: The method's row.
        baseline: The baseline's row; None where the profile has none.
        batch_size: Examples of one micro-batch.
    """
    if baseline is None:
        return None
    growth = batch_size / profile.settings.batch_size
    model_ms = profile.forward_backward_ms
    if model_ms and cost.step_ms is not None and cost.overhead_ms is not None:
        whole_ms = model_ms * growth + cost.step_ms - cost.overhead_ms
        return TimeOverhead(cost.overhead_ms / whole_ms, "measured here")
    if cost.relative_flops is not None and baseline.relative_flops is not None:
        extra = (cost.relative_flops - baseline.relative_flops) / growth
        return TimeOverhead(extra / (1 + baseline.relative_flops / growth), "formula")
    return None


def ranked(rows: Sequence[Row], objective: Objective, usable_bytes: int) -> tuple[Row, ...]:
    """Return the rows best first; equal ones keep their order."""
    return tuple(sorted(rows, key=lambda row: sort_key(row, objective, usable_bytes)))
