"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, align: str = "") -> str:
    """Return a table; `align` has for each column l or r, left where it ends."""
    marks = {"l": "---", "r": "---:"}
    line = [marks[side] for side in align.ljust(len(head), "l")]
    return "\n".join("| " + " | ".join(map(cell, row)) + " |" for row in [head, line, *rows]) + "\n"


def cell(text: str) -> str:
    """Return a text as a table's cell holds it, on one line."""
    return " ".join(text.replace("|", "\\|").split())
