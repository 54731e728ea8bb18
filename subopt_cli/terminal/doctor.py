"""The environment block of a bug report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from ..text import DASH, facts, plural
from ..units import format_bytes
from .table import Columns, TerminalColumn, full_table

if TYPE_CHECKING:
    from subopt.profilers.history.accuracy import Accuracy, HistorySummary
    from subopt.profilers.record.cost import Ratios
    from subopt.profilers.record.profile import Environment, Gpu

CROWDED_SHARE = 0.1  # of a GPU's memory: what others use beyond this changes peaks and times


def environment_facts(environment: Environment, gpu: Gpu | None) -> RenderableType:
    """Return versions, platform, the device in use, and the GPU that the driver reports."""
    pairs = [
        ("subopt", environment.subopt),
        ("torch", environment.torch),
        ("python", environment.python),
        ("platform", environment.platform),
        ("device", f"{environment.device}, {plural(environment.threads, 'thread')}"),
    ]
    if gpu is None:
        pairs.append(("gpu", "none that an NVIDIA driver knows of"))
    else:
        memory = f"{format_bytes(gpu.free_bytes)} of {format_bytes(gpu.total_bytes)} free"
        others = plural(gpu.other_processes, "other process", "other processes")
        pairs.append(("gpu", f"{gpu.name}, {memory}, driver {gpu.driver}, {others}"))
    return facts(pairs)


def concerns(environment: Environment, gpu: Gpu | None) -> list[str]:
    """Return what would make numbers taken here wrong or unsteady."""
    if gpu is None:
        return []
    found = []
    if environment.device == "cpu":
        found.append(f"there is a {gpu.name}, but torch {environment.torch} works on the CPU here")
    if gpu.used_bytes > CROWDED_SHARE * gpu.total_bytes:
        used = format_bytes(gpu.used_bytes)
        found.append(f"{used} of the GPU's memory is in use: peaks and times taken now would vary")
    return found


def history_table(kept: HistorySummary) -> RenderableType:
    """Return how many runs are stored and, by device, actual over predicted: the median, the least and the largest."""
    if kept.file is None:
        return facts([("earlier runs", "not stored: SUBOPT_STATE=off")])
    if not kept.runs:
        return facts([("earlier runs", f"none yet; subopt train adds them to {kept.file}")])
    columns: Columns[Accuracy] = (
        TerminalColumn("device", is_text=True, cell=lambda row: row.device),
        TerminalColumn("precision", is_text=True, cell=lambda row: row.precision),
        TerminalColumn("runs", cell=lambda row: str(row.runs)),
        TerminalColumn("state", cell=lambda row: _text(row.state)),
        TerminalColumn("peak", cell=lambda row: _text(row.peak)),
        TerminalColumn("step", cell=lambda row: _text(row.step_ms)),
    )
    title = (
        f"actual / predicted of {plural(kept.runs, 'earlier run')}, the median (least to largest):"
    )
    table = full_table(columns, kept.accuracy)
    return Group(facts([("earlier runs", kept.file)]), Text(title, "dim"), table)


def _text(ratios: Ratios | None) -> str:
    if ratios is None:
        return DASH
    return f"{ratios.median:.2f} ({ratios.least:.2f} to {ratios.largest:.2f})"
