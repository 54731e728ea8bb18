"""The terminal report of a profile: every function takes the record and returns something to print."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, TypeAlias

from rich.console import RenderableType
from rich.text import Text

from subopt.recipes.advice.calibrated import earlier_runs

from ...findings.advice import words
from ...findings.common import batches_seen, measured_layers, parts_at_peak, training_steps
from ...findings.summary import profile_summary
from ...text import count, facts, numbered, percent, plural, section
from ...units import format_bytes, format_ms
from ..methods import method_legend, method_table
from .blocks import BLOCK_LEGEND, block_table
from .decompositions import DECOMPOSITION_LEGEND, SPIKE_LEGEND, decomposition_tables, spike_table
from .layers import LAYER_LEGEND, layer_table
from .memory import MEMORY_LEGEND, memory_tables
from .subspaces import SUBSPACE_LEGEND, subspace_tables

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Layer, Profile

MISSING_SHOWN = 2
SPENT_SHOWN = 5

_Table: TypeAlias = tuple[str, Sequence[RenderableType], Mapping[str, str]]


def profile_report(profile: Profile, *, usable_bytes: int | None = None) -> list[RenderableType]:
    """Return the sections of the report, in reading order.

    Args:
        profile: What was found out.
        usable_bytes: Memory a training run may fill, for the "fits" column of the method table.
    """
    parts = [section("What was measured", measured(profile))]
    glossary: dict[str, str] = {}
    for title, body, legend in _tables(profile, usable_bytes):
        parts.append(section(title, *body))
        glossary |= legend
    spent = spent_text(profile)
    if spent:
        parts.append(section("Where this profile's own time went", Text(spent)))
    parts.append(section("How to read this", facts(glossary.items())))
    found = profile_summary(profile)
    if found:
        parts.append(section("In short", numbered(found)))
    return parts


def _tables(profile: Profile, usable_bytes: int | None) -> Iterator[_Table]:
    """Yield the tables that have something to show: title, parts, and what their columns mean."""
    if measured_layers(profile):
        yield "Layers, widest spread first", [layer_table(profile)], LAYER_LEGEND
    subspaces, blocks = subspace_tables(profile), block_table(profile)
    if subspaces:
        yield "Subspaces, and what a basis holds of later gradients", subspaces, SUBSPACE_LEGEND
    if blocks is not None:
        yield "Blocks and inputs", [blocks], BLOCK_LEGEND
    if profile.methods:
        table = method_table(profile.methods, usable_bytes=usable_bytes)
        legend = method_legend(profile.methods, usable_bytes=usable_bytes)
        yield f"Methods on this model{_peak_source(profile)}", [table], legend
    memory = memory_tables(profile)
    if memory:
        yield f"Memory by phase{_peak_source(profile)}", memory, MEMORY_LEGEND
    if profile.decompositions:
        yield "SVD against online PCA", decomposition_tables(profile), DECOMPOSITION_LEGEND
    spikes = spike_table(profile)
    if spikes is not None:
        yield "Refresh spikes", [spikes], SPIKE_LEGEND


def measured(profile: Profile) -> RenderableType:
    """Return what the numbers were taken on: model, data, device, memory."""
    pairs = [
        ("model", _model_line(profile)),
        ("parameters", _parameter_line(profile.layers)),
        ("data", data_line(profile)),
        ("device", f"{device_line(profile)}, torch {profile.environment.torch}"),
        ("memory", _memory_line(profile)),
    ]
    earlier = [words(runs) for runs in earlier_runs(profile.calibration)]
    if earlier:
        pairs.append(("earlier runs", " ".join(earlier)))
    if profile.missing:
        rest = len(profile.missing) - MISSING_SHOWN
        more = f"; and {rest} more, in the profile file" if rest > 0 else ""
        pairs.append(("missing", "; ".join(profile.missing[:MISSING_SHOWN]) + more))
    return facts(pairs)


def model_name(profile: Profile) -> str:
    """Return the model's file with its arguments."""
    target = profile.target
    return target.spec + "".join(f" {key}={value}" for key, value in target.kwargs.items())


