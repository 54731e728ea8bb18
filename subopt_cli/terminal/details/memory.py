"""Memory: the peak of every phase by method, what fills it, and what would free it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from ...findings.common import leanest_method
from ...text import DASH, percent
from ...units import format_bytes
from ..table import Columns, TerminalColumn, fitting_table, full_table, item_table, noted

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Content, Memory, MethodCost, Peak, Profile

METHODS_SHOWN = 8
CONTENTS_SHOWN = 5
PEAK_MARK = "<"  # behind the phase that sets the peak

MEMORY_LEGEND = {
    "phases": "the most memory while the model runs forward, backward, in the optimizer's step, and in a step that "
    f"refreshes bases; '{PEAK_MARK}' marks the highest",
    "frees": "at least this much at the highest instant, each change by itself; another optimizer: AdamW's peak less "
    "the least peak of any method, at most",
}


def memory_tables(profile: Profile) -> list[RenderableType]:
    """Return the peaks by phase, what is alive at the peak, and what would free memory, as far as known."""
    parts: list[RenderableType] = []
    known = [cost for cost in profile.methods if cost.peak]
    if known:
        parts.append(_phase_table(known))
    if profile.memory.contents:
        parts += [
            Text("what fills the peak of plain AdamW", style="italic"),
            _contents(profile.memory),
        ]
    if profile.memory.savings:
        parts += [
            Text("what would free memory at that peak", style="italic"),
            _savings(profile.memory, leanest_method(profile)),
        ]
    return parts


def _phase_table(costs: list[MethodCost]) -> RenderableType:
    ordered = sorted(costs, key=lambda cost: cost.peak.bytes if cost.peak else 0)
    shown = [
        cost
        for number, cost in enumerate(ordered)
        if number < METHODS_SHOWN or cost.method == "adamw"
    ]
    columns: Columns[Any] = (
        TerminalColumn("method", is_text=True),
        TerminalColumn("forward", priority=2),
        TerminalColumn("backward", priority=1),
        TerminalColumn("step", priority=1),
        TerminalColumn("refresh", priority=1),
        TerminalColumn("at most", priority=3),
    )
    table = fitting_table(columns, [[cost.method, *_phases(cost.peak)] for cost in shown])
    hidden = len(ordered) - len(shown)
    return noted(table, f"least peak first; {hidden} more in the profile file" if hidden else None)


def _phases(peak: Peak | None) -> list[str]:
    if peak is None:
        return [DASH] * 5
    cells = []
    for phase in ("forward", "backward", "step", "refresh"):
        size = getattr(peak.by_phase, phase)
        mark = PEAK_MARK if phase == peak.phase else " "
        cells.append(DASH if size is None else f"{format_bytes(size)} {mark}")
    return [*cells, format_bytes(peak.high_bytes)]


def _contents(memory: Memory) -> RenderableType:
    peak = memory.peak_bytes
    columns: Columns[Content] = (
        TerminalColumn("at the peak", is_text=True, cell=lambda one: one.name),
        TerminalColumn("kind", priority=2, is_text=True, cell=lambda one: one.category),
        TerminalColumn("size", cell=lambda one: format_bytes(one.bytes)),
        TerminalColumn(
            "share", priority=1, cell=lambda one: percent(one.bytes / peak if peak else None)
        ),
    )
    return item_table(columns, memory.contents[:CONTENTS_SHOWN])


def _savings(memory: Memory, leanest: tuple[str, int] | None) -> RenderableType:
    rows = [(saving.change, saving.bytes, "") for saving in memory.savings[:CONTENTS_SHOWN]]
    if leanest is not None and leanest[1] > 0:
        method, size = leanest
        rows.append((f"another optimizer, at most ({method})", size, "bold"))
    rows.sort(key=lambda row: row[1], reverse=True)
    columns: Columns[tuple[str, int, str]] = (
        TerminalColumn("frees", is_text=True, cell=lambda row: format_bytes(row[1])),
        TerminalColumn("change", wraps=True, cell=lambda row: row[0]),
    )
    return full_table(columns, rows, [style for *_, style in rows])
