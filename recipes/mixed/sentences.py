"""A mix of methods in words: what it is, what it promises against one method, how far from optimal, what is assumed."""

from __future__ import annotations

from ..ranking.rule import WORTH_A_CHANGE
from .record import Mixed, MixedUse


def mixed_sentences(mixed: Mixed) -> tuple[str, ...]:
    """Return the sentences that go with a mix."""
    return (_what(mixed), _against_one(mixed), _optimality(mixed), _ASSUMED)


_ASSUMED = (
    "This takes the gains of layers to add up, which nothing measured here shows: only training does, such as a race "
    "of this recipe against one method."
)


def method_text(use: MixedUse) -> str:
    """Return a method, with its rank where it has one."""
    if use.rank is None:
        return use.method
    share = " of the short side" if isinstance(use.rank, float) else ""
    return f"{use.method} at rank {use.rank:g}{share}"


def _what(mixed: Mixed) -> str:
    used = [use for use in mixed.uses if use.layers]
    whole = sum(use.parameters for use in used)
    if len(used) == 1:
        return (
            f"No mix is better than {method_text(used[0])} for all {len(used[0].layers)} matrices."
        )
    parts = [
        f"{method_text(use)} for {len(use.layers)} ({use.parameters / whole:.0%} of their numbers)"
        for use in sorted(used, key=lambda use: -use.parameters)
    ]
    return f"A mix of {len(used)} methods for the {sum(len(u.layers) for u in used)} matrices: {', '.join(parts)}."


def _against_one(mixed: Mixed) -> str:
    promise = (
        f"It promises {mixed.gain:+.1%} against plain AdamW in equal time, less what a change from it must be worth "
        f"({WORTH_A_CHANGE:.0%})"
    )
    if mixed.best_single is None:
        return f"{promise}; no method of which anything is known fits alone."
    gain, method = mixed.best_single
    text = f"{promise}; the best single method that fits, {method}, {gain:+.1%}"
    if mixed.gain - gain < WORTH_A_CHANGE:
        return f"{text}: not enough of a difference to be worth a mix."
    return f"{text}."


def _optimality(mixed: Mixed) -> str:
    short = mixed.bound_gain - mixed.gain
    said = (
        f"No choice for single layers can promise more than {mixed.bound_gain:+.1%} in this budget"
    )
    if mixed.bound_gain > 0:
        return f"{said}: the mix is within {max(short, 0) / mixed.bound_gain:.1%} of the best possible."
    return f"{said}: the mix is at most {100 * max(short, 0):.2f} points from it."
