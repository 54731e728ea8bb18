"""The method table: what each optimizer keeps, needs and costs. Shared by `profile` and `methods`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from ..text import DASH, count, percent, signed
from ..units import format_bytes, format_ms
from .table import FittingTable, TerminalColumn, fitting_table, used_columns

if TYPE_CHECKING:
    from subopt.optimizers import Method
    from subopt.profilers.record.profile import MethodCost, Peak

_COLUMNS = (
    TerminalColumn("method", is_text=True),
    TerminalColumn("state"),
    TerminalColumn("share of\nAdamW's", priority=5),
    TerminalColumn("weights", priority=6),
    TerminalColumn("temporary", priority=7),
    TerminalColumn("peak", priority=1),
    TerminalColumn("set by", priority=6, is_text=True),
    TerminalColumn("fits", priority=2, is_text=True),
    TerminalColumn("FLOPs,\nbound", priority=4),
    TerminalColumn("FLOPs,\nhere", priority=3),
    TerminalColumn("FLOPs\na step", priority=4),
    TerminalColumn("time\na step", priority=2),
)

_LEGEND = (
    ("state", "state", "what the optimizer keeps between two steps, to the byte"),
    (
        "weights",
        "weights",
        "what low-rank layers take off the model's weights, at their largest ranks",
    ),
    ("temporary", "temporary", "the most it needs beside that while it updates one layer"),
    ("peak", "peak", "highest memory of a training step; 'set by' is the phase that reaches it"),
    ("fits", "fits", "whether that peak fits; 'maybe' where it lies within the estimate's error"),
    (
        "FLOPs,\nhere",
        "FLOPs",
        "the optimizer's arithmetic as a share of the model's own forward and backward pass: 'bound' is the "
        "papers' limit on what the rotation adds, 'here' is all of it at the options used",
    ),
    (
        "time\na step",
        "time",
        "measured time of a step beyond that of one with plain AdamW, the two taken in turn",
    ),
)


def method_table(
    costs: Sequence[MethodCost],
    *,
    usable_bytes: int | None = None,
    remarks: Mapping[str, str] | None = None,
) -> RenderableType:
    """Return the method table; columns that hold nothing for any method are left out.

    Args:
        costs: One entry for each method.
        usable_bytes: Memory a training run may fill, for the "fits" column.
        remarks: Method ids, and what must be said about their row.
    """
    baseline = next((cost.state_bytes for cost in costs if cost.method == "adamw"), None)
    remarks = {name: text for name, text in (remarks or {}).items() if _names(costs, name)}
    rows = _rows(costs, baseline, usable_bytes, remarks)
    notes = [Text(f"* {name}: {remark}", style="dim") for name, remark in remarks.items()]
    return Group(fitting_table(_COLUMNS, rows), *notes)


def method_legend(
    costs: Sequence[MethodCost], *, usable_bytes: int | None = None
) -> list[tuple[str, str]]:
    """Return what the columns of the method table mean, those that hold something."""
    rows = _rows(costs, None, usable_bytes, ())
    headers = {_COLUMNS[index].header for index in used_columns(rows)}
    return [(name, meaning) for header, name, meaning in _LEGEND if header in headers]


def _names(costs: Sequence[MethodCost], name: str) -> bool:
    return any(cost.method == name for cost in costs)


def _rows(
    costs: Sequence[MethodCost],
    baseline_bytes: int | None,
    usable_bytes: int | None,
    remarks: Collection[str],
) -> list[list[str]]:
    has_shares = any(cost.relative_flops is not None for cost in costs)
    return [
        _row(
            cost,
            baseline_bytes,
            usable_bytes,
            marked=cost.method in remarks,
            has_shares=has_shares,
        )
        for cost in costs
    ]


def _row(
    cost: MethodCost,
    baseline_bytes: int | None,
    usable_bytes: int | None,
    *,
    marked: bool,
    has_shares: bool,
) -> list[str]:
    return [
        cost.method + ("*" if marked else ""),
        format_bytes(cost.state_bytes),
        percent(cost.state_bytes / baseline_bytes) if baseline_bytes else DASH,
        signed_bytes(-cost.weight_bytes_saved) if cost.weight_bytes_saved else DASH,
        format_bytes(cost.transient_bytes),
        format_bytes(cost.peak.bytes) if cost.peak else DASH,
        cost.peak.phase if cost.peak else DASH,
        fits_text(cost.peak, usable_bytes),
        percent(cost.bound_relative, digits=3),
        percent(cost.relative_flops, digits=3),
        DASH if has_shares else count(cost.step_flops),
        signed_ms(cost.overhead_ms),
    ]


def fits_text(peak: Peak | None, usable_bytes: int | None) -> str:
    """Return `yes`, `no`, or `maybe` where the peak's interval holds the limit; a dash if either is unknown."""
    if peak is None or usable_bytes is None:
        return DASH
    if peak.high_bytes <= usable_bytes:
        return "yes"
    return "no" if peak.low_bytes > usable_bytes else "maybe"


def signed_bytes(count: int) -> str:
    """Return a difference such as `+3 MiB` or `-1.2 GiB`."""
    return signed(count, format_bytes(abs(count)))


def signed_ms(overhead_ms: float | None) -> str:
    """Return an overhead such as `+3.1 ms`, or `-0.2 ms` where a method is faster."""
    if overhead_ms is None:
        return DASH
    if overhead_ms == 0:
        return "0 ms"
    return signed(overhead_ms, format_ms(abs(overhead_ms)))


def method_list(methods: Sequence[Method]) -> RenderableType:
    """Return the methods with what they do and what they keep for an m x n matrix, m <= n, at rank r."""
    columns = (
        TerminalColumn("method", is_text=True),
        TerminalColumn("keeps", priority=1, wraps=True),
        TerminalColumn("what it does", wraps=True),
        TerminalColumn("from", priority=2, wraps=True),
    )
    rows = [
        [method.name, method.state_formula, method.summary, f"{method.paper}, {method.section}"]
        for method in methods
    ]
    note = "keeps: numbers of state for an m x n matrix, m <= n, at rank r. Costs: --shape 1024x4096, --arch llama-60m"
    return Group(FittingTable(columns, rows), *missing_extras(methods), Text(note, style="dim"))


def missing_extras(methods: Iterable[Method]) -> list[RenderableType]:
    """Return a line for every extra that some of the methods need and that is not installed."""
    needed: dict[str, list[str]] = {}
    for method in methods:
        extra = method.missing_extra()
        if extra is not None:
            needed.setdefault(extra, []).append(method.name)
    return [
        Text(f"not installed: {', '.join(names)} (pip install 'subopt[{extra}]')", style="dim")
        for extra, names in needed.items()
    ]
