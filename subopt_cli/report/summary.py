"""The page's beginning, for a reader in a hurry: key numbers and three sentences; and its end: how it was taken."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING

from subopt.recipes.advice.calibrated import earlier_runs

from ..findings.advice import words
from ..findings.common import (
    batches_seen,
    captured_share,
    cost_of,
    decomposed_and_followed,
    decompositions_by_shape,
    largest_content,
    measured_layers,
    median_of,
    needed_share,
)
from ..findings.subspaces import typical_lives
from ..findings.summary import profile_summary
from ..terminal.methods import fits_text
from ..text import count, percent, plural, shape_text
from ..units import format_bytes, format_ms
from .parts import Facts, Paragraph, Part, Sentences, Tile, Tiles

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Gpu, Layer, Profile, Ratio


def summary_parts(
    profile: Profile, *, budget_bytes: int | None, usable_bytes: int | None
) -> list[Part]:
    """Return what was measured, what it comes to in sentences, and the few numbers behind them."""
    told = profile_summary(profile)
    tiles = list(_tiles(profile, budget_bytes, usable_bytes))
    return [
        Paragraph(what_was_measured(profile)),
        *([Sentences(told)] if told else []),
        *([Tiles(tiles)] if tiles else []),
    ]


def what_was_measured(profile: Profile) -> str:
    """Return a few sentences on the model, the data and the device."""
    target, settings, environment = profile.target, profile.settings, profile.environment
    matrices = sum(layer.role == "matrix" for layer in profile.layers)
    numbers = sum(prod(layer.shape) for layer in profile.layers)
    device = environment.gpu.name if environment.gpu else environment.device
    text = (
        f"{target.spec} ({target.picked}): {count(numbers)} parameters, "
        f"{plural(matrices, 'matrix', 'matrices')} among them. "
    )
    if settings.simulate:
        return f"{text}Nothing was run: memory and FLOPs follow from shapes alone."
    steps = settings.warmup_steps + settings.steps
    moment = f"after {plural(steps, 'training step')}" if steps else "before any training"
    text += (
        f"Gradients of {plural(batches_seen(profile), 'batch', 'batches')} of {settings.batch_size} "
        f"in {settings.dtype} on {device}, {moment}."
    )
    if target.synthetic_data:
        text += " The data was SYNTHETIC: made-up inputs say little about gradients of real data."
    if profile.interrupted:
        text += " The profile was interrupted: it holds what was complete by then."
    return text


def _tiles(profile: Profile, budget_bytes: int | None, usable_bytes: int | None) -> Iterator[Tile]:
    yield from _gradient_tiles(profile)
    yield from _life_tile(profile)
    adamw = cost_of(profile, "adamw")
    if adamw is not None and adamw.peak is not None:
        peak = adamw.peak
        fits = {"yes": "fits", "no": "does not fit", "maybe": "may fit"}.get(
            fits_text(peak, usable_bytes)
        )
        against = (
            f"{fits} in {format_bytes(budget_bytes)}" if fits and budget_bytes else f"{peak.source}"
        )
        remark = f"set by the {peak.phase}; {against}"
        yield Tile(format_bytes(peak.bytes), "Peak memory with AdamW", remark)
        yield Tile(
            percent(adamw.state_bytes / peak.bytes) if peak.bytes else "-",
            "AdamW's state in that peak",
            format_bytes(adamw.state_bytes),
        )
    if profile.methods:
        least = min(profile.methods, key=lambda cost: cost.state_bytes)
        yield Tile(format_bytes(least.state_bytes), "Smallest optimizer state", least.method)
    largest = largest_content(profile)
    if largest is not None:
        yield Tile(format_bytes(largest.bytes), "Largest thing at the peak", largest.name)
    yield from _time_tiles(profile)


def _gradient_tiles(profile: Profile) -> Iterator[Tile]:
    layers = measured_layers(profile)
    needed = median_of([needed_share(layer) for layer in layers])
    kept = median_of([captured_share(layer, profile.settings.rank) for layer in layers])
    if needed is not None:
        yield Tile(
            percent(needed), "Directions for 95% of the energy", "the typical layer's gradient"
        )
    if kept is not None:
        rank = profile.settings.rank
        named = str(rank) if isinstance(rank, int) else f"{percent(rank)} of the short side"
        yield Tile(percent(kept), "Energy kept at the rank", f"rank {named}")
    before = median_of([_diagonal(layer, "raw") for layer in layers])
    after = [
        median_of([_diagonal(layer, basis) for layer in layers])
        for basis in ("one_sided", "two_sided", "covariance")
    ]
    best = max((value for value in after if value is not None), default=None)
    if before is not None and best is not None:
        yield Tile(
            f"{percent(before)} → {percent(best)}",
            "Diagonal before → after rotation",
            "of the second moment, best basis",
        )


def _life_tile(profile: Profile) -> Iterator[Tile]:
    for life in typical_lives(profile)[:1]:
        label = "A basis lasts"
        remark = f"{life.source}'s; {percent(life.after_one)} of the energy after one step"
        if life.is_noise:
            yield Tile("noise", label, f"the {life.source}'s basis is no better than chance")
        elif life.period is None:
            yield Tile(f"over {plural(life.lag, 'step')}", label, remark)
        else:
            yield Tile(plural(life.period, "step"), label, remark)


def _diagonal(layer: Layer, basis: str) -> float | None:
    found: Ratio | None = getattr(layer.diagonality, basis, None)
    return None if found is None else found.ratio


def _time_tiles(profile: Profile) -> Iterator[Tile]:
    for shape, _, timings in decompositions_by_shape(profile):
        found = decomposed_and_followed(timings)
        if found is not None:
            decomposed, followed = found
            yield Tile(
                format_ms(decomposed.ms_per_training_step),
                "Decomposition, per training step",
                f"{shape_text(shape)}: {decomposed.kernel}; online PCA {format_ms(followed.ms_per_training_step)}",
            )
            return


def environment_parts(profile: Profile) -> list[Part]:
    """Return where and how the numbers were taken, and what is missing."""
    environment, settings, target = profile.environment, profile.settings, profile.target
    sizes = ("gpu_mem_bytes", "max_memory_bytes")
    settled = {
        name: format_bytes(value) if name in sizes else str(value)
        for name, value in settings.model_dump().items()
        if value is not None
    }
    line = f", line {target.line}" if target.line else ""
    found = {
        "model": f"{target.spec} ({target.picked}{line})",
        "file": target.file or "-",
        "its SHA-256": target.sha256 or "-",
        "arguments": ", ".join(f"{key}={value}" for key, value in target.kwargs.items()) or "none",
        "versions": f"subopt {environment.subopt}, torch {environment.torch}, Python {environment.python}",
        "platform": environment.platform,
        "device": f"{environment.device}, {plural(environment.threads, 'thread')}",
        "GPU": _gpu_text(environment.gpu) if environment.gpu else "none",
        "settings": ", ".join(
            f"{name.removesuffix('_bytes')} {text}" for name, text in settled.items()
        ),
    }
    pairs = list(found.items())
    pairs += [("earlier runs", line) for line in map(words, earlier_runs(profile.calibration))]
    pairs += [("missing", line) for line in profile.missing] or [("missing", "nothing")]
    return [Facts(pairs)]


def _gpu_text(gpu: Gpu) -> str:
    total, free = format_bytes(gpu.total_bytes), format_bytes(gpu.free_bytes)
    return f"{gpu.name}, {total}, {free} free, driver {gpu.driver}"
