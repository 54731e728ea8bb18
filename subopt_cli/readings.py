"""The few numbers a person takes from a profile: shares, medians, the row that stands for many. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from statistics import median
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from subopt.profilers.schema import Decomposition, Layer, MethodCost, Profile, Ratio

ONLINE_PCA = "online PCA"  # what the names of its kernels begin with

Basis = Literal["raw", "one_sided", "two_sided", "covariance", "low_rank"]


def short_side(shape: Sequence[int]) -> int:
    """Return the short side of a parameter's matrix view: how many directions its gradient can have."""
    from subopt.optimizers import (
        matrix_shape,
    )  # brings torch along, which the command's help does without

    return matrix_shape(shape)[0]


def measured_layers(profile: Profile) -> list[Layer]:
    """Return the layers with a spectrum, the widest spread first."""
    layers = [layer for layer in profile.layers if layer.spectrum is not None]
    return sorted(layers, key=lambda layer: spread_share(layer) or 0.0, reverse=True)


def spread_share(layer: Layer) -> float | None:
    """Return the effective rank of a layer's gradient as a share of its short side."""
    if layer.spectrum is None:
        return None
    return layer.spectrum.effective_rank.mean / short_side(layer.shape)


def needed_share(layer: Layer, energy: str = "0.95") -> float | None:
    """Return the share of the directions that hold this share of the gradient's energy."""
    if layer.spectrum is None or energy not in layer.spectrum.rank_at_energy:
        return None
    return layer.spectrum.rank_at_energy[energy].mean / short_side(layer.shape)


def kept_share(layer: Layer, rank: int | float) -> float | None:
    """Return the gradient energy that a basis of this rank keeps.

    Args:
        layer: A layer.
        rank: A number of directions, or as a float a share of the short side. The nearest measured rank counts.
    """
    if layer.spectrum is None or not layer.spectrum.energy_at_rank:
        return None
    wanted = rank if isinstance(rank, int) else rank * short_side(layer.shape)
    nearest = min(layer.spectrum.energy_at_rank, key=lambda key: abs(int(key) - wanted))
    return layer.spectrum.energy_at_rank[nearest].mean


def diagonal_share(layer: Layer, basis: Basis) -> float | None:
    """Return the diagonal share of the second moment in a basis, as measured: comparable between bases."""
    if layer.diagonality is None:
        return None
    value: Ratio | None = getattr(layer.diagonality, basis)
    return None if value is None else value.ratio


def median_of(values: Sequence[float | None]) -> float | None:
    """Return the median of the known values."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def cost_of(profile: Profile, method: str) -> MethodCost | None:
    """Return a method's row."""
    return next((cost for cost in profile.methods if cost.method == method), None)


def decompositions_by_shape(
    profile: Profile,
) -> list[tuple[tuple[int, ...], int, list[Decomposition]]]:
    """Return (shape, rank, timings) for each timed shape, the largest first."""
    groups: dict[tuple[tuple[int, ...], int], list[Decomposition]] = {}
    for timing in profile.decompositions:
        groups.setdefault((tuple(timing.shape), timing.rank), []).append(timing)
    ordered = sorted(groups.items(), key=lambda item: prod(item[0][0]), reverse=True)
    return [(shape, rank, timings) for (shape, rank), timings in ordered]


def decomposed_and_followed(
    timings: Sequence[Decomposition],
) -> tuple[Decomposition, Decomposition] | None:
    """Return the cheapest decomposition and the cheapest online PCA of a shape, by their cost to a training step."""
    followed = [timing for timing in timings if timing.kernel.startswith(ONLINE_PCA)]
    decomposed = [timing for timing in timings if not timing.kernel.startswith(ONLINE_PCA)]
    if not followed or not decomposed:
        return None

    def cost(timing: Decomposition) -> float:
        return timing.ms_per_training_step

    return min(decomposed, key=cost), min(followed, key=cost)
