"""The answer in a few lines: which method and how surely, how much better, at which rate, at what cost, what next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from subopt.recipes.advice import reasons, regimes
from subopt.recipes.plan.budget import Fit

from ..text import percent, signed
from ..units import format_bytes, format_ms
from .advice import words
from .evidence import evidence_type
from .rate import method_rate, rate_text

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Profile
    from subopt.recipes.advice.answer import Advice
    from subopt.recipes.ranking.row import Expected, Row

_FITS = {Fit.YES: "fits", Fit.MAYBE: "may fit", Fit.NO: "does not fit"}
# Reasons that the answer, its table or its memory bar say already.
_SAID_ELSEWHERE = (
    reasons.ActivationsFillMemory,
    reasons.BaselineChosen,
    reasons.BaselineFits,
    reasons.DecidedBy,
    reasons.HowSure,
    reasons.MethodChosen,
    reasons.NeedsBatches,
    reasons.NeedsDataFiles,
    reasons.NothingFits,
    reasons.NotInstalled,
    reasons.SmallestChange,
)


@dataclass(frozen=True)
class Answer:
    """A verdict with its numbers, as lines of short names and texts.

    Attributes:
        verdict: What to do.
        confidence: How sure that is: `high`, `medium` or `low`; None where nothing can be done.
        lines: The numbers, each with how it is known, and what to do next.
    """

    verdict: str
    confidence: str | None
    lines: tuple[tuple[str, str], ...]


def answer_of(advice: Advice, profile: Profile, next_step: str) -> Answer:
    """Return the answer of some advice.

    Args:
        advice: The advice.
        profile: The profile it was given for.
        next_step: The command to go on with, where the advice can be followed as it is.
    """
    row = advice.chosen
    if row is None:
        return _refusal(advice)
    instead = "the default" if row.is_baseline else "instead of AdamW"
    lines = [
        ("gain", _gain(advice, profile, row)),
        ("rate", rate_text(method_rate(profile, row.method, advice.traits))),
        ("step time", _step_time(row, profile)),
        ("memory", _memory(advice, row)),
        ("next", _needs_data(advice) or next_step),
        *(("plan", words(reason)) for reason in advice.plan_reasons),
    ]
    return Answer(f"{row.method}, {instead}", advice.confidence, tuple(lines))


def other_reasons(advice: Advice) -> list[str]:
    """Return what else there is to say, in words: what neither the answer nor the tables beside it have."""
    said = {*map(id, advice.plan_reasons), id(advice.budget)}
    sure = next((r for r in advice.reasons if isinstance(r, reasons.HowSure)), None)
    grounds = [] if sure is None else [f"Confidence is {advice.confidence}: {grounds_text(sure)}."]
    return grounds + [
        words(reason)
        for reason in advice.reasons
        if id(reason) not in said and type(reason) not in _SAID_ELSEWHERE
    ]


def regime_texts(advice: Advice) -> list[str]:
    """Return what the kind of run says, in words: fine-tuning, small batches, gradients that say little yet."""
    kinds = (regimes.FineTuning, regimes.SmallBatch, regimes.TooEarly)
    return [words(reason) for reason in advice.reasons if isinstance(reason, kinds)]


def grounds_text(sure: reasons.HowSure) -> str:
    """Return what the promise of quality rests on and what weakens it."""
    return ", ".join(map(words, sure.grounds))


def _refusal(advice: Advice) -> Answer:
    leanest = min(advice.rows, key=lambda row: row.peak.bytes)
    closest = (
        f"{leanest.method}: {format_bytes(leanest.peak.bytes)} in the {leanest.peak.phase} phase, "
        f"{format_bytes(-leanest.headroom_bytes)} too much"
    )
    lines = [
        ("closest", closest),
        *(("change", words(change)) for change in advice.changes[:3]),
        ("next", "the same command with one of these changes, the smallest first"),
    ]
    return Answer(f"nothing fits {_budget(advice)}", None, tuple(lines))


def _gain(advice: Advice, profile: Profile, row: Row) -> str:
    """What the chosen method gains over AdamW; for AdamW itself what the best other one would."""
    if row.is_baseline:
        rival = _rival(advice)
        if rival is None:
            return "nothing is known of any other method"
        return f"not clear with any other; {rival.method}: {gain_text(rival, profile)}"
    return gain_text(row, profile)


def _rival(advice: Advice) -> Row | None:
    """The other method that AdamW was preferred to."""
    named = [reason.method for reason in advice.reasons if isinstance(reason, reasons.Rival)]
    return next((row for row in advice.rows if row.method in named), None)


def gain_text(row: Row, profile: Profile) -> str:
    """Return a method's expected gain in words, with its error and whether a race or a prediction says so."""
    from subopt.recipes.prior.traits import measure_of

    expected = row.expected
    if expected is None:
        return "unknown: nothing says how it compares with AdamW"
    lower = "lower" if expected.gain >= 0 else "higher"
    size = share_with_error(abs(expected.gain), expected.error)
    share = row.raced.share if row.is_raced and row.raced is not None else None
    how = "predicted, not raced" if not row.is_raced else "raced"
    if share is not None and share < 1:
        how += f", at {percent(share)} of the run"
    return f"{size} {lower} {measure_of(profile)} in equal time ({how})"


