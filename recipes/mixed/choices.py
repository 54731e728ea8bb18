"""What each method would be worth, and take, on each layer: the numbers that a mixed recipe is chosen from.

The value of method c on layer l, as a share of the loss measure with plain AdamW at 0, time paid:

    v(l, c) = w_l (S_c + T_c + a_c (g_lc - g_c)) - T_c f_lc

S_c is the method's score of the ranking (what is raced, measured and published, its whole time paid) and T_c what that
time costs, 0.10 log2(1 + overhead); w_l is the layer's share of all matrices by size and f_lc its share of the method's
FLOPs, so that the same method everywhere is worth its score. g_lc is what the layer's own gradients say and g_c their
mean over layers; a_c is how far measurements count in the score. A score that is no larger than its error counts as 0,
as in the ranking.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from subopt.optimizers import Method, get_method, matrix_shape
from subopt.optimizers.updates.basis import resolve_rank
from subopt.profilers.record.profile import Layer, MethodCost, Profile

from ..evidence.predicted import layer_gain
from ..plan.method_options import changed_options, parameter_dtype
from ..ranking.row import Row
from ..ranking.rule import time_price
from ..schema import OptionValue
from .knapsack_bound import Choice

# Beside the profile's own rank, for methods whose moments live in a subspace: shares of the short side.
RANKS = (0.5, 0.25, 0.125)


@dataclass(frozen=True, slots=True)
class MixCandidate:
    """A method with its options, and what is known of it on the whole model.

    Attributes:
        row: The method's row of the advice.
        cost: Its costs in the profile, with these options in the place of the profile's.
        score: What it is worth everywhere, time paid.
        time_cost: The part of that which its time takes away; negative where it is faster than AdamW.
        attention: How far what single layers say counts.
        extra_bytes: What its temporaries take beyond those of the row's own rank.
        limit_bytes: What all optimizer state may come to where it is used: what its row's peak leaves.
    """

    row: Row
    cost: MethodCost
    score: float
    time_cost: float
    attention: float
    extra_bytes: int
    limit_bytes: int

    @property
    def method(self) -> Method:
        """Its record in the method table."""
        return get_method(self.row.method)

    @property
    def options(self) -> dict[str, OptionValue]:
        """The options that differ from the method's defaults."""
        return changed_options(self.cost)

    @property
    def rank(self) -> int | float | None:
        """The rank of the gradients' subspace that its moments live in: directions, or a share of the short side."""
        if "projects" not in self.method.capabilities:
            return None
        found = self.method.resolve(self.options)["rank"]
        return found if isinstance(found, int | float) else None


@dataclass(frozen=True, slots=True)
class Measured:
    """What a candidate is on every layer, in the layers' order.

    Attributes:
        candidate: The method.
        bytes: Optimizer state.
        values: What it is worth there.
        step_ms: Time beyond forward and backward pass; None where it was not measured.
    """

    candidate: MixCandidate
    bytes: tuple[int, ...]
    values: tuple[float, ...]
    step_ms: tuple[float, ...] | None

    def choice(self, layers: Sequence[int]) -> Choice:
        """Return the choice of this method for these layers together."""
        return Choice(
            sum(self.bytes[i] for i in layers),
            sum(self.values[i] for i in layers),
            self.candidate.limit_bytes,
        )


def matrices(profile: Profile) -> list[Layer]:
    """Return the layers that a method may be chosen for."""
    return [layer for layer in profile.layers if layer.role == "matrix"]


def needed_bytes(row: Row) -> int:
    """Return what has to be usable for a step with a row's method."""
    return row.peak.bytes + row.peak.overhead_bytes


def measured_candidates(profile: Profile, rows: Sequence[Row], usable_bytes: int) -> list[Measured]:
    """Return every method of which something is known, at every rank that is tried, on all matrices of the profile.

    Left out are methods that replace layers, which a rule cannot name, and those without any evidence.
    """
    found: list[Measured] = []
    for row in rows:
        if row.score is None or get_method(row.method).layers:
            continue
        own = [layer_gain(layer, row.cost, profile) for layer in matrices(profile)]
        tried = _ranks(profile, row, usable_bytes)
        found.extend(_measured(profile, candidate, own) for candidate in tried)
    return found


