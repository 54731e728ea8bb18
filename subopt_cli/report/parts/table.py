"""Tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeAlias, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Cell:
    """A table's cell: its text, what it is sorted by if that is another thing, and a share of its column to draw."""

    text: str
    value: float | None = None
    bar: float | None = None
    title: str = ""


@dataclass(frozen=True)
class Column(Generic[Item]):
    """A table's column with its cell for the item of a row; prose is text that takes several lines."""

    header: str
    kind: Literal["number", "text", "prose"] = "number"
    cell: Callable[[Item], Cell] = lambda item: Cell(str(item))


Columns: TypeAlias = Sequence[Column[Item]]


@dataclass(frozen=True)
class Table:
    """A table that is sorted by clicking on its headers, and filtered by typing where that is asked for.

    One that is folded shows its title alone until it is opened: tables with a row for every layer are long.
    """

    name: str
    title: str
    caption: str
    columns: Columns[Any]
    rows: Sequence[Sequence[Cell]]
    has_filter: bool = False
    is_wide: bool = True
    is_folded: bool = False


def rows_of(columns: Columns[Item], items: Iterable[Item]) -> list[list[Cell]]:
    """Return a row of cells for each item."""
    return [[column.cell(item) for column in columns] for item in items]
