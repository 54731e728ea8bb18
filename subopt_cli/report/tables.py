"""The tables: methods, memory and what would free more, every parameter's role, the profile's own time."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING

from ..findings.common import cost_of
from ..terminal.methods import fits_text, signed_bytes, signed_ms
from ..text import count, percent, plural, shape_text
from ..units import format_bytes, format_ms
from .parts import Cell, Column, Columns, Table, rows_of

if TYPE_CHECKING:
    from subopt.profilers.record.profile import (
        Content,
        Decomposition,
        Layer,
        MethodCost,
        Profile,
        Saving,
        Spent,
    )

DASH = Cell("-")


def method_tables(profile: Profile, usable_bytes: int | None) -> list[Table]:
    """Return the method table; columns that hold nothing for any method are left out."""
    if not profile.methods:
        return []
    columns = _method_columns(profile, usable_bytes)
    rows = rows_of(columns, profile.methods)
    used = [i for i in range(len(columns)) if any(row[i].text != "-" for row in rows)]
    return [
        Table(
            "methods",
            "Methods on this model",
            "Click a heading to sort. State: what the optimizer keeps between two steps, to the byte. Peak: highest "
            "memory of a training step, the phase that sets it, and what it is at most with what the device itself "
            "takes. FLOPs: the optimizer's arithmetic as a share of a forward and backward pass, the papers' bound on "
            "the rotation and all of it as used here. Time: measured, beyond that of a step with AdamW.",
            [columns[index] for index in used],
            [[row[index] for index in used] for row in rows],
        )
    ]


def _method_columns(profile: Profile, usable_bytes: int | None) -> Columns[MethodCost]:
    adamw = cost_of(profile, "adamw")
    baseline = adamw.state_bytes if adamw else 0
    return (
        Column("method", "text", lambda cost: Cell(cost.method)),
        Column("state", cell=lambda cost: _bytes(cost.state_bytes)),
        Column("of AdamW's", cell=lambda cost: _share(cost.state_bytes, baseline)),
        Column("peak", cell=lambda cost: _bytes(cost.peak.bytes if cost.peak else None)),
        Column("at most", cell=lambda cost: _bytes(cost.peak.high_bytes if cost.peak else None)),
        Column("set by", "text", lambda cost: Cell(cost.peak.phase if cost.peak else "-")),
        Column("fits", "text", lambda cost: Cell(fits_text(cost.peak, usable_bytes))),
        Column("temporary", cell=lambda cost: _bytes(cost.transient_bytes)),
        Column("weights", cell=lambda cost: _weights(-cost.weight_bytes_saved)),
        Column("FLOPs, bound", cell=lambda cost: _share(cost.bound_relative)),
        Column("FLOPs, here", cell=lambda cost: _share(cost.relative_flops)),
        Column("time a step", cell=lambda cost: _ms(cost.overhead_ms, signed_ms)),
        Column("refresh", cell=lambda cost: _ms(cost.refresh_ms)),
        Column("staggered", cell=lambda cost: _ms(cost.staggered_ms)),
        Column("options", "text", lambda cost: Cell(_options(cost) or "-")),
    )


def _options(cost: MethodCost) -> str:
    return ", ".join(f"{key}={value}" for key, value in cost.options.items())


def _weights(more: int) -> Cell:
    return Cell(signed_bytes(more), more) if more else DASH


def _ms(value: float | None, text_of: Callable[[float | None], str] = format_ms) -> Cell:
    return DASH if value is None else Cell(text_of(value), value)


def _bytes(size: int | None) -> Cell:
    return DASH if size is None else Cell(format_bytes(size), size, title=f"{size:,} bytes")


def _share(part: float | None, whole: float | None = 1.0, digits: int = 3) -> Cell:
    if part is None or not whole:
        return DASH
    return Cell(percent(part / whole, digits), part / whole)


def memory_tables(profile: Profile) -> list[Table]:
    """Return the largest things alive at the peak, and changes beside the optimizer that would free memory."""
    memory, peak = profile.memory, profile.memory.peak_bytes
    tables = []
    if memory.contents:
        contents: Columns[Content] = (
            Column("what", "prose", lambda one: Cell(one.name)),
            Column("module", "text", lambda one: Cell(one.category)),
            Column("size", cell=lambda one: _part(one.bytes, peak)),
            Column("of the peak", cell=lambda one: _share(one.bytes, peak, digits=2)),
        )
        title = "What is in memory at the peak, with plain AdamW"
        rows = rows_of(contents, memory.contents)
        tables.append(Table("contents", title, "", contents, rows, is_wide=False))
    if memory.savings:
        savings: Columns[Saving] = (
            Column("change", "prose", lambda one: Cell(one.change)),
            Column("frees at least", cell=lambda one: _part(one.bytes, peak)),
            Column("of the peak", cell=lambda one: _share(one.bytes, peak, digits=2)),
        )
        title = "What would free memory, other than the optimizer"
        rows = rows_of(savings, memory.savings)
        tables.append(Table("savings", title, "", savings, rows, is_wide=False))
    return tables


def _part(size: int, whole: int | None) -> Cell:
    bar = min(1.0, size / whole) if whole else None
    return Cell(format_bytes(size), size, bar, title=f"{size:,} bytes")


def parameter_table(profile: Profile) -> list[Table]:
    """Return every parameter with its role and the reason for it."""
    columns: Columns[Layer] = (
        Column("parameter", "text", lambda layer: Cell(layer.name)),
        Column("shape", cell=lambda layer: Cell(shape_text(layer.shape), prod(layer.shape))),
        Column("numbers", cell=lambda layer: Cell(count(prod(layer.shape)), prod(layer.shape))),
        Column("of a", "text", lambda layer: Cell(layer.module_type)),
        Column("role", "text", lambda layer: Cell(layer.role)),
        Column("reason", "prose", lambda layer: Cell(layer.reason)),
    )
    rows = rows_of(columns, profile.layers)
    caption = "matrix: the method itself trains it; fallback: AdamW or what the method names instead; frozen: nothing."
    return [
        Table(
            "parameters",
            "Role of every parameter",
            caption,
            columns,
            rows,
            has_filter=True,
            is_folded=True,
        )
    ]


def spent_table(profile: Profile) -> list[Table]:
    """Return where the profile's own time went."""
    if not profile.spent:
        return []
    total = sum(one.seconds for one in profile.spent)

    def share(one: Spent) -> float | None:
        return one.seconds / total if total else None

    columns: Columns[Spent] = (
        Column("on", "text", lambda one: Cell(one.on)),
        Column(
            "time", cell=lambda one: Cell(format_ms(1000 * one.seconds), one.seconds, share(one))
        ),
        Column("share", cell=lambda one: Cell(percent(share(one)), one.seconds)),
    )
    passes = f"{profile.passes} forward and backward passes were taken. " if profile.passes else ""
    caption = f"{passes}{format_ms(1000 * total)} in all."
    return [
        Table("spent", "Where the time went", caption, columns, rows_of(columns, profile.spent))
    ]