def _ranks(profile: Profile, row: Row, usable_bytes: int) -> Iterator[MixCandidate]:
    """A row's method at the profile's rank and at others."""
    limit = usable_bytes - (needed_bytes(row) - row.cost.state_bytes)
    base = MixCandidate(row, row.cost, _score(row), _time_cost(row), _attention(row), 0, limit)
    yield base
    if "projects" not in base.method.capabilities or "rank" not in row.cost.options:
        return
    shapes = {tuple(layer.shape) for layer in matrices(profile)}
    own = _directions(row.cost.options["rank"], shapes)
    known = {own}
    for rank in RANKS:
        directions = _directions(rank, shapes)
        if directions in known:
            continue
        known.add(directions)
        cost = row.cost.model_copy(update={"options": {**row.cost.options, "rank": rank}})
        # Temporaries are taken to grow with the rank; some of them do not.
        growth = max(max(directions) / max(own) - 1, 0.0)
        extra = int(row.cost.transient_bytes * growth)
        yield replace(base, cost=cost, extra_bytes=extra, limit_bytes=limit - extra)


def _directions(rank: Any, shapes: set[tuple[int, ...]]) -> tuple[int, ...]:
    """A rank as numbers of directions, for every shape there is."""
    sides = [matrix_shape(shape)[0] for shape in sorted(shapes)]
    return tuple(resolve_rank(rank, side) or side for side in sides)


def _score(row: Row) -> float:
    score = row.score or 0.0
    return score if row.is_baseline or row.is_promising else min(score, 0.0)


def _time_cost(row: Row) -> float:
    return 0.0 if row.overhead is None else time_price(row.overhead.share)


def _attention(row: Row) -> float:
    """The certainty of what was measured, times its weight among all that is known of the method."""
    if row.predicted is None or row.expected is None:
        return 0.0
    weights = {item.evidence_type: item.weight for item in row.expected.estimates}
    return row.predicted.certainty * weights.get("predicted", 0.0) / sum(weights.values())


def _measured(profile: Profile, candidate: MixCandidate, own: Sequence[float | None]) -> Measured:
    """A candidate on every layer; `own`: the layers' gains at the profile's rank, whose mean its score contains."""
    layers, row = matrices(profile), candidate.row
    options = candidate.options
    sizes = _shares([float(math.prod(layer.shape)) for layer in layers])
    known = [(size, gain) for size, gain in zip(sizes, own, strict=True) if gain is not None]
    mean = sum(size * gain for size, gain in known) / sum(size for size, _ in known) if known else 0
    shapes = [tuple(layer.shape) for layer in layers]
    ordinary = [_flops(candidate.method, shape, changed_options(row.cost)) for shape in shapes]
    # A lower rank than the profile's is taken to save no time: what was timed is not all arithmetic.
    work = [
        max(usual, _flops(candidate.method, shape, options))
        for usual, shape in zip(ordinary, shapes, strict=True)
    ]
    whole = sum(ordinary)
    times = [flops / whole for flops in work] if whole else list(sizes)
    values = []
    for layer, size, time in zip(layers, sizes, times, strict=True):
        gain = layer_gain(layer, candidate.cost, profile)
        apart = 0.0 if gain is None else candidate.attention * (gain - mean)
        values.append(
            size * (candidate.score + candidate.time_cost + apart) - candidate.time_cost * time
        )
    dtype = parameter_dtype(profile)
    step_ms = row.cost.step_ms
    return Measured(
        candidate,
        tuple(_bytes(candidate.method, shape, dtype, options) for shape in shapes),
        tuple(values),
        None if step_ms is None else tuple(step_ms * time for time in times),
    )


def _shares(sizes: Sequence[float]) -> list[float]:
    total = sum(sizes)
    return [size / total for size in sizes]


def _bytes(
    method: Method, shape: tuple[int, ...], dtype: torch.dtype, options: Mapping[str, Any]
) -> int:
    return _state_bytes(method.name, shape, dtype, _frozen(options))


def _flops(method: Method, shape: tuple[int, ...], options: Mapping[str, Any]) -> float:
    return _step_flops(method.name, shape, _frozen(options))


def _frozen(options: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((k, tuple(v) if isinstance(v, list) else v) for k, v in options.items()))


@lru_cache(maxsize=4096)
def _state_bytes(
    name: str, shape: tuple[int, ...], dtype: torch.dtype, options: tuple[tuple[str, Any], ...]
) -> int:
    return get_method(name).state_bytes(shape, dtype, dict(options))


@lru_cache(maxsize=4096)
def _step_flops(name: str, shape: tuple[int, ...], options: tuple[tuple[str, Any], ...]) -> float:
    return get_method(name).step_flops(shape, dict(options))
