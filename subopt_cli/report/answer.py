"""The page's first screen: the answer, the gains to expect with their errors, and what fills the memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ..findings.answer import (
    answer_of,
    gain_cell,
    how_known,
    in_claimed_order,
    order_title,
    other_reasons,
)
from ..findings.common import cost_of, leanest_method, named_parts, parts_at_peak
from ..findings.memory import peak_text, what_saves_most
from ..text import percent
from ..units import format_bytes
from .parts import Bars, LabelledBar, Part, Segment, Sentences, Verdict

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Profile
    from subopt.recipes.advice.answer import Advice
    from subopt.recipes.ranking.row import Row

GAINS_SHOWN = 8
_COLOURS = {
    "activations": "--blue",
    "optimizer state": "--red",
    "parameters": "--grey",
    "gradients": "--green",
    "temporaries": "--orange",
}


def answer_parts(profile: Profile, advice: Advice | None, next_step: str) -> list[Part]:
    """Return the answer with its two charts and what else there is to say; nothing without advice.

    Args:
        profile: What was measured.
        advice: The advice for it.
        next_step: The command to go on with.
    """
    if advice is None:
        return []
    answer = answer_of(advice, profile, next_step)
    lines = [(name, text.replace("+-", "±")) for name, text in answer.lines]
    found: list[Part] = [Verdict(answer.verdict, answer.confidence, lines)]
    found += [*_gain_bars(advice), *_memory_bars(profile, advice)]
    said = other_reasons(advice)
    return [*found, Sentences(said)] if said else found


def _gain_bars(advice: Advice) -> Iterator[Bars]:
    """The expected gains that are largest by what was asked for, with their errors."""
    known = [row for row in in_claimed_order(advice) if row.is_baseline or row.expected]
    rows = [
        row
        for number, row in enumerate(known)
        if number < GAINS_SHOWN or row is advice.chosen or row.is_baseline
    ]
    ends = [end for row in rows for end in _interval(row)]
    low, high = min(0.0, *ends), max(0.0, *ends)
    if high <= low:
        return

    def at(gain: float) -> float:
        return (gain - low) / (high - low)

    yield Bars(
        "gains",
        f"Expected gain over AdamW, {order_title(advice)}",
        "Share of the loss measure that a method takes away in equal time. Thin lines: the error; where one crosses "
        "AdamW's line, the method may be no better. Predicted: no training produced it; raced: a race did.",
        [
            _gain_bar(row, at(0.0), *map(at, _interval(row)), is_chosen=row is advice.chosen)
            for row in rows
        ],
        line=at(0.0),
    )


def _gain_bar(row: Row, zero: float, low: float, high: float, *, is_chosen: bool) -> LabelledBar:
    middle = (low + high) / 2
    known = "" if row.is_baseline else f" {how_known(row)}"
    return LabelledBar(
        row.method,
        gain_cell(row).replace("+-", "±") + known,
        [Segment(abs(middle - zero), "--accent" if is_chosen else "--grey")],
        start=min(middle, zero),
        whisker=None if row.is_baseline else (low, high),
        is_marked=is_chosen,
    )


def _interval(row: Row) -> tuple[float, float]:
    """The gain less and plus its error; 0 for the baseline."""
    if row.expected is None or row.is_baseline:
        return 0.0, 0.0
    return row.expected.gain - row.expected.error, row.expected.gain + row.expected.error


def _memory_bars(profile: Profile, advice: Advice) -> Iterator[Bars]:
    """What fills the peak of AdamW, beside it the chosen and the leanest method, and what would save most."""
    own = dict(parts_at_peak(profile))
    total = sum(own.values())
    if not total:
        return
    leanest = leanest_method(profile)
    others = [advice.chosen.method if advice.chosen else "", leanest[0] if leanest else ""]
    peaks = {"adamw": own}
    peaks |= {name: parts for name in others if (parts := _parts_of(profile, name))}
    widest = max(sum(parts.values()) for parts in peaks.values())
    legend = [
        (_COLOURS[name], f"{name} {format_bytes(size)} ({percent(size / total)})")
        for name, size in own.items()
    ]
    yield Bars(
        "peak",
        f"What fills {peak_text(profile)}",
        what_saves_most(profile) or "",
        [_memory_bar(name, parts, widest) for name, parts in peaks.items()],
        legend=legend,
    )


def _parts_of(profile: Profile, method: str) -> dict[str, int]:
    """What fills a method's peak at the profile's batch; empty where its step was not followed."""
    cost = cost_of(profile, method)
    if cost is None or cost.peak is None:
        return {}
    return named_parts(cost.peak.categories.get(cost.peak.phase, {}))


def _memory_bar(method: str, parts: Mapping[str, int], widest: int) -> LabelledBar:
    segments = [
        Segment(parts[name] / widest, colour, f"{name} {format_bytes(parts[name])}")
        for name, colour in _COLOURS.items()
        if name in parts
    ]
    return LabelledBar(method, format_bytes(sum(parts.values())), segments)