def decomposition_tables(profile: Profile) -> list[Table]:
    """Return every timing."""
    timings = profile.decompositions
    if not timings:
        return []
    columns: Columns[Decomposition] = (
        Column("shape", cell=lambda one: Cell(shape_text(one.shape), prod(one.shape))),
        Column("rank", cell=lambda one: Cell(str(one.rank), one.rank)),
        Column("way", "text", lambda one: Cell(one.kernel)),
        Column("routine", "text", lambda one: Cell(one.driver or "-")),
        Column("median", cell=lambda one: _ms(one.median_ms)),
        Column("middle half", cell=lambda one: _ms(one.iqr_ms)),
        Column("times online PCA", cell=_times_online_pca),
        Column("run every", cell=_period),
        Column("per training step", cell=lambda one: _ms(one.ms_per_training_step)),
        Column("as in", "prose", lambda one: Cell(one.used_by or "-")),
    )
    caption = f"Taken on {timings[0].device}."
    return [Table("timings", "All timings", caption, columns, rows_of(columns, timings))]


def _times_online_pca(timing: Decomposition) -> Cell:
    return Cell(f"{timing.times_online_pca:.3g}x", timing.times_online_pca)


def _period(timing: Decomposition) -> Cell:
    return DASH if timing.period is None else Cell(plural(timing.period, "step"), timing.period)
