"""The second sentence: whether a diagonal method sees more in rotated coordinates, and in which layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .readings import Basis, measured_layers, median_of, oldest_lag, oldest_stale, training_steps
from .readings_rotation import best_basis, typical_noise, typical_share, verdict, whole_roles
from .render_text import percent, ratio

if TYPE_CHECKING:
    from subopt.profilers.schema import Layer, Profile

MOST = 0.9  # share of the layers from which the others are not worth telling apart
ROLES_SHOWN = 3
_COORDINATES = {
    "one_sided": "rotated on one side",
    "two_sided": "rotated on both",
    "covariance": "in the eigenbases of summed gradients",
}


def rotation_sentence(profile: Profile) -> str | None:
    """Return what rotating does to diagonality; None where it was not judged on gradients it was not fitted to."""
    layers = measured_layers(profile)
    basis = best_basis(layers)
    raw = typical_share(layers, "raw")
    if basis is None or raw is None:
        return None
    rotated = typical_share(layers, basis)
    noise = typical_noise(layers, basis)
    shown = f" (pure noise: {percent(noise)})" if noise is not None else ""
    return (
        f"Rotation {_verdict(layers, basis)}: a diagonal method sees {percent(raw)} of the second moment "
        f"as is, {percent(rotated)} {_COORDINATES[basis]}{shown}{_stale(profile)}{_agreement(layers, basis)}"
        f"{_caveat(profile)}."
    )


def _verdict(layers: Sequence[Layer], basis: Basis) -> str:
    verdicts = {id(layer): verdict(layer, basis) for layer in layers}
    judged = [layer for layer in layers if verdicts[id(layer)] is not None]
    counts = Counter(verdicts[id(layer)] for layer in judged)
    pays = [layer for layer in judged if verdicts[id(layer)] == "pays"]
    if counts["noise"] > len(judged) / 2:
        return "cannot be judged, both are near pure noise (more --batches)"
    if len(pays) >= MOST * len(judged):
        return f"pays in {len(pays)} of {len(judged)} layers"
    if pays:
        return f"pays in {len(pays)} of {len(judged)} layers{_roles(judged, pays)}"
    return "does harm" if counts["harms"] > len(judged) / 2 else "changes little"


def _roles(judged: Sequence[Layer], pays: Sequence[Layer]) -> str:
    names = whole_roles(judged, pays)
    if not names:
        return ""
    more = ", ..." if len(names) > ROLES_SHOWN else ""
    return f" (all {', '.join(names[:ROLES_SHOWN])}{more})"


def _stale(profile: Profile) -> str:
    lag = oldest_lag(profile)
    found = [oldest_stale(layer) for layer in measured_layers(profile)]
    share = median_of([value.ratio for value in found if value is not None and not value.in_sample])
    return f", {percent(share)} in a one-sided basis {lag} steps old" if share is not None else ""


def _agreement(layers: Sequence[Layer], basis: Basis) -> str:
    found = [layer.agreement.cosine for layer in layers if layer.agreement]
    raw = median_of([cosine.get("raw") for cosine in found])
    rotated = median_of([cosine.get(basis) for cosine in found])
    if raw is None or rotated is None:
        return ""
    link = "and" if rotated >= raw else "but"
    return (
        f", {link} its step's cosine with the full one's goes from {ratio(raw)} to {ratio(rotated)}"
    )


def _caveat(profile: Profile) -> str:
    parts = []
    if not training_steps(profile):
        parts.append("before any training")
    if profile.target.synthetic_data:
        parts.append("on made-up data")
    return f" ({', '.join(parts)})" if parts else ""
