"""Tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Cell:
    """A table's cell: its text, what it is sorted by if that is another thing, and a share of its column to draw."""

    text: str
    value: float | None = None
    bar: float | None = None
    title: str = ""


@dataclass(frozen=True)
class Column:
    """A table's column; prose is text that takes several lines."""

    header: str
    kind: Literal["number", "text", "prose"] = "number"


@dataclass(frozen=True)
class Table:
    """A table that is sorted by clicking on its headers, and filtered by typing where that is asked for."""

    name: str
    title: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    has_filter: bool = False
    is_wide: bool = True
