"""One layer's measurements as one method sees them: diagonality, agreement and energy in the basis that it really has.

A method that fits its basis every T steps uses bases of all ages up to T. What was measured at some ages is joined by
straight lines, averaged from 0 to T, and held beyond the oldest age. Legend: D share of the second moment's squared
norm on its diagonal; r rank; m the short side.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from subopt.optimizers import get_method, matrix_shape
from subopt.profilers.record.profile import Diagonality, Layer, MethodCost, Ratio, SubspaceLife

from .method_family import Family, family_of

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class LayerFindings:
    """What one layer's measurements say about one method; None where they do not.

    Attributes:
        decades: log10 of D in the method's basis over D in the weights' own coordinates, at the basis's age.
        agreement: Cosine with the full preconditioner's step in the method's basis minus that in the weights' own.
        kept: Share of the gradient's energy in the method's subspace; None too where it moves all directions.
        is_confined: Whether the method moves the directions of a subspace alone.
        is_bound: Whether `kept` is of each gradient's own best basis, the most that any basis keeps.
    """

    decades: float | None
    agreement: float | None
    kept: float | None
    is_confined: bool = False
    is_bound: bool = False

    @property
    def speaks(self) -> bool:
        """Whether what was measured is enough to say something about the method."""
        if self.is_confined:
            return self.kept is not None
        return self.decades is not None or self.agreement is not None


def layer_findings(layer: Layer, cost: MethodCost) -> LayerFindings | None:
    """Return what was measured of a layer in the terms of a method; None where the method leaves the layer alone."""
    if layer.role != "matrix" or not get_method(cost.method).accepts(layer.layer_type):
        return None
    family = family_of(cost)
    is_confined = family.projected_sides > 0
    kept, is_bound = _kept(layer, family) if is_confined else (None, False)
    return LayerFindings(
        _decades(layer, family), _agreement(layer, family), kept, is_confined, is_bound
    )


def mean_over(points: Points, period: float) -> float:
    """Return the mean from 0 to `period` of the line through points (age, value), flat outside of them.

    Args:
        points: At least one, of any order; ages from 0.
        period: Not negative; at 0 the value there.
    """
    ordered = sorted(points)
    if period <= 0:
        return ordered[0][1]
    ages = [0.0, *(age for age, _ in ordered if 0 < age < period), period]
    line = [(age, _at(ordered, age)) for age in ages]
    return sum((b - a) * (at_a + at_b) / 2 for (a, at_a), (b, at_b) in pairwise(line)) / period


def _at(ordered: Points, x: float) -> float:
    """The value of the line through points in ascending order, flat outside of them."""
    before = [point for point in ordered if point[0] <= x]
    after = [point for point in ordered if point[0] >= x]
    if not before or not after:
        return (before[-1] if before else after[0])[1]
    (x0, y0), (x1, y1) = before[-1], after[0]
    return y0 if x1 == x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)


# ---- diagonality and agreement


def _decades(layer: Layer, family: Family) -> float | None:
    found = layer.diagonality
    if found is None:
        return None
    raw = _share(found.raw, found, "raw")
    if family.shares_basis:
        return _shared_decades(layer, family, raw)
    if family.coordinates is None:
        return None
    fresh = _share(getattr(found, family.coordinates), found, family.coordinates)
    if raw is None or fresh is None:
        return None
    return math.log10(fresh / raw) * _life(found, family)


def _shared_decades(layer: Layer, family: Family, raw: float | None) -> float | None:
    """The same for blocks of output neurons: their share of the norm, and what one basis for all keeps of them."""
    blocks = layer.blocks
    if blocks is None or raw is None or not blocks.by_output > 0:
        return None
    inputs = math.prod(layer.shape[1:])
    points = [(float(k), share) for k, share in blocks.shared.items()] + [(float(inputs), 1.0)]
    kept = _at(sorted([(0.0, 0.0), *points]), float(family.directions_of(inputs)))
    held = max(blocks.by_output * kept, raw)
    return math.log10(held / raw)


def _share(ratio: Ratio | None, found: Diagonality, basis: str) -> float | None:
    """D, unbiased where there is such an estimate, between what white noise gives and all of it."""
    if ratio is None:
        return None
    value = ratio.ratio if ratio.unbiased is None else ratio.unbiased
    if value is None or not math.isfinite(value):
        return None
    floor = found.white_noise.get(basis, 0.0)
    return min(max(value, floor, 1e-12), 1.0)


def _life(found: Diagonality, family: Family) -> float:
    """The share of a fresh basis's decades that is left over its period, by the one-sided basis; 1 if unknown."""
    raw, fresh = _share(found.raw, found, "raw"), _share(found.one_sided, found, "one_sided")
    if raw is None or fresh is None or not fresh > raw or (family.period or 1) <= 1:
        return 1.0
    whole = math.log10(fresh / raw)
    aged = [
        (float(age), _clipped(math.log10(share / raw) / whole))
        for age, ratio in found.stale.items()
        if (share := _share(ratio, found, f"stale_{age}")) is not None
    ]
    return mean_over([(0.0, 1.0), *aged], float(family.period or 1))


