"""The second sentence: whether a diagonal method sees more in rotated coordinates, and in which layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..text import percent, ratio, times
from .common import Basis, measured_layers, median_of, oldest_lag, training_steps
from .rotation import Verdict, best_basis, in_basis, stale_gain, typical_gain, verdict, whole_roles

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Layer, Profile

MOST = 0.9  # share of the layers from which the others are not worth telling apart
ROLES_SHOWN = 3
CLEAR_COSINE = 0.05  # a choice: cosines over a handful of held-out gradients are no finer
_COORDINATES = {
    "one_sided": "rotated on one side",
    "two_sided": "rotated on both",
    "covariance": "in the eigenbases of summed gradients",
}


def rotation_sentence(profile: Profile) -> str | None:
    """Return what rotating does to diagonality; None where it was not judged on gradients it was not fitted to."""
    layers = measured_layers(profile)
    basis = best_basis(layers)
    if basis is None:
        return None
    verdicts = [(layer, verdict(layer, basis)) for layer in layers]
    judged = [(layer, found) for layer, found in verdicts if found is not None]
    paying = [layer for layer, found in judged if found == "pays"]
    shown = paying or layers
    there = "there " if 0 < len(paying) < len(judged) else ""
    said = _verdict(judged, paying, doubtful=_is_doubtful(shown, basis))
    return (
        f"Rotation {said}: {there}a diagonal method sees {_own(shown)}, "
        f"{times(typical_gain(shown, basis))} that {_COORDINATES[basis]}"
        f"{_stale(profile, shown)}{_agreement(shown, basis)}{_caveat(profile)}."
    )


def _own(layers: Sequence[Layer]) -> str:
    """Return what is seen in the layers' own coordinates, beside what noise would show."""
    raw = [in_basis(layer, "raw") for layer in layers]
    share = median_of([value.ratio for value in raw if value is not None])
    noise = median_of([
        layer.diagonality.white_noise.get("raw") for layer in layers if layer.diagonality
    ])
    beside = f" (pure noise: {percent(noise)})" if noise is not None else ""
    return f"{percent(share)} of the second moment as is{beside}"


def _is_doubtful(layers: Sequence[Layer], basis: Basis) -> bool:
    """Whether the steps that a diagonal method takes are clearly further from the full one's, however diagonal C is."""
    cosines = _cosines(layers, basis)
    return cosines is not None and cosines[1] <= cosines[0] - CLEAR_COSINE


def _verdict(
    judged: Sequence[tuple[Layer, Verdict]], paying: Sequence[Layer], *, doubtful: bool
) -> str:
    counts = Counter(found for _, found in judged)
    if counts["noise"] > len(judged) / 2:
        return "cannot be judged, both are near pure noise (more --batches)"
    harm = f", does harm in {counts['harms']}" if counts["harms"] else ""
    if paying:
        layers = [layer for layer, _ in judged]
        roles = _roles(layers, paying) if len(paying) < MOST * len(judged) else ""
        pays = "may pay" if doubtful else "pays"
        return f"{pays} in {len(paying)} of {len(judged)} layers{roles}{harm}"
    return f"changes little{harm}" if counts["harms"] <= len(judged) / 2 else "does harm"


def _roles(judged: Sequence[Layer], pays: Sequence[Layer]) -> str:
    names = whole_roles(judged, pays)
    if not names:
        return ""
    more = ", ..." if len(names) > ROLES_SHOWN else ""
    return f" (all {', '.join(names[:ROLES_SHOWN])}{more})"


def _stale(profile: Profile, layers: Sequence[Layer]) -> str:
    found = median_of([stale_gain(layer) for layer in layers])
    age = oldest_lag(profile)
    return f", {times(found)} in a one-sided basis {age} steps old" if found is not None else ""


def _cosines(layers: Sequence[Layer], basis: Basis) -> tuple[float, float] | None:
    """Return the typical cosine with the full step, as is and rotated, within what the batches span.

    Outside of it the full preconditioner is a constant, so that the whole steps' cosine says little.
    """
    found = [layer.agreement.in_span for layer in layers if layer.agreement]
    raw = median_of([cosine.get("raw") for cosine in found])
    rotated = median_of([cosine.get(basis) for cosine in found])
    return None if raw is None or rotated is None else (raw, rotated)


def _agreement(layers: Sequence[Layer], basis: Basis) -> str:
    cosines = _cosines(layers, basis)
    if cosines is None:
        return ""
    raw, rotated = cosines
    link = "and" if rotated >= raw else "but"
    return (
        f", {link} within what the batches span its step's cosine with the full one's goes from {ratio(raw)} to "
        f"{ratio(rotated)}"
    )


def _caveat(profile: Profile) -> str:
    parts = []
    if not training_steps(profile):
        parts.append("before any training")
    if profile.target.synthetic_data:
        parts.append("on made-up data")
    return f" ({', '.join(parts)})" if parts else ""
