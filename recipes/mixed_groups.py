"""Like layers of a mix, and what they may share: one method, or two with the layers divided between them.

Layers are alike that have the same role (`blocks.#.attn.q.weight`) and shape. Two methods in a group are worth another
rule where that brings more than `WORTH_A_SPLIT`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from subopt.optimizers import shown_name
from subopt.profilers.schema import Layer

from .knapsack import Choice
from .layer_patterns import role_of
from .mixed_choices import Measured

# As a share of the loss measure: a tenth of what a change of the method must promise.
WORTH_A_SPLIT = 0.001


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
    """Return the ways to train a group that no other way beats in bytes, value and limit all at once."""
    single = _unbeaten([
        GroupChoice(method.choice(group), (index,) * len(group))
        for index, method in enumerate(methods)
    ])
    divided = [
        way
        for one, other in itertools.permutations(single, 2)
        for way in _divided(group, methods, one.methods[0], other.methods[0])
    ]
    return _unbeaten([*single, *divided])


def _divided(
    group: Sequence[int], methods: Sequence[Measured], one: int, other: int
) -> list[GroupChoice]:
    """The ways to divide a group: the layers that gain most by it get the other method, from one layer on."""
    old, new = methods[one], methods[other]
    order = sorted(range(len(group)), key=lambda i: old.values[group[i]] - new.values[group[i]])
    limit = min(old.candidate.limit_bytes, new.candidate.limit_bytes)
    size = sum(old.bytes[layer] for layer in group)
    value = sum(old.values[layer] for layer in group) - WORTH_A_SPLIT
    picks, found = [one] * len(group), []
    for i in order[:-1]:
        size += new.bytes[group[i]] - old.bytes[group[i]]
        value += new.values[group[i]] - old.values[group[i]]
        picks[i] = other
        found.append(GroupChoice(Choice(size, value, limit), tuple(picks)))
    return found


def _unbeaten(ways: Sequence[GroupChoice]) -> list[GroupChoice]:
    """Leave out what takes no less, is worth no more and allows no more than something else."""
    ordered = sorted(
        ways, key=lambda way: (way.choice.bytes, -way.choice.value, -way.choice.limit_bytes)
    )
    kept: list[GroupChoice] = []
    for way in ordered:
        beaten = any(
            other.choice.value >= way.choice.value
            and other.choice.limit_bytes >= way.choice.limit_bytes
            for other in kept
        )
        if not beaten:
            kept.append(way)
    return kept
