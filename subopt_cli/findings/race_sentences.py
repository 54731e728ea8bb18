"""What may be said of a race, and what may not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..text import plural
from ..units import format_ms
from .race import lr_at_the_end

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Contestant, Race


def race_sentences(race: Race) -> list[str]:
    """Return the findings of a race for a person: who won, by how much, and what to doubt."""
    return [
        *_result_sentences(race),
        _role_sentence(race),
        *_rate_sentence(race),
        *_doubt_sentence(race),
        *_end_sentence(race),
    ]


def _result_sentences(race: Race) -> list[str]:
    better = [item for item in race.contestants if item.verdict == "better"]
    if better:
        best = better[0]
        said = [
            f"{best.method} had the lowest loss of those that beat AdamW: {_difference(best)}, over "
            f"{plural(len(best.losses), 'seed')}."
        ]
        others = [item.method for item in better[1:]]
        return said + ([f"Better than AdamW too: {', '.join(others)}."] if others else [])
    unsure = [item.method for item in race.contestants if item.verdict == "inside the spread"]
    once = [item for item in race.contestants if item.verdict == "one seed only"]
    if unsure:
        return [
            "No method was better than AdamW by more than the spread of its seeds; "
            f"no difference can be told for {', '.join(unsure)}. Then plain AdamW is the simple choice."
        ]
    if (once and len(race.seeds) < 2) or not any(len(c.losses) > 1 for c in race.contestants):
        return [
            "Everybody ran with one seed only, and seeds differ: this tells a rate for each method, but no winner."
        ]
    return ["AdamW was not beaten."]


def _difference(contestant: Contestant) -> str:
    difference, spread = contestant.difference or 0.0, contestant.difference_spread or 0.0
    return f"{abs(difference):.2g} {'below' if difference < 0 else 'above'} AdamW's (spread {spread:.2g})"


def _role_sentence(race: Race) -> str:
    trials = max((item.trials for item in race.contestants), default=0)
    return (
        f"Everybody had {plural(trials, 'trial')} to find a rate, the same weights and batches at a seed, and "
        f"{format_ms(1000 * race.horizon_seconds)} of steps at its measured step time; what a method leaves alone "
        f"was trained by AdamW at {race.fallback_lr:.2g}, AdamW's own best rate."
    )


def _rate_sentence(race: Race) -> list[str]:
    ends = [
        f"{item.method} ({end})"
        for item in race.contestants
        for end in [lr_at_the_end(race, item)]
        if end is not None
    ]
    if not ends:
        return []
    return [
        f"The best rate was at an end of those tried for {', '.join(ends)}: more minutes may find a better one."
    ]


def _doubt_sentence(race: Race) -> list[str]:
    repeated = [item for item in race.contestants if len(item.losses) > 1]
    if len(repeated) < 2:
        return []
    return [
        f"{plural(len(race.seeds), 'seed')} are few, each setting is the best of a search at the first of them, and "
        "runs this short favour what is quick at the start: a full run may order them differently."
    ]


def _end_sentence(race: Race) -> list[str]:
    if not race.interrupted:
        return []
    return ["The race ended before its plan was done: this is what was complete."]
