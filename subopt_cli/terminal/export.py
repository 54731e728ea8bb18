"""The tables that an export wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType

from .table import Column, FittingTable

if TYPE_CHECKING:
    from subopt.profilers.export.table import Table


def written_tables(
    files: Sequence[Path], rows: Sequence[int], tables: Mapping[str, Table]
) -> RenderableType:
    """Return the files with their numbers of rows, and what a row of each is."""
    columns = (
        Column("file", is_text=True),
        Column("rows"),
        Column("a row is", priority=1, wraps=True),
    )
    cells = [
        [file.name, f"{number:,}", tables[file.stem].holds]
        for file, number in zip(files, rows, strict=True)
    ]
    return FittingTable(columns, cells)
