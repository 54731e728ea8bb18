"""What a profile comes to, in three sentences for a person who has not read the papers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .readings import (
    cost_of,
    decomposed_and_followed,
    decompositions_by_shape,
    diagonal_share,
    kept_share,
    measured_layers,
    median_of,
    needed_share,
)
from .render_text import percent, shape_text
from .units import format_bytes, format_ms

if TYPE_CHECKING:
    from subopt.profilers.schema import MethodCost, Profile

# Where the words change. They describe, they decide nothing: the advice has its own rules.
CONCENTRATED = 0.9  # energy kept at the rank asked for, from which a low-rank method loses little
CLEAR_GAIN = 1.5  # factor between two diagonal shares that is worth a word


def sentences(profile: Profile) -> list[str]:
    """Return up to three sentences: low rank, rotation, memory and time; one that has no numbers is left out."""
    told = [_low_rank(profile), _rotation(profile), _memory(profile)]
    return [sentence for sentence in told if sentence]


def _low_rank(profile: Profile) -> str | None:
    layers = measured_layers(profile)
    needed = median_of([needed_share(layer) for layer in layers])
    kept = median_of([kept_share(layer, profile.settings.rank) for layer in layers])
    if needed is None or kept is None:
        return None
    verdict = (
        "a low-rank method of that rank would lose little"
        if kept >= CONCENTRATED
        else "a low-rank method of that rank would throw part of the signal away"
    )
    if not profile.settings.warmup_steps:
        verdict += " at first; gradients spread as training goes on"
    return (
        f"Low rank: the typical layer's gradient has 95% of its energy in {percent(needed)} of its directions, and "
        f"{_rank_text(profile.settings.rank)} keeps {percent(kept)} of it, so {verdict}."
    )


def _rank_text(rank: int | float) -> str:
    return (
        f"rank {rank}" if isinstance(rank, int) else f"a rank of {percent(rank)} of the short side"
    )


def _rotation(profile: Profile) -> str | None:
    layers = measured_layers(profile)
    raw = median_of([diagonal_share(layer, "raw") for layer in layers])
    one = median_of([diagonal_share(layer, "one_sided") for layer in layers])
    two = median_of([diagonal_share(layer, "two_sided") for layer in layers])
    if raw is None or one is None:
        return None
    best = max(one, two or 0.0)
    if best >= CLEAR_GAIN * raw:
        verdict = "so the AdaDiag family has something to work with"
        if not profile.settings.warmup_steps:
            verdict += ", as far as gradients before any training can tell"
    elif best * CLEAR_GAIN <= raw:
        verdict = "so on these batches rotating hides more than it shows"
    else:
        verdict = "so on these batches rotating changes little"
    both = f", {percent(two)} on both" if two is not None else ""
    return (
        f"Rotation: of the gradients' second moment a method like Adam sees {percent(raw)} in the layers' own "
        f"coordinates and {percent(one)} in coordinates rotated on one side{both}, {verdict}."
    )


def _memory(profile: Profile) -> str | None:
    adamw = cost_of(profile, "adamw")
    if adamw is None:
        return None
    smallest = min(profile.methods, key=lambda cost: cost.state_bytes)
    text = f"Cost: AdamW keeps {format_bytes(adamw.state_bytes)} of state{_peak_share(adamw)}"
    if smallest.state_bytes < adamw.state_bytes:
        text += f", {smallest.method} the least with {format_bytes(smallest.state_bytes)}"
    return f"{text}{_svd_against_pca(profile)}."


def _peak_share(adamw: MethodCost) -> str:
    if adamw.peak is None or not adamw.peak.bytes:
        return ""
    return f", {percent(adamw.state_bytes / adamw.peak.bytes)} of its {format_bytes(adamw.peak.bytes)} peak"


def _svd_against_pca(profile: Profile) -> str:
    for shape, _, timings in decompositions_by_shape(profile):
        found = decomposed_and_followed(timings)
        if found is not None:
            decomposed, followed = found
            return (
                f"; for the {shape_text(shape)} layers the cheapest decomposition ({decomposed.kernel}) costs "
                f"{format_ms(decomposed.ms_per_training_step)} a step at its period, online PCA "
                f"{format_ms(followed.ms_per_training_step)}"
            )
    return ""
