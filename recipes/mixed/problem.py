"""The knapsack behind a mix: which methods, groups of layers and fallbacks there are, and the most they are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from subopt.profilers.record.profile import Layer, Profile

from ..ranking.row import Row
from .choices import Measured, matrices, measured_candidates
from .fallback import FallbackKind, fallback_kinds, kind_of
from .groups import GroupChoice, group_choices, like_layers
from .knapsack import pack
from .knapsack_bound import Choice, Items


@dataclass(frozen=True, slots=True)
class Solution:
    """The methods of the layers, and the fallback, that are worth most.

    Attributes:
        problem: What was to choose from.
        assigned: The index of each layer's method.
        kind: The fallback.
        value: What the knapsack says they are worth.
    """

    problem: Problem
    assigned: list[int]
    kind: FallbackKind
    value: float

    @property
    def used(self) -> set[int]:
        """The indices of the methods that some layer has."""
        return set(self.assigned)


def solved(problem: Problem) -> Solution | None:
    """Return what is worth most; None where nothing fits."""
    packing = pack(problem.items())
    if packing is None:
        return None
    assigned = [0] * len(problem.layers)
    for group, ways, pick in zip(problem.groups, problem.ways, packing.picks[:-1], strict=True):
        for layer, method in zip(group, ways[pick].methods, strict=True):
            assigned[layer] = method
    return Solution(problem, assigned, problem.kinds[packing.picks[-1]], packing.value)


@dataclass(frozen=True, slots=True)
class Problem:
    """What there is to choose from: methods on layers, ways to train groups of them, and fallbacks."""

    profile: Profile
    layers: list[Layer]
    methods: list[Measured]
    groups: list[tuple[int, ...]]
    ways: list[list[GroupChoice]]
    kinds: list[FallbackKind]

    def items(self) -> Items:
        """The knapsack's items: the groups of layers, and last the fallback."""
        return [*([way.choice for way in ways] for ways in self.ways), self.fallbacks()]

    def single_items(self) -> Items:
        """The same where every layer may have a method of its own."""
        layers = range(len(self.layers))
        return [*([m.choice([layer]) for m in self.methods] for layer in layers), self.fallbacks()]

    def fallbacks(self) -> list[Choice]:
        """The last item's choices."""
        return [kind.choice for kind in self.kinds]

    def without(self, method: int) -> Problem:
        """The same with one method fewer."""
        rest = [*self.methods[:method], *self.methods[method + 1 :]]
        dtypes = {kind_of(found)[1] for found in rest}
        kinds = [kind for kind in self.kinds if kind.state_dtype in dtypes]
        return _posed(self.profile, self.layers, rest, kinds)


def problem_of(profile: Profile, rows: Sequence[Row], usable_bytes: int) -> Problem | None:
    """Return what there is to choose from; None without matrices or methods of which something is known."""
    layers = matrices(profile)
    methods = measured_candidates(profile, rows, usable_bytes) if layers else []
    if not methods:
        return None
    return _posed(profile, layers, methods, fallback_kinds(profile, methods))


def _posed(
    profile: Profile, layers: list[Layer], methods: list[Measured], kinds: list[FallbackKind]
) -> Problem:
    groups = like_layers(layers)
    ways = [group_choices(group, methods) for group in groups]
    return Problem(profile, layers, methods, groups, ways, kinds)
