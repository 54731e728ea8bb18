"""Cases of which every two values of two axes meet: what a fault of one or two choices needs, and fewer than all."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations, product
from typing import Any


def pairwise(*axes: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Return some of the axes' product, in its order: for every two axes, each pair of their values is in one of it.

    Greedy: the combination with the most pairs that are still missing comes next.
    """
    values = [list(axis) for axis in axes]
    left = list(product(*(range(len(axis)) for axis in values)))
    missing = {pair for case in left for pair in _pairs(case)}
    chosen = []
    while missing:
        best = max(left, key=lambda case: len(missing & _pairs(case)))
        missing -= _pairs(best)
        left.remove(best)
        chosen.append(best)
    return [tuple(axis[i] for axis, i in zip(values, case, strict=True)) for case in sorted(chosen)]


def _pairs(case: tuple[int, ...]) -> set[tuple[tuple[int, int], ...]]:
    return set(combinations(enumerate(case), 2))
