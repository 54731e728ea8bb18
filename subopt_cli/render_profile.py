"""The terminal report of a profile: every function takes the record and returns something to print."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from rich.console import RenderableType

from .readings import measured_layers
from .render_decompositions import DECOMPOSITION_LEGEND, decomposition_tables
from .render_layers import LAYER_LEGEND, layer_table
from .render_methods import method_legend, method_table
from .render_sentences import sentences
from .render_text import count, facts, numbered, plural, section
from .units import format_bytes

if TYPE_CHECKING:
    from subopt.profilers.schema import Layer, Profile

MISSING_SHOWN = 2


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
        glossary += LAYER_LEGEND
    if profile.methods:
        table = method_table(profile.methods, usable_bytes=usable_bytes)
        parts.append(section(f"Methods on this model{_peak_source(profile)}", table))
        glossary += method_legend(profile.methods, usable_bytes=usable_bytes)
    if profile.decompositions:
        parts.append(section("SVD against online PCA", *decomposition_tables(profile)))
        glossary += DECOMPOSITION_LEGEND
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
