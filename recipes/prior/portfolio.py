"""Which few methods a race should start: many are worse than few, because each takes its share of the time."""

from __future__ import annotations

from collections.abc import Sequence

from subopt.optimizers import get_method
from subopt.profilers.record.cost import BASELINE

from .gains import by_prior_gain
from .traits import Traits

# So many methods at most.
MOST = 4
# A state that is this share of AdamW's or less is a lean one: one moment, or a factored one.
LEAN_SHARE = 0.55
_SQUARE = (1024, 1024)


def portfolio(traits: Traits, available: Sequence[str]) -> tuple[str, ...]:
    """Return the few methods that a race should start, best first by what is known before it.

    The most promising, plain AdamW, the most promising with a lean state, and then whichever comes next; of methods
    that differ in how they store their state alone, one. Methods with nothing known of them do not take part.

    Args:
        traits: The model and its run.
        available: Method ids that can run and fit.
    """
    ranked = [name for name in by_prior_gain(traits) if name in available]
    unlike = list({_apart_from_storage(name): name for name in reversed(ranked)}.values())[::-1]
    lean = [name for name in unlike if _is_lean(name)]
    wanted = [*unlike[:1], *(name for name in unlike if name == BASELINE), *lean[:1], *unlike]
    chosen = list(dict.fromkeys(wanted))[:MOST]
    return tuple(sorted(chosen, key=ranked.index))


def _apart_from_storage(name: str) -> str:
    """What a method does, whatever it stores its state in: the same text for AdamW and AdamW in 8 bits."""
    options = get_method(name).resolve()
    return repr(sorted((key, value) for key, value in options.items() if key != "state_dtype"))


def _is_lean(name: str) -> bool:
    own, usual = get_method(name), get_method(BASELINE)
    return own.state_bytes(_SQUARE) <= LEAN_SHARE * usual.state_bytes(_SQUARE)
