"""What a page is made of: sections of paragraphs, charts and tables, as plain data.

Every text here is plain text, and `parts.html` has a macro for every class that makes it HTML and escapes it, so that a
layer may be called anything. Texts within a chart's figure are the exception: plotly reads tags in them, see
`plotly_text`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from .bars import Bars, LabelledBar, Segment, Verdict
from .figure import Chart, Picker, Trace, plotly_text
from .table import Cell, Column, Columns, Table, rows_of
from .texts import Definition, Facts, Glossary, Paragraph, Sentences, Tile, Tiles

__all__ = [
    "Bars",
    "Cell",
    "Chart",
    "Column",
    "Columns",
    "Definition",
    "Facts",
    "Glossary",
    "LabelledBar",
    "Paragraph",
    "Part",
    "Picker",
    "Section",
    "Segment",
    "Sentences",
    "Table",
    "Tile",
    "Tiles",
    "Trace",
    "Verdict",
    "plotly_text",
    "rows_of",
]

Part: TypeAlias = Verdict | Bars | Paragraph | Tiles | Sentences | Facts | Chart | Table | Glossary


@dataclass(frozen=True)
class Section:
    """A section of the page; without parts it is left out, and `why_absent` says why."""

    name: str
    title: str
    lead: str = ""
    parts: Sequence[Part] = field(default_factory=tuple)
    why_absent: str = ""
