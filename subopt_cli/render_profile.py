"""The terminal report of a profile: every function takes the record and returns something to print."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from .readings import (
    decompositions_by_shape,
    kept_share,
    measured_layers,
    needed_share,
    spread_share,
)
from .render_methods import method_legend, method_table
from .render_sentences import sentences
from .render_table import Column, FittingTable
from .render_text import (
    DASH,
    count,
    facts,
    numbered,
    percent,
    plural,
    ratio,
    section,
    shape_text,
    times,
)
from .units import format_bytes, format_ms

if TYPE_CHECKING:
    from subopt.profilers.schema import Decomposition, Layer, Profile, Ratio

LAYER_ROWS = 12
DECOMPOSITION_SHAPES = 2
MISSING_SHOWN = 2

_LAYER_COLUMNS = (
    Column("layer", is_text=True),
    Column("shape", priority=4),
    Column("spread"),
    Column("stable\nrank", priority=7),
    Column("90%\nin", priority=6),
    Column("95%\nin", priority=1),
    Column("kept\nat r", priority=2),
    Column("diagonal\nas is", priority=3),
    Column("one\nside", priority=3),
    Column("two\nsides", priority=3),
    Column("pure\nnoise", priority=5),
    Column("unbiased\nas is", priority=8),
    Column("unbiased\none side", priority=8),
    Column("unbiased\ntwo sides", priority=8),
)
_LAYER_LEGEND = (
    (
        "spread",
        "effective rank of the gradient over its short side: 100% means that every direction matters alike",
    ),
    ("95% in", "share of the directions that together hold 95% of the gradient's energy"),
    ("kept at r", "energy that a low-rank method keeps at the rank asked for (--rank)"),
    (
        "diagonal",
        "share of the gradients' second moment that a method which treats every weight by itself, as Adam does, can "
        "see: in the layer's own coordinates, and rotated on one side or both; 'pure noise': of random gradients",
    ),
)
_DECOMPOSITION_LEGEND = (
    (
        "svd, PCA",
        "two ways to find the coordinates: decompose the gradient now and then, or follow it a little at every step; "
        "'per step' is its cost to a training step, all layers of that shape together",
    ),
)


def profile_report(profile: Profile, *, usable_bytes: int | None = None) -> list[RenderableType]:
    """Return the sections of the report, in reading order.

    Args:
        profile: What was found out.
        usable_bytes: Memory a training run may fill, for the "fits" column of the method table.
    """
    parts = [section("What was measured", measured(profile))]
    glossary: list[tuple[str, str]] = []
    if measured_layers(profile):
        parts.append(section("Layers, widest spread first", layer_table(profile)))
        glossary += _LAYER_LEGEND
    if profile.methods:
        table = method_table(profile.methods, usable_bytes=usable_bytes)
        parts.append(section(f"Methods on this model{_peak_source(profile)}", table))
        glossary += method_legend(profile.methods, usable_bytes=usable_bytes)
    if profile.decompositions:
        parts.append(section("SVD against online PCA", *decomposition_tables(profile)))
        glossary += _DECOMPOSITION_LEGEND
    parts.append(section("How to read this", facts(glossary)))
    told = sentences(profile)
    if told:
        parts.append(section("In short", numbered(told)))
    return parts


def measured(profile: Profile) -> RenderableType:
    """Return what the numbers were taken on: model, data, device, memory."""
    pairs = [
        ("model", _model_line(profile)),
        ("parameters", _parameter_line(profile.layers)),
        ("data", _data_line(profile)),
        ("device", _device_line(profile)),
        ("memory", _memory_line(profile)),
    ]
    if profile.missing:
        rest = len(profile.missing) - MISSING_SHOWN
        more = f"; and {rest} more, in the profile file" if rest > 0 else ""
        pairs.append(("missing", "; ".join(profile.missing[:MISSING_SHOWN]) + more))
    return facts(pairs)


def _model_line(profile: Profile) -> str:
    target = profile.target
    kwargs = "".join(f" {key}={value}" for key, value in target.kwargs.items())
    where = f" (line {target.line})" if target.line is not None else ""
    return f"{target.spec}{kwargs}: {target.picked}{where}"


def _parameter_line(layers: Sequence[Layer]) -> str:
    numbers = {"matrix": 0, "fallback": 0, "frozen": 0}
    for layer in layers:
        numbers[layer.treatment] += prod(layer.shape)
    matrices = sum(layer.treatment == "matrix" for layer in layers)
    text = (
        f"{count(sum(numbers.values()))}; the method trains {plural(matrices, 'matrix', 'matrices')} "
        f"({count(numbers['matrix'])}), its fallback the rest ({count(numbers['fallback'])})"
    )
    return text + (f"; {count(numbers['frozen'])} are frozen" if numbers["frozen"] else "")


def _data_line(profile: Profile) -> str:
    settings = profile.settings
    if settings.simulate:
        return "none: simulated from shapes, nothing was run"
    text = f"{plural(settings.batches, 'batch', 'batches')} of {settings.batch_size}"
    if settings.tokens_per_batch:
        text += f" ({settings.tokens_per_batch:,} tokens each)"
    if settings.warmup_steps:
        text += f", after {plural(settings.warmup_steps, 'training step')}"
    else:
        text += ", before any training (--warmup-steps 50 looks further in)"
    if profile.target.synthetic_data:
        text += "; SYNTHETIC: made-up inputs, so the gradients say little about real data"
    return text


def _device_line(profile: Profile) -> str:
    environment = profile.environment
    device = environment.gpu.name if environment.gpu is not None else environment.device
    threads = "" if environment.gpu else f", {plural(environment.threads, 'thread')}"
    return f"{device}{threads}, {profile.settings.dtype}, torch {environment.torch}"


def _memory_line(profile: Profile) -> str:
    memory = profile.memory
    parts = (
        (memory.parameter_bytes, "parameters"),
        (memory.gradient_bytes, "gradients"),
        (memory.optimizer_state_bytes, "optimizer state"),
        (memory.activation_bytes, "activations"),
        (memory.temporary_bytes, "temporaries"),
    )
    listed = ", ".join(f"{format_bytes(size)} {name}" for size, name in parts if size is not None)
    peak = f"peak {format_bytes(memory.peak_bytes)}: " if memory.peak_bytes is not None else ""
    return f"{peak}{listed} (plain AdamW, {memory.source})"


def _peak_source(profile: Profile) -> str:
    sources = sorted({cost.peak.source for cost in profile.methods if cost.peak})
    return f" (peak: {' or '.join(sources)})" if sources else ""


def layer_table(profile: Profile) -> RenderableType:
    """Return the matrices with their gradient's spread and diagonality, the widest spread first."""
    layers = measured_layers(profile)
    rank = profile.settings.rank
    rows = [_layer_row(layer, rank) for layer in layers[:LAYER_ROWS]]
    notes = list(_layer_notes(layers))
    return Group(FittingTable(_LAYER_COLUMNS, rows), *(Text(note, style="dim") for note in notes))