def how_known(row: Row) -> str:
    """Return `raced` for a gain that a race at these settings found, else `predicted`: no training produced it."""
    return "raced" if row.is_raced else "predicted"


def share_with_error(share: float, error: float) -> str:
    """Return a share with its error in percent, such as `13% +-10` or `5.2% +-1.4`: no more digits than that leaves."""
    size = f"{100 * share:.0f}" if share >= 0.0995 else f"{100 * share:.1f}".removesuffix(".0")
    return f"{size}% +-{percent(error).removesuffix('%')}"


def gain_cell(row: Row) -> str:
    """Return a table's cell of a method's expected gain with its error."""
    if row.is_baseline:
        return "0"
    if row.expected is None:
        return "unknown"
    size = share_with_error(abs(row.expected.gain), row.expected.error)
    return size if size.startswith("0%") else signed(row.expected.gain, size)


def is_within_error(row: Row) -> bool:
    """Whether a gain is no larger than its own error: the method may be no better than AdamW, or no worse."""
    expected: Expected | None = row.expected
    return expected is not None and abs(expected.gain) <= expected.error


def in_claimed_order(advice: Advice) -> list[Row]:
    """Return all rows in the order that `order_title` claims: what fits first, then by what was asked for."""
    keys = {"quality": _less_gain, "speed": _more_time, "memory": _peak_bytes}
    fits = list(Fit)
    return sorted(
        advice.rows,
        key=lambda row: (fits.index(row.fit), keys[advice.objective](row)),
    )


def order_title(advice: Advice) -> str:
    """Return what the rows are sorted by."""
    by = {"quality": "expected gain", "speed": "step time", "memory": "peak memory"}
    first = "" if all(row.fit is Fit.YES for row in advice.rows) else "what fits first, then "
    sizes = {row.peak.batch_size for row in advice.rows}
    own = "each at its own micro-batch" if len(sizes) > 1 else f"batch {advice.batch_size}"
    return f"{first}by {by[advice.objective]} ({own})"


def _less_gain(row: Row) -> float:
    if row.is_baseline:
        return 0.0
    return float("inf") if row.expected is None else -row.expected.gain


def _peak_bytes(row: Row) -> float:
    return row.peak.bytes


def _more_time(row: Row) -> float:
    return float("inf") if row.overhead is None else row.overhead.share


def _step_time(row: Row, profile: Profile) -> str:
    if row.overhead is None:
        return "unknown"
    if row.step_ms is None:
        return f"{signed_share(row.overhead.share)}: by FLOPs, not timed"
    how = f"({evidence_type(row.overhead)} on {profile.environment.device})"
    if row.is_baseline:
        return f"{format_ms(row.step_ms)} {how}"
    share, baseline_ms = row.overhead.share, row.step_ms / (1 + row.overhead.share)
    return f"{signed_share(share)}: {format_ms(row.step_ms)}, AdamW {format_ms(baseline_ms)} {how}"


def signed_share(share: float | None) -> str:
    """Return a difference as a share, such as `+31%`."""
    if share is None:
        return "unknown"
    return "0%" if abs(share) < 0.0005 else signed(share, percent(abs(share)))


def _memory(advice: Advice, row: Row) -> str:
    peak = f"peak {format_bytes(row.peak.bytes)} ({evidence_type(row.peak)})"
    return f"{peak}: {_FITS[row.fit]} {_budget(advice)}"


def _budget(advice: Advice) -> str:
    usable, total = advice.budget.usable_bytes, advice.budget.total_bytes
    return f"{format_bytes(usable)} usable of {format_bytes(total)}"


def _needs_data(advice: Advice) -> str | None:
    """What has to come before training where the profile's data was made up."""
    for reason in advice.reasons:
        if isinstance(reason, reasons.NeedsBatches):
            return f"real data first: {reason.file} has no batches() yet"
        if isinstance(reason, reasons.NeedsDataFiles):
            return "real data first: profile it with --data"
    return None
