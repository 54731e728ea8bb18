"""Like layers of a mix, and what they may share: one method, or two with the layers divided between them.

Layers are alike that have the same role (`blocks.#.attn.q.weight`) and shape. Two methods in a group are worth another
rule where that brings more than `WORTH_A_SPLIT`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from subopt.optimizers import shown_name
from subopt.profilers.record.profile import Layer

from .choices import Measured
from .knapsack_bound import Choice
from .name_patterns import role_of

# As a share of the loss measure: a tenth of what a change of the method must promise.
WORTH_A_SPLIT = 0.001

# Ways to train a group that go into the knapsack; of more, the best of as many equal intervals of bytes.
MOST_WAYS = 100


@dataclass(frozen=True, slots=True)
class GroupChoice:
    """One way to train a group.

    Attributes:
        choice: What it takes and is worth, for the knapsack.
        methods: The index of each layer's method, in the group's order.
    """

    choice: Choice
    methods: tuple[int, ...]


def like_layers(layers: Sequence[Layer]) -> list[tuple[int, ...]]:
    """Return the indices of layers that are alike, in groups, in order of first appearance."""
    groups: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for index, layer in enumerate(layers):
        like = (role_of(shown_name(layer.name)), tuple(layer.shape))
        groups.setdefault(like, []).append(index)
    return [tuple(group) for group in groups.values()]


def group_choices(group: Sequence[int], methods: Sequence[Measured]) -> list[GroupChoice]:
    """Return the ways to train a group that no other way within the same limit beats in both bytes and value.

    Every method for all its layers, and every two methods with the layers divided: those that gain most by the second
    method get it, from one layer on.
    """
    ways = _Ways(group, methods)
    limits = sorted({method.candidate.limit_bytes for method in methods})
    kept = np.concatenate([ways.unbeaten(limit) for limit in limits])
    return [ways.choice(int(index)) for index in kept]


class _Ways:
    """All ways to train a group, as arrays: first method, second method, and how many layers get the second."""

    def __init__(self, group: Sequence[int], methods: Sequence[Measured]) -> None:
        values = np.array([[method.values[layer] for layer in group] for method in methods])
        sizes = np.array([[method.bytes[layer] for layer in group] for method in methods], np.int64)
        limits = np.array([method.candidate.limit_bytes for method in methods], np.int64)
        count, layers = values.shape
        first, second = (grid.ravel() for grid in np.indices((count, count)))
        gains = values[second] - values[first]
        self._order = np.argsort(-gains, axis=1, kind="stable")
        more = np.take_along_axis(sizes[second] - sizes[first], self._order, axis=1)
        gains = np.take_along_axis(gains, self._order, axis=1)
        # Column k: the first k layers in that order have the second method; no layer has it in column 0.
        size = sizes[first].sum(1)[:, None] + _summed(more)
        value = values[first].sum(1)[:, None] + _summed(gains)
        value[:, 1:] -= WORTH_A_SPLIT
        limit = np.broadcast_to(
            np.minimum(limits[first], limits[second])[:, None], size.shape
        ).copy()
        limit[:, 0] = limits[first]
        use = (first != second)[:, None] | (np.arange(layers) == 0)
        use[:, 0] = first == second
        self._layers, self._first, self._second = layers, first, second
        self._size, self._value, self._limit = size.ravel(), value.ravel(), limit.ravel()
        self._use = use.ravel()

    def unbeaten(self, limit: int) -> NDArray[np.int64]:
        """Return those of exactly this limit that none of its like takes less, or as much, and is worth more."""
        found = np.flatnonzero(self._use & (self._limit == limit))
        found = found[np.lexsort((-self._value[found], self._size[found]))]
        if not len(found):
            return found
        best = np.maximum.accumulate(self._value[found])
        found = found[np.concatenate(([True], self._value[found][1:] > best[:-1]))]
        if len(found) <= MOST_WAYS:
            return found
        sizes = self._size[found]
        cells = (sizes - sizes[0]) * MOST_WAYS // (sizes[-1] - sizes[0] + 1)
        is_last = np.concatenate((cells[1:] != cells[:-1], [True]))
        is_last[0] = True
        return found[is_last]

    def choice(self, index: int) -> GroupChoice:
        pair, moved = divmod(index, self._layers)
        picks = [int(self._first[pair])] * self._layers
        for layer in self._order[pair][:moved]:
            picks[layer] = int(self._second[pair])
        size, value = int(self._size[index]), float(self._value[index])
        return GroupChoice(Choice(size, value, int(self._limit[index])), tuple(picks))


def _summed(steps: NDArray[np.generic]) -> NDArray[np.generic]:
    """The sums of the first 0, 1, ... of all but the last step of every row."""
    sums: NDArray[np.generic] = np.cumsum(steps, axis=1)
    return np.concatenate((np.zeros_like(sums[:, :1]), sums[:, :-1]), axis=1)
