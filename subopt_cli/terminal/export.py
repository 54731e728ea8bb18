"""The tables that an export wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType

from .table import Columns, TerminalColumn, full_table

if TYPE_CHECKING:
    from subopt.profilers.export.table import ExportTable


def written_tables(
    files: Sequence[Path], rows: Sequence[int], tables: Mapping[str, ExportTable]
) -> RenderableType:
    """Return the files with their numbers of rows, and what a row of each is."""
    columns: Columns[tuple[Path, int]] = (
        TerminalColumn("file", is_text=True, cell=lambda item: item[0].name),
        TerminalColumn("rows", cell=lambda item: f"{item[1]:,}"),
        TerminalColumn("a row is", 1, wraps=True, cell=lambda item: tables[item[0].stem].holds),
    )
    return full_table(columns, zip(files, rows, strict=True))
