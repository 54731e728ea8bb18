"""A multiple-choice knapsack: one choice for each item, the largest sum of values within the bytes there are.

    maximise sum_i v_i(c_i)   subject to   sum_i b_i(c_i) <= limit(c_j) for every j

Every choice comes with a limit on what all choices together may take: a method with large temporaries leaves less for
state. Solved by dynamic programming over the pairs (bytes, value) that no other pair beats, with those left out that
the Lagrangian bound shows cannot win. That is exact until there are more than `MOST_STATES` such pairs; then the best
of each of as many equal intervals of bytes go on. The bound holds in any case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .knapsack_bound import Choice, Items, bounds, relax

MOST_STATES = 4000

_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class Packing:
    """A choice for every item.

    Attributes:
        picks: The index of each item's choice.
        bytes: What they take.
        value: What they are worth.
        bound: No choices within the limits are worth more.
        is_exact: Whether none are worth more than these.
    """

    picks: tuple[int, ...]
    bytes: int
    value: float
    bound: float
    is_exact: bool


def pack(items: Items) -> Packing | None:
    """Return the best choice for every item; None where even the smallest choices are too much.

    Args:
        items: The choices of each item; at least one item, at least one choice each.
    """
    by_limit = bounds(items)
    best: Packing | None = None
    is_exact = True
    for limit, bound in sorted(by_limit.items(), key=lambda pair: (-pair[1], -pair[0])):
        if best is not None and bound <= best.value + _ROUNDING:
            break
        found = _pack_within(items, limit)
        is_exact = is_exact and found.is_exact
        if best is None or found.value > best.value + _ROUNDING:
            best = found
    if best is None:
        return None
    bound = best.value if is_exact else max(best.value, *by_limit.values())
    return Packing(best.picks, best.bytes, best.value, bound, is_exact)


def leanest(items: Items) -> tuple[int, ...]:
    """Return the smallest choice of every item, the more valuable of equals."""
    return tuple(
        min(range(len(choices)), key=lambda i: (choices[i].bytes, -choices[i].value))
        for choices in items
    )


class _States(NamedTuple):
    """The pairs that no other pair beats after some items, and how each came about."""

    bytes: NDArray[np.int64]
    values: NDArray[np.float64]
    parents: NDArray[np.int64]
    picks: NDArray[np.int64]


def _pack_within(items: Items, limit: int) -> Packing:
    """Return the best choices of those that allow `limit` bytes; the relaxation has shown that some fit."""
    relaxed = relax(items, limit)
    if relaxed is None:
        raise ValueError("nothing fits")
    allowed = [[i for i, c in enumerate(choices) if c.limit_bytes >= limit] for choices in items]
    rest = _Rest(items, allowed, relaxed.price)
    rounded = _totals(items, relaxed.picks)
    nothing = np.zeros(0, np.int64)
    states = _States(np.zeros(1, np.int64), np.zeros(1), nothing, nothing)
    history, is_exact = [], True
    for depth, (choices, of) in enumerate(zip(items, allowed, strict=True)):
        states = _extended(states, choices, of)
        hope = states.values + rest.value(depth + 1, limit - states.bytes)
        fits = states.bytes <= limit - rest.fewest_bytes(depth + 1)
        states = _kept(states, fits & (hope >= rounded.value - _ROUNDING))
        states, thinned = _undominated(states)
        is_exact = is_exact and not thinned
        history.append(states)
    if not len(
        states.bytes
    ):  # thinned away: what the relaxation rounds to is better than all that was left
        return Packing(relaxed.picks, rounded.bytes, rounded.value, relaxed.bound, is_exact=False)
    last = int(np.argmax(states.values))
    used, value = int(states.bytes[last]), float(states.values[last])
    return Packing(_traced(history, last), used, value, relaxed.bound, is_exact)


class _Totals(NamedTuple):
    bytes: int
    value: float


def _totals(items: Items, picks: Sequence[int]) -> _Totals:
    chosen = [choices[i] for choices, i in zip(items, picks, strict=True)]
    return _Totals(sum(c.bytes for c in chosen), sum(c.value for c in chosen))


class _Rest:
    """What the items from some depth on can at best still bring, at a price per byte, and at least take."""

    def __init__(self, items: Items, allowed: Sequence[Sequence[int]], price: float) -> None:
        pairs = list(zip(items, allowed, strict=True))
        self._price = price
        self._profits = [max(c[i].value - price * c[i].bytes for i in of) for c, of in pairs]
        self._fewest = [min(c[i].bytes for i in of) for c, of in pairs]

    def value(self, depth: int, room: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(sum(self._profits[depth:]) + self._price * room, np.float64)

    def fewest_bytes(self, depth: int) -> int:
        return sum(self._fewest[depth:])


def _traced(history: Sequence[_States], last: int) -> tuple[int, ...]:
    """Return the choices that led to the last item's state."""
    picks: list[int] = []
    for states in reversed(history):
        picks.append(int(states.picks[last]))
        last = int(states.parents[last])
    return tuple(reversed(picks))


def _extended(states: _States, choices: Sequence[Choice], allowed: Sequence[int]) -> _States:
    """Every state with every allowed choice of one more item."""
    sizes = np.array([choices[i].bytes for i in allowed], np.int64)
    values = np.array([choices[i].value for i in allowed])
    count = len(states.bytes)
    return _States(
        (states.bytes[:, None] + sizes).ravel(),
        (states.values[:, None] + values).ravel(),
        np.repeat(np.arange(count), len(allowed)),
        np.tile(np.array(allowed, np.int64), count),
    )


def _kept(states: _States, which: NDArray[np.bool_] | NDArray[np.int64]) -> _States:
    return _States(
        states.bytes[which], states.values[which], states.parents[which], states.picks[which]
    )


def _undominated(states: _States) -> tuple[_States, bool]:
    """Leave out what takes as much and is worth no more; say whether others had to go too."""
    order = np.lexsort((-states.values, states.bytes))
    states = _kept(states, order)
    best = np.maximum.accumulate(states.values)
    is_better = np.concatenate(([True], states.values[1:] > best[:-1]))
    states = _kept(states, is_better)
    if len(states.bytes) <= MOST_STATES:
        return states, False
    # Values rise with bytes here, so the last one of every interval is its best; the first of all stays, for it fits
    # whatever follows.
    span = int(states.bytes[-1] - states.bytes[0]) + 1
    cells = ((states.bytes - states.bytes[0]).astype(np.float64) * MOST_STATES / span).astype(
        np.int64
    )
    is_last = np.concatenate((cells[1:] != cells[:-1], [True]))
    is_last[0] = True
    return _kept(states, is_last), True
