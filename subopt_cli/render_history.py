"""How accurate the predictions of earlier runs on this machine were."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from .render_table import Column, FittingTable
from .render_text import DASH, facts, plural

if TYPE_CHECKING:
    from subopt.profilers.cost_record import Ratios
    from subopt.profilers.kept_history import KeptHistory


def history_table(kept: KeptHistory) -> RenderableType:
    """Return how many runs are stored and, by device, actual over predicted: the median, the least and the largest."""
    if kept.file is None:
        return facts([("earlier runs", "not stored: SUBOPT_STATE=off")])
    if not kept.runs:
        return facts([("earlier runs", f"none yet; subopt train adds them to {kept.file}")])
    columns = (
        Column("device", is_text=True),
        Column("precision", is_text=True),
        Column("runs"),
        Column("state"),
        Column("peak"),
        Column("step"),
        Column("peak of the process", priority=1),
    )
    rows = [
        [
            row.device,
            row.precision,
            str(row.runs),
            *(_text(ratios) for ratios in (row.state, row.peak, row.step_ms, row.process_peak)),
        ]
        for row in kept.accuracy
    ]
    title = (
        f"actual / predicted of {plural(kept.runs, 'earlier run')}, the median (least to largest):"
    )
    return Group(
        facts([("earlier runs", kept.file)]), Text(title, "dim"), FittingTable(columns, rows)
    )


def _text(ratios: Ratios | None) -> str:
    if ratios is None:
        return DASH
    return f"{ratios.median:.2f} ({ratios.least:.2f} to {ratios.largest:.2f})"
