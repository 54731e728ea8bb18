"""Whether rotated coordinates serve a layer, and what is said of it: its diagonality where no basis was fitted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from ..text import percent, ratio, times
from .common import (
    Basis,
    measured_layers,
    median_of,
    oldest_lag,
    oldest_stale,
    role,
    training_steps,
)

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Layer, Profile, Ratio

Verdict = Literal["pays", "little", "harms", "noise"]

ROTATED: tuple[Basis, ...] = ("one_sided", "two_sided", "covariance")

# Judging on one batch fewer lowers a share by up to a third at four batches: half as much again is beyond that.
CLEAR_GAIN = 1.5
MOST = 0.9  # share of the layers from which the others are not worth telling apart
ROLES_SHOWN = 3
CLEAR_COSINE = 0.05  # a choice: cosines over a handful of held-out gradients are no finer
_COORDINATES = {
    "one_sided": "rotated on one side",
    "two_sided": "rotated on both",
    "covariance": "in the eigenbases of summed gradients",
}


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


def rotation_line(profile: Profile) -> str | None:
    """Return in how many layers rotating pays; None where it was not judged."""
    sentence = rotation_sentence(profile)
    return None if sentence is None else f"r{sentence.partition(':')[0][1:]}"


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
    cosines = _cosines(shown, basis)
    doubtful = cosines is not None and cosines[1] <= cosines[0] - CLEAR_COSINE
    outcome = _outcome(judged, paying, doubtful=doubtful)
    aged, age = median_of([stale_gain(layer) for layer in shown]), oldest_lag(profile)
    stale = "" if aged is None else f", {times(aged)} in a one-sided basis {age} steps old"
    return (
        f"Rotation {outcome}: {there}a diagonal method sees {_own(shown)}, "
        f"{times(typical_gain(shown, basis))} that {_COORDINATES[basis]}"
        f"{stale}{_agreement(cosines)}{_caveat(profile)}."
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


def _outcome(
    judged: Sequence[tuple[Layer, Verdict]], paying: Sequence[Layer], *, doubtful: bool
) -> str:
    counts = Counter(found for _, found in judged)
    if counts["noise"] > len(judged) / 2:
        return "cannot be judged, both are near pure noise (more --batches)"
    harm = f", does harm in {counts['harms']}" if counts["harms"] else ""
    if paying:
        layers = [layer for layer, _ in judged]
        names = whole_roles(layers, paying) if len(paying) < MOST * len(judged) else []
        more = ", ..." if len(names) > ROLES_SHOWN else ""
        roles = f" (all {', '.join(names[:ROLES_SHOWN])}{more})" if names else ""
        pays = "may pay" if doubtful else "pays"
        return f"{pays} in {len(paying)} of {len(judged)} layers{roles}{harm}"
    return f"changes little{harm}" if counts["harms"] <= len(judged) / 2 else "does harm"


def _cosines(layers: Sequence[Layer], basis: Basis) -> tuple[float, float] | None:
    """Return the typical cosine with the full step, as is and rotated, within what the batches span.

    Outside of it the full preconditioner is a constant, so that the whole steps' cosine says little.
    """
    found = [layer.agreement.in_span for layer in layers if layer.agreement]
    raw = median_of([cosine.get("raw") for cosine in found])
    rotated = median_of([cosine.get(basis) for cosine in found])
    return None if raw is None or rotated is None else (raw, rotated)


def _agreement(cosines: tuple[float, float] | None) -> str:
    if cosines is None:
        return ""
    raw, rotated = cosines
    link = "and" if rotated >= raw else "but"
    return (
        f", {link} within what the batches span its step's cosine with the full one's goes from {ratio(raw)} to "
        f"{ratio(rotated)}"
    )


def _caveat(profile: Profile) -> str:
    caveats = {
        "before any training": not training_steps(profile),
        "on made-up data": profile.target.synthetic_data,
    }
    found = ", ".join(text for text, holds in caveats.items() if holds)
    return f" ({found})" if found else ""