def _layer_row(layer: Layer, rank: int | float) -> list[str]:
    diagonality = layer.diagonality
    bases = (
        (diagonality.raw, diagonality.one_sided, diagonality.two_sided)
        if diagonality
        else [None] * 3
    )
    return [
        layer.name.removesuffix(".weight"),
        shape_text(layer.shape),
        percent(spread_share(layer)),
        f"{layer.spectrum.stable_rank.mean:.1f}" if layer.spectrum else DASH,
        percent(needed_share(layer, "0.90")),
        percent(needed_share(layer, "0.95")),
        percent(kept_share(layer, rank)),
        *(_diagonal_text(value) for value in bases),
        percent(diagonality.white_noise.get("raw")) if diagonality else DASH,
        *(ratio(value.unbiased) if value else DASH for value in bases),
    ]


def _diagonal_text(value: Ratio | None) -> str:
    if value is None:
        return DASH
    return percent(value.ratio) + ("*" if value.in_sample else "")


def _layer_notes(layers: Sequence[Layer]) -> Iterator[str]:
    if len(layers) > LAYER_ROWS:
        yield f"and {len(layers) - LAYER_ROWS} more, in the profile file"
    if any(_is_in_sample(layer) for layer in layers):
        yield "* judged on the gradients it was fitted to, so too good: use more batches"


def _is_in_sample(layer: Layer) -> bool:
    bases = layer.diagonality
    return bases is not None and any(
        value is not None and value.in_sample for value in (bases.one_sided, bases.two_sided)
    )


def decomposition_tables(profile: Profile) -> list[RenderableType]:
    """Return a table of timings for each of the largest shapes."""
    groups = decompositions_by_shape(profile)
    parts: list[RenderableType] = []
    for shape, rank, timings in groups[:DECOMPOSITION_SHAPES]:
        parts.extend((
            Text(f"{shape_text(shape)}, rank {rank}, on {timings[0].device}", style="italic"),
            _timing_table(timings),
        ))
    if len(groups) > DECOMPOSITION_SHAPES:
        more = plural(len(groups) - DECOMPOSITION_SHAPES, "more shape")
        parts.append(Text(f"and {more}, in the profile file", style="dim"))
    return parts


def _timing_table(timings: Sequence[Decomposition]) -> FittingTable:
    columns = (
        Column("way", is_text=True),
        Column("median", priority=1),
        Column("spread (IQR)", priority=3),
        Column("times PCA", priority=2),
        Column("per step"),
    )
    rows = [
        [
            timing.kernel,
            format_ms(timing.median_ms),
            format_ms(timing.iqr_ms),
            times(timing.times_online_pca),
            format_ms(timing.ms_per_training_step),
        ]
        for timing in timings
    ]
    return FittingTable(columns, rows)
