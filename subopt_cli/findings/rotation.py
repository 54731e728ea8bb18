"""Whether rotated coordinates serve a layer: its diagonality in each basis, judged where it was not fitted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from .common import Basis, median_of, oldest_stale, role

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Layer, Ratio

Verdict = Literal["pays", "little", "harms", "noise"]

ROTATED: tuple[Basis, ...] = ("one_sided", "two_sided", "covariance")

# Judging on one batch fewer lowers a share by up to a third at four batches: half as much again is beyond that.
CLEAR_GAIN = 1.5


def in_basis(layer: Layer, basis: Basis) -> Ratio | None:
    """Return the diagonality in a basis; None where it was judged on the gradients that the basis was fitted to."""
    value: Ratio | None = getattr(layer.diagonality, basis) if layer.diagonality else None
    return None if value is None or value.in_sample else value


def gain(raw: Ratio | None, rotated: Ratio | None, *, same_batches: bool = True) -> float | None:
    """Return how many times as much a diagonal method sees rotated as it sees in a layer's own coordinates.

    By the unbiased estimates where both have one. Shares as measured fall with the number of batches they were judged
    on, so without estimates they compare only where it is the same, or one less.
    """
    if raw is None or rotated is None:
        return None
    if raw.unbiased is not None and raw.unbiased > 0 and rotated.unbiased is not None:
        return rotated.unbiased / raw.unbiased
    if not same_batches or raw.ratio is None or rotated.ratio is None or raw.ratio <= 0:
        return None
    return rotated.ratio / raw.ratio


def gain_of(layer: Layer, basis: Basis) -> float | None:
    """Return the gain of a basis; that of summed gradients was judged on half of the batches."""
    rotated = in_basis(layer, basis)
    return gain(in_basis(layer, "raw"), rotated, same_batches=basis != "covariance")


def stale_gain(layer: Layer) -> float | None:
    """Return the gain of the oldest one-sided basis from training."""
    stale = oldest_stale(layer)
    return None if stale is None or stale.in_sample else gain(in_basis(layer, "raw"), stale)


def typical_gain(layers: Sequence[Layer], basis: Basis) -> float | None:
    """Return the median gain of a basis."""
    return median_of([gain_of(layer, basis) for layer in layers])


def verdict(layer: Layer, basis: Basis) -> Verdict | None:
    """Return what rotating to a basis does for a layer; `noise` where neither share stands out from white noise."""
    found, raw, rotated = gain_of(layer, basis), in_basis(layer, "raw"), in_basis(layer, basis)
    if found is None or raw is None or rotated is None or layer.diagonality is None:
        return None
    noise = layer.diagonality.white_noise
    if _is_near(raw, noise.get("raw")) and _is_near(rotated, noise.get(basis)):
        return "noise"
    if found >= CLEAR_GAIN:
        return "pays"
    return "harms" if found * CLEAR_GAIN <= 1 else "little"


def _is_near(value: Ratio, noise: float | None) -> bool:
    return value.ratio is not None and noise is not None and value.ratio < CLEAR_GAIN * noise


def best_basis(layers: Sequence[Layer]) -> Basis | None:
    """Return the rotated basis that pays in most layers, of several the one with the largest typical gain."""
    known: list[tuple[int, float, Basis]] = []
    for basis in ROTATED:
        typical = typical_gain(layers, basis)
        if typical is not None:
            paying = sum(verdict(layer, basis) == "pays" for layer in layers)
            known.append((paying, typical, basis))
    return max(known)[2] if known else None


def whole_roles(all_layers: Sequence[Layer], chosen: Sequence[Layer]) -> list[str]:
    """Return the roles, such as `q_proj`, whose layers were all chosen; none where layers have numbers alone."""
    names = {id(layer) for layer in chosen}
    by_role: dict[str, list[bool]] = {}
    for layer in all_layers:
        by_role.setdefault(role(layer), []).append(id(layer) in names)
    return [name for name, picked in by_role.items() if name and all(picked)]
