"""An upper bound of the multiple-choice knapsack, by linear programming: parts of choices are allowed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple


class Choice(NamedTuple):
    """One way to fill an item.

    Attributes:
        bytes: What it takes.
        value: What it is worth.
        limit_bytes: What all chosen ones together may take if this one is among them.
    """

    bytes: int
    value: float
    limit_bytes: int


Items = Sequence[Sequence[Choice]]


def upper_bound(items: Items) -> float | None:
    """Return what no choices can exceed, by linear programming: parts of choices allowed. None where nothing fits."""
    return max(bounds(items).values(), default=None)


def bounds(items: Items) -> dict[int, float]:
    """Return the linear bound for every limit under which something fits.

    A solution obeys the smallest limit among its choices, so the best one is found under one of the limits, with
    only those choices that allow as much.
    """
    limits = {choice.limit_bytes for choices in items for choice in choices}
    found = {}
    for limit in limits:
        relaxed = relax(items, limit)
        if relaxed is not None:
            found[limit] = relaxed.bound
    return found


class Relaxed(NamedTuple):
    """The linear relaxation: its value, the price of a byte in it, and its choices with the divided one left small."""

    bound: float
    price: float
    picks: tuple[int, ...]


def relax(items: Items, limit: int) -> Relaxed | None:
    """Return the linear relaxation's solution; None where nothing fits.

    Every item climbs its concave hull of value over bytes, the steepest steps of all items first.
    """
    picks, used, bound = [], 0, 0.0
    steps: list[tuple[float, int, int, int, float]] = []
    for index, choices in enumerate(items):
        hull = _hull(choices, limit)
        if not hull:
            return None
        picks.append(hull[0])
        used += choices[hull[0]].bytes
        bound += choices[hull[0]].value
        for low, high in itertools.pairwise(hull):
            more = choices[high].bytes - choices[low].bytes
            worth = choices[high].value - choices[low].value
            steps.append((-worth / more, index, high, more, worth))
    if used > limit:
        return None
    for slope, index, high, more, worth in sorted(steps):
        if used + more > limit:
            return Relaxed(bound + worth * (limit - used) / more, -slope, tuple(picks))
        picks[index] = high
        used += more
        bound += worth
    return Relaxed(bound, 0.0, tuple(picks))


def _hull(choices: Sequence[Choice], limit: int) -> list[int]:
    """Return the allowed choices on the concave hull of value over bytes, the smallest first, slopes above 0."""
    allowed = [i for i, choice in enumerate(choices) if choice.limit_bytes >= limit]
    hull: list[int] = []
    for i in sorted(allowed, key=lambda i: (choices[i].bytes, -choices[i].value)):
        if hull and choices[i].value <= choices[hull[-1]].value:
            continue
        while len(hull) > 1 and _slope(choices, hull[-2], hull[-1]) <= _slope(choices, hull[-2], i):
            hull.pop()
        hull.append(i)
    return hull


def _slope(choices: Sequence[Choice], low: int, high: int) -> float:
    more = choices[high].bytes - choices[low].bytes
    return (choices[high].value - choices[low].value) / more
