"""The tables: methods, memory and what would free more, every parameter's role, the profile's own time."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from ..terminal.methods import fits_text, signed_bytes, signed_ms
from ..text import count, percent, plural, shape_text
from ..units import format_bytes, format_ms
from .parts import Cell, Column, Table

if TYPE_CHECKING:
    from subopt.profilers.record.profile import MethodCost, Profile

DASH = Cell("-")
_METHOD_COLUMNS = (
    Column("method", "text"),
    Column("state"),
    Column("of AdamW's"),
    Column("peak"),
    Column("at most"),
    Column("set by", "text"),
    Column("fits", "text"),
    Column("temporary"),
    Column("weights"),
    Column("FLOPs, bound"),
    Column("FLOPs, here"),
    Column("time a step"),
    Column("refresh"),
    Column("staggered"),
    Column("options", "text"),
)


def method_tables(profile: Profile, usable_bytes: int | None) -> list[Table]:
    """Return the method table; columns that hold nothing for any method are left out."""
    if not profile.methods:
        return []
    adamw = next((cost.state_bytes for cost in profile.methods if cost.method == "adamw"), None)
    rows = [_method_row(cost, adamw, usable_bytes) for cost in profile.methods]
    used = [i for i in range(len(_METHOD_COLUMNS)) if any(row[i].text != "-" for row in rows)]
    return [
        Table(
            "methods",
            "Methods on this model",
            "Click a heading to sort. State: what the optimizer keeps between two steps, to the byte. Peak: highest "
            "memory of a training step, the phase that sets it, and what it is at most with what the device itself "
            "takes. FLOPs: the optimizer's arithmetic as a share of a forward and backward pass, the papers' bound on "
            "the rotation and all of it as used here. Time: measured, beyond that of a step with AdamW.",
            [_METHOD_COLUMNS[index] for index in used],
            [[row[index] for index in used] for row in rows],
        )
    ]


def _method_row(cost: MethodCost, adamw_bytes: int | None, usable_bytes: int | None) -> list[Cell]:
    peak = cost.peak
    options = ", ".join(f"{key}={value}" for key, value in cost.options.items())
    return [
        Cell(cost.method),
        _bytes(cost.state_bytes),
        _share(cost.state_bytes / adamw_bytes if adamw_bytes else None),
        _bytes(peak.bytes if peak else None),
        _bytes(peak.high_bytes if peak else None),
        Cell(peak.phase if peak else "-"),
        Cell(fits_text(peak, usable_bytes)),
        _bytes(cost.transient_bytes),
        Cell(signed_bytes(-cost.weight_bytes_saved), -cost.weight_bytes_saved)
        if cost.weight_bytes_saved
        else DASH,
        _share(cost.bound_relative),
        _share(cost.relative_flops),
        _number(cost.overhead_ms, signed_ms(cost.overhead_ms)),
        _number(cost.refresh_ms, format_ms(cost.refresh_ms)),
        _number(cost.staggered_ms, format_ms(cost.staggered_ms)),
        Cell(options or "-"),
    ]


def _number(value: float | None, text: str) -> Cell:
    return DASH if value is None else Cell(text, value)


def _bytes(size: int | None) -> Cell:
    return DASH if size is None else Cell(format_bytes(size), size, title=f"{size:,} bytes")


def _share(share: float | None) -> Cell:
    return DASH if share is None else Cell(percent(share, digits=3), share)


def memory_tables(profile: Profile) -> list[Table]:
    """Return the largest things alive at the peak, and changes beside the optimizer that would free memory."""
    memory = profile.memory
    peak = memory.peak_bytes
    tables = []
    if memory.contents:
        rows = [
            [Cell(one.name), Cell(one.category), _part(one.bytes, peak), _share_of(one.bytes, peak)]
            for one in memory.contents
        ]
        columns = [
            Column("what", "prose"),
            Column("module", "text"),
            Column("size"),
            Column("of the peak"),
        ]
        title = "What is in memory at the peak, with plain AdamW"
        tables.append(Table("contents", title, "", columns, rows, is_wide=False))
    if memory.savings:
        rows = [
            [Cell(one.change), _part(one.bytes, peak), _share_of(one.bytes, peak)]
            for one in memory.savings
        ]
        columns = [Column("change", "prose"), Column("frees at least"), Column("of the peak")]
        title = "What would free memory beside the optimizer"
        tables.append(Table("savings", title, "", columns, rows, is_wide=False))
    return tables


def _part(size: int, whole: int | None) -> Cell:
    bar = min(1.0, size / whole) if whole else None
    return Cell(format_bytes(size), size, bar, title=f"{size:,} bytes")


def _share_of(size: int, whole: int | None) -> Cell:
    return Cell(percent(size / whole), size / whole) if whole else DASH


def parameter_table(profile: Profile) -> list[Table]:
    """Return every parameter with its role and the reason for it."""
    rows = [
        [
            Cell(layer.name),
            Cell(shape_text(layer.shape), prod(layer.shape)),
            Cell(count(prod(layer.shape)), prod(layer.shape)),
            Cell(layer.module_type),
            Cell(layer.role),
            Cell(layer.reason),
        ]
        for layer in profile.layers
    ]
    columns = [
        Column("parameter", "text"),
        Column("shape"),
        Column("numbers"),
        Column("of a", "text"),
        Column("role", "text"),
        Column("reason", "prose"),
    ]
    caption = "matrix: the method itself trains it; fallback: AdamW or what the method names instead; frozen: nothing."
    return [Table("parameters", "Role of every parameter", caption, columns, rows, has_filter=True)]


def spent_table(profile: Profile) -> list[Table]:
    """Return where the profile's own time went."""
    if not profile.spent:
        return []
    total = sum(one.seconds for one in profile.spent)
    rows = [
        [
            Cell(one.on),
            Cell(
                format_ms(1000 * one.seconds), one.seconds, one.seconds / total if total else None
            ),
            Cell(percent(one.seconds / total) if total else "-", one.seconds),
        ]
        for one in profile.spent
    ]
    columns = [Column("on", "text"), Column("time"), Column("share")]
    passes = f"{profile.passes} forward and backward passes were taken. " if profile.passes else ""
    return [
        Table(
            "spent",
            "Where the time went",
            f"{passes}{format_ms(1000 * total)} in all.",
            columns,
            rows,
        )
    ]


def decomposition_tables(profile: Profile) -> list[Table]:
    """Return every timing."""
    if not profile.decompositions:
        return []
    rows = [
        [
            Cell(shape_text(timing.shape), prod(timing.shape)),
            Cell(str(timing.rank), timing.rank),
            Cell(timing.kernel),
            Cell(timing.driver or "-"),
            Cell(format_ms(timing.median_ms), timing.median_ms),
            Cell(format_ms(timing.iqr_ms), timing.iqr_ms),
            Cell(f"{timing.times_online_pca:.3g}x", timing.times_online_pca),
            DASH if timing.period is None else Cell(plural(timing.period, "step"), timing.period),
            Cell(format_ms(timing.ms_per_training_step), timing.ms_per_training_step),
            Cell(timing.used_by or "-"),
        ]
        for timing in profile.decompositions
    ]
    columns = [
        Column("shape"),
        Column("rank"),
        Column("way", "text"),
        Column("routine", "text"),
        Column("median"),
        Column("middle half"),
        Column("times online PCA"),
        Column("run every"),
        Column("per training step"),
        Column("as in", "prose"),
    ]
    device = profile.decompositions[0].device
    return [Table("timings", "All timings", f"Taken on {device}.", columns, rows)]
