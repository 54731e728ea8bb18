"""The few numbers a person takes from a profile: shares, medians, the row that stands for many. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from operator import attrgetter, itemgetter
from statistics import median
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from subopt.profilers.record.profile import (
        Category,
        Content,
        Decomposition,
        Layer,
        MethodCost,
        Profile,
        Ratio,
    )

_PARTS = {
    "parameter": "parameters",
    "gradient": "gradients",
    "state": "optimizer state",
    "activation": "activations",
    "temporary": "temporaries",
}

ONLINE_PCA = "online PCA"  # what the names of its kernels begin with

Basis = Literal["raw", "one_sided", "two_sided", "covariance", "low_rank"]


def short_side(shape: Sequence[int]) -> int:
    """Return the short side of a parameter's matrix view: how many directions its gradient can have."""
    from subopt.optimizers import (
        matrix_shape,
    )  # brings torch, which the command's help does without

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


def captured_share(layer: Layer, rank: int | float) -> float | None:
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


def oldest_stale(layer: Layer) -> Ratio | None:
    """Return the diagonality in the oldest basis that was kept from training."""
    stale = layer.diagonality.stale if layer.diagonality is not None else {}
    return stale[max(stale, key=int)] if stale else None


def oldest_lag(profile: Profile) -> int | None:
    """Return the age of the oldest basis that any layer's gradients were judged in, in training steps."""
    lags = [
        int(lag) for layer in profile.layers if layer.diagonality for lag in layer.diagonality.stale
    ]
    return max(lags, default=None)


def over_noise(share: float, noise: float) -> float | None:
    """Return a share as a multiple of what white noise would give."""
    return share / noise if noise else None


def training_steps(profile: Profile) -> int:
    """Return after how many training steps the gradients were measured: warm-up, then the run that follows bases."""
    return profile.settings.warmup_steps + profile.settings.steps


def role(layer: Layer) -> str:
    """Return what a layer is called within its block, such as `q_proj`; "" where it has a number alone."""
    parts = [part for part in layer.name.split(".") if part != "weight" and not part.isdecimal()]
    return parts[-1] if parts else ""


def median_of(values: Sequence[float | None]) -> float | None:
    """Return the median of the known values."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def batches_seen(profile: Profile) -> int:
    """Return how many batches the typical layer's spectrum is of: `quick` looks at each layer on some of them."""
    spectra = [layer.spectrum for layer in measured_layers(profile) if layer.spectrum]
    return round(median_of([spectrum.batches for spectrum in spectra]) or profile.settings.batches)


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
    cost = attrgetter("ms_per_training_step")
    return min(decomposed, key=cost), min(followed, key=cost)


def refreshing(profile: Profile) -> list[tuple[MethodCost, float, float]]:
    """Return the methods with a refresh dearer than their ordinary step, and both in ms, the dearest refresh first."""
    found = [
        (cost, ordinary_ms, refresh_ms)
        for cost in profile.methods
        if (ordinary_ms := cost.ordinary_ms) is not None
        and (refresh_ms := cost.refresh_ms) is not None
        and refresh_ms > ordinary_ms
    ]
    return sorted(found, key=itemgetter(2), reverse=True)


def largest_content(profile: Profile) -> Content | None:
    """Return the largest thing alive at the peak of plain AdamW training."""
    return max(profile.memory.contents, key=lambda content: content.bytes, default=None)


def leanest_method(profile: Profile) -> tuple[str, int] | None:
    """Return the method of the least peak and what it frees of AdamW's; by their states where peaks are unknown."""
    adamw = cost_of(profile, "adamw")
    if adamw is None:
        return None
    if adamw.peak is None:
        least = min(profile.methods, key=lambda cost: cost.state_bytes)
        return least.method, adamw.state_bytes - least.state_bytes
    peaks = [(cost.peak.bytes, cost.method) for cost in profile.methods if cost.peak]
    size, method = min(peaks)
    return method, adamw.peak.bytes - size


def parts_at_peak(profile: Profile) -> list[tuple[str, int]]:
    """Return what fills the highest instant of training with AdamW, the largest first; none where it is unknown."""
    adamw = cost_of(profile, "adamw")
    parts = profile.memory.at_peak
    if not parts and adamw is not None and adamw.peak is not None:  # an older profile
        parts = adamw.peak.categories.get(adamw.peak.phase, {})
    return sorted(named_parts(parts).items(), key=lambda part: -part[1])


def named_parts(categories: Mapping[Category, int]) -> dict[str, int]:
    """Return bytes by category under the categories' names in words."""
    return {_PARTS[category]: size for category, size in categories.items()}
