"""The method table: what each optimizer keeps, needs and costs. Shared by `profile` and `methods`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from ..text import DASH, count, percent, signed
from ..units import format_bytes, format_ms
from .table import Columns, TerminalColumn, fitting_table, full_table, noted, used_columns

if TYPE_CHECKING:
    from subopt.optimizers import Method
    from subopt.profilers.record.profile import MethodCost, Peak

_COLUMNS: Columns[Any] = (
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

_LEGEND = {
    "state": "what the optimizer keeps between two steps, to the byte",
    "weights": "what low-rank layers take off the model's weights, at their largest ranks",
    "temporary": "the most it needs on top of that while it updates one layer",
    "peak": "highest memory of a training step; 'set by' is the phase that reaches it",
    "fits": "whether that peak fits; 'maybe' where it lies within the estimate's error",
    "FLOPs": "the optimizer's arithmetic as a share of the model's own forward and backward pass: 'bound' is the "
    "papers' limit on what the rotation adds, 'here' is all of it at the options used",
    "time": "measured time of a step beyond that of one with plain AdamW, the two interleaved",
}
_LEGEND_OF = {"FLOPs,\nhere": "FLOPs", "time\na step": "time"}  # where a heading says more


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
    shown = {cost.method for cost in costs}
    remarks = {name: text for name, text in (remarks or {}).items() if name in shown}
    rows = _rows(costs, baseline, usable_bytes, remarks)
    notes = [f"* {name}: {remark}" for name, remark in remarks.items()]
    return noted(fitting_table(_COLUMNS, rows), *notes)


def method_legend(
    costs: Sequence[MethodCost], *, usable_bytes: int | None = None
) -> dict[str, str]:
    """Return what the columns of the method table mean, those that hold something."""
    rows = _rows(costs, None, usable_bytes, ())
    headers = [_COLUMNS[index].header for index in used_columns(rows)]
    names = {_LEGEND_OF.get(header, header) for header in headers}
    return {name: meaning for name, meaning in _LEGEND.items() if name in names}


def _rows(
    costs: Sequence[MethodCost],
    baseline_bytes: int | None,
    usable_bytes: int | None,
    remarks: Collection[str],
) -> list[list[str]]:
    has_shares = any(cost.relative_flops is not None for cost in costs)
    return [
        [
            cost.method + ("*" if cost.method in remarks else ""),
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
        for cost in costs
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
    columns: Columns[Method] = (
        TerminalColumn("method", is_text=True, cell=lambda method: method.name),
        TerminalColumn("keeps", priority=1, wraps=True, cell=lambda method: method.state_formula),
        TerminalColumn("what it does", wraps=True, cell=lambda method: method.summary),
        TerminalColumn("from", 2, wraps=True, cell=lambda one: f"{one.paper}, {one.section}"),
    )
    note = "keeps: numbers of state for an m x n matrix, m <= n, at rank r. Costs: --shape 1024x4096, --arch llama-60m"
    return Group(full_table(columns, methods), *missing_extras(methods), Text(note, style="dim"))


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
