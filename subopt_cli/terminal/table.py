"""A table that stays readable at any width: it drops its least important columns before it breaks a word."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..text import DASH, shorten

GAP = 2  # spaces between two columns
SHORTEST_NAME = 22  # cells that the first column has before another column is dropped for it
NAME_SHARE = 0.35  # of the width: the same, in a wide terminal
SENTENCE = 22  # cells that a column of sentences has


Item = TypeVar("Item")


@dataclass(frozen=True)
class TerminalColumn(Generic[Item]):
    """One column.

    Attributes:
        header: Its heading; a line break stacks two short lines.
        priority: 0 is never dropped; of the others the highest number goes first.
        is_text: Aligned left instead of right.
        wraps: A sentence, which may take several lines but keeps `SENTENCE` cells of width.
        cell: Its text for the item of a row.
    """

    header: str
    priority: int = 0
    is_text: bool = False
    wraps: bool = False
    cell: Callable[[Item], str] = str


Columns: TypeAlias = Sequence[TerminalColumn[Item]]


@dataclass(frozen=True)
class FittingTable:
    """Rows of text under columns that may be dropped.

    Attributes:
        columns: The columns; the first one may be shortened in its middle when nothing is left to drop.
        rows: One text for every column in each row.
        styles: A rich style for each row; none by default.
    """

    columns: Columns[Any]
    rows: Sequence[Sequence[str]]
    styles: Sequence[str] = ()

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        widths = [self._least_width(index, options.max_width) for index in range(len(self.columns))]
        priorities = [column.priority for column in self.columns]
        kept = columns_that_fit(priorities, widths, options.max_width)
        others = sum(widths[index] + GAP for index in kept if index)
        yield self._table(kept, name_room=max(SHORTEST_NAME, options.max_width - others))
        if len(kept) < len(self.columns):
            hidden = [
                column.header.replace("\n", " ")
                for index, column in enumerate(self.columns)
                if index not in kept
            ]
            yield Text(f"(no room here for: {', '.join(hidden)})", style="dim")

    def _least_width(self, index: int, room: int) -> int:
        """Return the width a column needs before another one has to go for it."""
        column = self.columns[index]
        width = max(map(cell_len, [*column.header.split("\n"), *(row[index] for row in self.rows)]))
        if index == 0:
            return min(width, max(SHORTEST_NAME, int(NAME_SHARE * room)))
        return min(width, SENTENCE) if column.wraps else width

    def _table(self, kept: Sequence[int], name_room: int) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
        height = max(self.columns[index].header.count("\n") for index in kept)
        for index in kept:
            column = self.columns[index]
            table.add_column(
                Text("\n" * (height - column.header.count("\n")) + column.header),
                justify="left" if column.is_text or column.wraps else "right",
                no_wrap=not column.wraps,
            )
        for number, row in enumerate(self.rows):
            cells = [shorten(row[index], name_room) if index == 0 else row[index] for index in kept]
            style = self.styles[number] if self.styles else None
            table.add_row(*map(Text, cells), style=style or None)
        return table


def full_table(
    columns: Columns[Item], items: Iterable[Item], styles: Sequence[str] = ()
) -> FittingTable:
    """Return a table with a row for each item, in all columns."""
    return FittingTable(
        columns, [[column.cell(item) for column in columns] for item in items], styles
    )


def item_table(
    columns: Columns[Item], items: Iterable[Item], styles: Sequence[str] = ()
) -> FittingTable:
    """Return a table with a row for each item, in those columns that hold something; the first one always counts."""
    return fitting_table(columns, full_table(columns, items).rows, styles)


def used_columns(rows: Sequence[Sequence[str]]) -> list[int]:
    """Return the indices of the columns that hold something in some row; the first one always counts."""
    width = len(rows[0]) if rows else 0
    return [
        index for index in range(width) if index == 0 or any(row[index] != DASH for row in rows)
    ]


def fitting_table(
    columns: Columns[Any], rows: Sequence[Sequence[str]], styles: Sequence[str] = ()
) -> FittingTable:
    """Return a table of those columns that hold something."""
    used = used_columns(rows)
    return FittingTable(
        [columns[index] for index in used], [[row[index] for index in used] for row in rows], styles
    )


def noted(table: RenderableType, *notes: str | None) -> RenderableType:
    """Return a table with remarks below it; those that are None are left out."""
    return Group(table, *(Text(note, style="dim") for note in notes if note))


def columns_that_fit(priorities: Sequence[int], widths: Sequence[int], room: int) -> list[int]:
    """Return the indices of the columns to keep: the highest priority number is dropped first."""
    kept = list(range(len(widths)))
    while sum(widths[index] + GAP for index in kept) - GAP > room:
        droppable = [index for index in kept if priorities[index] > 0]
        if not droppable:
            break
        kept.remove(max(droppable, key=lambda index: (priorities[index], index)))
    return kept
