"""Whether rotated coordinates serve a layer: its diagonality in each basis, judged where it was not fitted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from .readings import Basis, median_of, role

if TYPE_CHECKING:
    from subopt.profilers.schema import Layer, Ratio

Verdict = Literal["pays", "little", "harms", "noise"]

ROTATED: tuple[Basis, ...] = ("one_sided", "two_sided", "covariance")

# A diagonal share that grows by half is seen in the histograms of the papers; less lies within what a few more batches
# change.
CLEAR_GAIN = 1.5


def diagonal_share(layer: Layer, basis: Basis) -> float | None:
    """Return the diagonal share of the second moment in a basis, comparable between bases.

    None where the basis was judged on the gradients it was fitted to, which is too good to be compared.
    """
    if layer.diagonality is None:
        return None
    value: Ratio | None = getattr(layer.diagonality, basis)
    return None if value is None or value.in_sample else value.ratio


def typical_share(layers: Sequence[Layer], basis: Basis) -> float | None:
    """Return the median diagonal share in a basis."""
    return median_of([diagonal_share(layer, basis) for layer in layers])


def typical_noise(layers: Sequence[Layer], basis: Basis) -> float | None:
    """Return the median of what white noise would show in a basis."""
    found = [layer.diagonality.white_noise.get(basis) for layer in layers if layer.diagonality]
    return median_of(found)


def best_basis(layers: Sequence[Layer]) -> Basis | None:
    """Return the rotated basis with the largest diagonal share in the typical layer."""
    known: list[tuple[float, Basis]] = []
    for basis in ROTATED:
        share = typical_share(layers, basis)
        if share is not None:
            known.append((share, basis))
    return max(known, key=lambda item: item[0])[1] if known else None


def verdict(layer: Layer, basis: Basis) -> Verdict | None:
    """Return what rotating to a basis does for a layer; `noise` where neither share stands out from white noise."""
    raw, rotated = diagonal_share(layer, "raw"), diagonal_share(layer, basis)
    if raw is None or rotated is None or layer.diagonality is None:
        return None
    noise = layer.diagonality.white_noise
    if raw < CLEAR_GAIN * noise.get("raw", 0.0) and rotated < CLEAR_GAIN * noise.get(basis, 0.0):
        return "noise"
    if rotated >= CLEAR_GAIN * raw:
        return "pays"
    return "harms" if rotated * CLEAR_GAIN <= raw else "little"


def whole_roles(all_layers: Sequence[Layer], chosen: Sequence[Layer]) -> list[str]:
    """Return the roles, such as `q_proj`, whose layers were all chosen; none where layers have numbers alone."""
    names = {id(layer) for layer in chosen}
    by_role: dict[str, list[bool]] = {}
    for layer in all_layers:
        by_role.setdefault(role(layer), []).append(id(layer) in names)
    return [name for name, picked in by_role.items() if name and all(picked)]