def _model_line(profile: Profile) -> str:
    target = profile.target
    where = f" (line {target.line})" if target.line is not None else ""
    return f"{model_name(profile)}: {target.picked}{where}"


def _parameter_line(layers: Sequence[Layer]) -> str:
    numbers = {"matrix": 0, "fallback": 0, "frozen": 0}
    for layer in layers:
        numbers[layer.role] += prod(layer.shape)
    matrices = sum(layer.role == "matrix" for layer in layers)
    text = (
        f"{count(sum(numbers.values()))}; the method trains {plural(matrices, 'matrix', 'matrices')} "
        f"({count(numbers['matrix'])}), its fallback the rest ({count(numbers['fallback'])})"
    )
    return text + (f"; {count(numbers['frozen'])} are frozen" if numbers["frozen"] else "")


def data_line(profile: Profile) -> str:
    """Return what the gradients are of, and after how many steps."""
    settings = profile.settings
    if settings.simulate:
        return "none: simulated from shapes, nothing was run"
    text = f"{plural(settings.batches, 'batch', 'batches')} of {settings.batch_size}"
    if settings.tokens_per_batch:
        text += f" ({settings.tokens_per_batch:,} tokens each)"
    if profile.target.files is not None:
        text += f" of {', '.join(profile.target.files.train)}"
    if batches_seen(profile) < settings.batches:
        text += f", each layer looked at on {batches_seen(profile)}"
    steps = training_steps(profile)
    if steps:
        text += f", after {plural(steps, 'training step')}"
    else:
        text += ", before any training (--warmup-steps 50 looks further in)"
    if profile.target.synthetic_data:
        text += "; SYNTHETIC: made-up inputs, so the gradients say little about real data"
    return text


def device_line(profile: Profile) -> str:
    """Return where the numbers were taken."""
    environment = profile.environment
    device = environment.gpu.name if environment.gpu is not None else environment.device
    threads = "" if environment.gpu else f", {plural(environment.threads, 'thread')}"
    return f"{device}{threads}, {profile.settings.dtype}"


def _memory_line(profile: Profile) -> str:
    memory = profile.memory
    parts = parts_at_peak(profile)
    if memory.peak_bytes is None:
        parts = [
            ("parameters", memory.parameter_bytes),
            ("gradients", memory.gradient_bytes),
            ("optimizer state", memory.optimizer_state_bytes),
        ]
    listed = ", ".join(f"{format_bytes(size)} {name}" for name, size in parts)
    peak = None if memory.peak_bytes is None else f"peak {format_bytes(memory.peak_bytes)}"
    return f"{': '.join(filter(None, [peak, listed]))} (plain AdamW, {memory.source})"


def _peak_source(profile: Profile) -> str:
    sources = sorted({cost.peak.source for cost in profile.methods if cost.peak})
    return f" (peak: {' or '.join(sources)})" if sources else ""


def spent_text(profile: Profile) -> str | None:
    """Return the share of the profile's own time that each quantity took; None where nothing was timed."""
    total_s = sum(item.seconds for item in profile.spent)
    if not total_s:
        return None
    ordered = sorted(profile.spent, key=lambda item: item.seconds, reverse=True)
    shares = [f"{item.on} {percent(item.seconds / total_s)}" for item in ordered[:SPENT_SHOWN]]
    rest_s = sum(item.seconds for item in ordered[SPENT_SHOWN:])
    if rest_s:
        shares.append(f"the rest {percent(rest_s / total_s)}")
    passes = plural(profile.passes, "forward and backward pass", "forward and backward passes")
    counted = f", {passes}" if profile.passes else ""
    return f"{format_ms(1000 * total_s)}{counted}: {', '.join(shares)}"