def _agreement(layer: Layer, family: Family) -> float | None:
    found = layer.agreement
    if found is None or family.coordinates is None:
        return None
    raw, own = found.cosine.get("raw"), found.cosine.get(family.coordinates)
    if raw is None or own is None or not math.isfinite(own - raw):
        return None
    life = 1.0 if layer.diagonality is None else _life(layer.diagonality, family)
    return (own - raw) * life


# ---- energy


def _kept(layer: Layer, family: Family) -> tuple[float | None, bool]:
    """The energy in the subspace, and whether it is only an upper bound.

    The long side is not measured: where it is projected too, it is taken to lose as much.
    """
    rank, sides = family.directions_of(short_side(layer)), family.projected_sides
    life = (layer.subspace or {}).get(family.source) or (layer.subspace or {}).get("gradient")
    if life is None:
        best = _energy_at(layer, rank)
        return (None if best is None else best**sides), True
    kept = _tracked(life, layer, rank) if family.period is None else None
    if kept is None:
        kept = _refreshed(life, rank, short_side(layer), family.period or 1)
    return kept**sides, False


def short_side(layer: Layer) -> int:
    """Return the short side of a layer's matrix view: how many directions its gradient can have."""
    return matrix_shape(layer.shape)[0]


def _energy_at(layer: Layer, rank: int) -> float | None:
    """The energy in the leading directions of a gradient, from the spectrum, between the measured ranks."""
    if layer.spectrum is None:
        return None
    measured = [(float(k), value.mean) for k, value in layer.spectrum.energy_at_rank.items()]
    if not measured or not all(math.isfinite(value) for _, value in measured):
        return None
    return _clipped(_at(sorted([(0.0, 0.0), *measured, (float(short_side(layer)), 1.0)]), rank))


def _refreshed(life: SubspaceLife, rank: int, m: int, period: int) -> float:
    """The mean energy in a basis between two refreshes: its own at age 0, the frozen curve after that."""
    curves = {life.rank: life.frozen} | {int(k): curve for k, curve in life.at_rank.items()}

    def at(values: Iterable[tuple[int, float]]) -> float:
        points = [(0.0, 0.0), *((float(k), value) for k, value in values), (float(m), 1.0)]
        return _clipped(_at(sorted(points), float(rank)))

    aged = [
        (float(lag), at((k, curve[i]) for k, curve in curves.items()))
        for i, lag in enumerate(life.lag)
    ]
    return mean_over([(0.0, at([(life.rank, life.own)])), *aged], float(period))


def _tracked(life: SubspaceLife, layer: Layer, rank: int) -> float | None:
    """The energy in a followed basis once it has been followed for long; None where none was.

    It was followed at one rank: at another it keeps more or less as the gradients' own spectrum does.
    """
    if not life.tracked:
        return None
    held, wanted = _energy_at(layer, life.rank), _energy_at(layer, rank)
    scale = wanted / held if held and wanted is not None else 1.0
    return _clipped(life.tracked[-1] * scale)


def _clipped(share: float) -> float:
    return min(max(share, 0.0), 1.0)
