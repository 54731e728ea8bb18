"""The choice in words: what it promises and by which evidence, who comes next, what plain AdamW would do, how sure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from subopt.profilers.record.profile import Profile
from subopt.units import format_bytes

from ..evidence.published import Certainty
from ..plan.budget import Fit
from ..ranking.phrases import gain_text, low_rank_text, measure_of, overhead_text, share_text
from ..ranking.row import Expected, KnownFrom, Objective, Row

_HOW_NEAR = {
    Certainty.NEAR: "the same kind of model at about this size and batch",
    Certainty.MODERATE: "the same kind of model, its size and batch within ten times these",
    Certainty.FAR: "another kind of model, or a size or batch far from these",
}
_DECIDED: dict[KnownFrom, str] = {
    "raced here": "the race on this model and data",
    "measured here": "what was measured of this model's gradients",
    "published": "the papers' numbers",
}
_WOULD_SETTLE = "subopt race would settle it"


def choice_sentences(
    chosen: Row,
    rows: Sequence[Row],
    objective: Objective,
    profile: Profile,
    leaner: Mapping[str, str],
) -> list[str]:
    """Say what was chosen and what it promises, what decided, who comes next, and what that means for plain AdamW.

    Args:
        chosen: The chosen row.
        rows: All of them, best first.
        objective: What was asked for.
        profile: The profile.
        leaner: The options of the methods that fit with leaner ones only, in words, by method.
    """
    measure = measure_of(profile)
    memory = (
        f"its peak is {format_bytes(chosen.peak.bytes)} ({chosen.peak.phase} phase), "
        f"{format_bytes(chosen.headroom_bytes)} below what is usable"
    )
    others = [row for row in rows if row is not chosen and row.is_recommendable]
    if chosen.is_baseline:
        return [
            f"Plain AdamW fits: {memory}.",
            _why_adamw(rows, others, objective, measure, leaner),
        ]
    said = [f"{chosen.method} is the choice: {_promise(chosen, measure)}; {memory}."]
    if chosen.expected is not None:
        said.append(_decided(chosen, chosen.expected))
    runner_up = _runner_up(chosen, others, objective, leaner)
    if runner_up is not None:
        said.append(runner_up)
    if chosen.cost.weight_bytes_saved:
        text = low_rank_text(chosen.cost.weight_bytes_saved)
        said.append(
            f"{text[0].upper()}{text[1:]}; the weights a run leaves behind are dense again."
        )
    adamw = next((row for row in rows if row.is_baseline), None)
    if adamw is not None:
        said.append(_adamw_beside(adamw, leaner))
    return said


def _promise(row: Row, measure: str) -> str:
    """What a method promises, time included, in words."""
    expected = row.expected
    if expected is None:
        return f"nothing is known of its quality here, {overhead_text(row.overhead)}"
    raced = row.raced
    if row.is_raced and raced is not None and raced.gain is not None:
        found = f"{share_text(raced.gain, measure)} than AdamW after equal time in the race"
        inside = "" if raced.counts else ", which is inside the spread of the seeds"
        return f"{found}{inside}"
    found = f"{share_text(expected.gain, measure)} than AdamW after equal time"
    return f"{found}, give or take {expected.error:.0%}, at {overhead_text(row.overhead)}"


def _decided(row: Row, expected: Expected) -> str:
    """Which evidence decided, and what it says."""
    said = {
        "raced here": row.raced.text if row.raced else "",
        "measured here": row.measured.text if row.measured else "",
        "published": gain_text(row.published) if row.published else "",
    }
    text = f"Decided by {_DECIDED[expected.decided_by]}: {said[expected.decided_by]}"
    if row.is_raced:
        return f"{text}."
    beside = [
        f"{_short(e.kind)}: {e.gain:+.1%}"
        for e in expected.estimates
        if e.kind != expected.decided_by
    ]
    return f"{text}{'; counted beside it, ' + ', '.join(beside) if beside else ''}."


def _short(kind: KnownFrom) -> str:
    return kind.removesuffix(" here")


def _runner_up(
    chosen: Row, others: Sequence[Row], objective: Objective, leaner: Mapping[str, str]
) -> str | None:
    """Who comes next, and by how much; None where quality was not asked for or nothing is known of a second."""
    rivals = [row for row in others if row.score is not None and row.is_raced == chosen.is_raced]
    if objective != "quality" or chosen.score is None or not rivals:
        return None
    second = max(rivals, key=_score)
    behind = chosen.score - _score(second)
    error = max(row.expected.error for row in (chosen, second) if row.expected is not None)
    name = "plain AdamW" if second.is_baseline else second.method
    if behind < 0 and second.method in leaner and chosen.method not in leaner:
        return f"{name} promises {-behind:.1%} more, but {_only_leaner(second, leaner)}."
    if behind < 0:
        return f"{name} promises {-behind:.1%} more, but less surely; {_WOULD_SETTLE}."
    text = f"Next comes {name}, {behind:.1%} behind"
    if behind > error:
        return f"{text}."
    settle = "" if chosen.is_raced else f"; {_WOULD_SETTLE}"
    return f"{text}, less than the error of {error:.0%}: either may be better{settle}."


def _only_leaner(row: Row, leaner: Mapping[str, str]) -> str:
    return f"fits only with leaner options ({leaner[row.method]}), with which it is another method"


def _adamw_beside(adamw: Row, leaner: Mapping[str, str]) -> str:
    peak = format_bytes(adamw.peak.bytes)
    if adamw.is_recommendable and adamw.method in leaner:
        return f"Plain AdamW would fit with {leaner[adamw.method]} only, with a peak of {peak}."
    if adamw.is_recommendable:
        return f"Plain AdamW would fit too, with a peak of {peak}."
    return f"Plain AdamW does not fit: its peak is {peak}, {format_bytes(-adamw.headroom_bytes)} too much."


def _why_adamw(
    rows: Sequence[Row],
    others: Sequence[Row],
    objective: Objective,
    measure: str,
    leaner: Mapping[str, str],
) -> str:
    """Why nothing else was chosen over AdamW."""
    better = [row for row in others if row.is_promising and row.method in leaner]
    if better and objective == "quality":
        best = max(better, key=_score)
        return (
            f"{best.method} promises {_promise(best, measure)}, but {_only_leaner(best, leaner)}."
        )
    raced = [row for row in others if row.is_raced]
    if raced and objective == "quality":
        best = max(raced, key=_score)
        return f"Nothing that was raced is better by more than the seeds differ: {_closest(best, measure)}."
    known = [row for row in rows if row.expected is not None]
    if not known:
        return "Of nothing else here is anything known: not raced, nor measured, nor published."
    best = max(known, key=_score)
    promise = f"{best.method} promises {_promise(best, measure)}"
    if best.is_promising and best.fit is not Fit.YES:
        fits = "does not fit" if best.fit is Fit.NO else "may not fit"
        return f"{promise}, but {fits}: its peak is {format_bytes(best.peak.bytes)}."
    if best.is_promising and objective != "quality":
        return f"{promise}, but {objective} was asked for."
    if _score(best) > 0:
        return f"{promise}: too little to choose it on; {_WOULD_SETTLE}."
    return f"Nothing else is worth its cost here: {_closest(best, measure)}."


def _score(row: Row) -> float:
    return -math.inf if row.score is None else row.score


def _closest(row: Row, measure: str) -> str:
    return f"{row.method} comes closest, with {_promise(row, measure)}"


def certainty_sentence(profile: Profile, row: Row) -> str:
    """Say how sure the choice is, what it rests on and what weakens it."""
    time = {
        "measured here": f"times were measured on {profile.environment.device}",
        "formula": "times are FLOP counts, not measurements",
    }
    known = [
        "memory was measured" if row.peak.source == "measured" else f"memory is {row.peak.source}",
        time[row.overhead.source] if row.overhead is not None else "times are unknown",
    ]
    if row.fit is Fit.MAYBE:
        known.append("the peak's interval reaches beyond the budget")
    if profile.missing:
        known.append("parts of the profile are missing")
    return f"How sure: {', '.join(known)}; quality is {_grade(row)}: {', '.join(_quality(profile, row))}."


def _grade(row: Row) -> str:
    """How far the promise can be trusted, in a word or two."""
    if row.is_raced and row.raced is not None:
        return "known" if row.raced.counts and len(row.raced.contestant.losses) > 1 else "likely"
    return "likely" if row.is_promising else "a guess"


def _quality(profile: Profile, row: Row) -> list[str]:
    """What the promise of quality rests on, and what there is to doubt about it."""
    found = []
    if row.raced is not None:
        count = len(row.raced.contestant.losses)
        found.append(f"raced here with {count} seed{'' if count == 1 else 's'}")
        found += [f"the race was {difference}" for difference in row.raced.differs]
        if profile.race is not None and profile.race.interrupted:
            found.append("the race was cut short")
    if row.measured is not None and not row.is_raced:
        layers = row.measured.layers
        found.append(f"measured on {layers} layer{'' if layers == 1 else 's'}")
        found += row.measured.doubts
    if row.published is not None and not row.is_raced and not row.is_baseline:
        found.append(f"published for {_HOW_NEAR[row.published.certainty]}")
    if not found:
        found.append("not raced on your model")
    if profile.target.synthetic_data and "synthetic data" not in found:
        found.append("the data was synthetic")
    return found
