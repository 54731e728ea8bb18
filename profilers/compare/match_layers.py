"""Which layer of one profile stands beside which of another: by name, and the rest by shape and kind in their order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ..record.comparison import MatchedBy
from ..record.profile import Layer


@dataclass(frozen=True)
class Pair:
    """Two layers that were put side by side, and why."""

    a: Layer
    b: Layer
    by: MatchedBy


@dataclass(frozen=True)
class MatchedLayers:
    """The pairs in the first profile's order, and the names that found no partner."""

    pairs: tuple[Pair, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]


def match_layers(a: Sequence[Layer], b: Sequence[Layer]) -> MatchedLayers:
    """Match layers by name; those left over by shape and kind, the first with the first.

    Layers of one name may differ in shape, as in two sizes of one architecture. Matching by shape supposes that both
    models define their layers in the same order.
    """
    named = {layer.name: layer for layer in b}
    names = {layer.name for layer in a} & set(named)
    waiting: defaultdict[tuple[object, ...], list[Layer]] = defaultdict(list)
    for layer in reversed(b):
        if layer.name not in names:
            waiting[_likeness(layer)].append(layer)
    pairs, only_a = [], []
    for layer in a:
        if layer.name in names:
            pairs.append(Pair(layer, named[layer.name], "name"))
        elif waiting[_likeness(layer)]:
            pairs.append(Pair(layer, waiting[_likeness(layer)].pop(), "shape"))
        else:
            only_a.append(layer.name)
    taken = {pair.b.name for pair in pairs}
    only_b = [layer.name for layer in b if layer.name not in taken]
    return MatchedLayers(tuple(pairs), tuple(only_a), tuple(only_b))


def _likeness(layer: Layer) -> tuple[object, ...]:
    return (*layer.shape, layer.module_type, layer.layer_type)
