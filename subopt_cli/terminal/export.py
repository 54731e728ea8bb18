"""The tables that an export wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType

from .table import FittingTable, TerminalColumn

if TYPE_CHECKING:
    from subopt.profilers.export.table import ExportTable


def written_tables(
    files: Sequence[Path], rows: Sequence[int], tables: Mapping[str, ExportTable]
) -> RenderableType:
    """Return the files with their numbers of rows, and what a row of each is."""
    columns = (
        TerminalColumn("file", is_text=True),
        TerminalColumn("rows"),
        TerminalColumn("a row is", priority=1, wraps=True),
    )
    cells = [
        [file.name, f"{number:,}", tables[file.stem].holds]
        for file, number in zip(files, rows, strict=True)
    ]
    return FittingTable(columns, cells)
