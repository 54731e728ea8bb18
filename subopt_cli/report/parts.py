"""What a page is made of: sections of paragraphs, charts and tables, as plain data.

Every text here is plain text. It becomes HTML in `page.py` alone, which escapes it, so that a layer may be called
anything. Texts within a chart's figure are the exception: plotly reads tags in them, see `plotly_text`.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Trace: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Paragraph:
    """A few sentences."""

    text: str


@dataclass(frozen=True)
class Tile:
    """A key number, what it is, and a remark on it."""

    value: str
    label: str
    remark: str = ""


@dataclass(frozen=True)
class Tiles:
    """Key numbers side by side."""

    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Sentences:
    """Numbered sentences."""

    sentences: Sequence[str]


@dataclass(frozen=True)
class Facts:
    """Short names with their values."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Picker:
    """A choice that changes a chart.

    Attributes:
        label: What is chosen.
        options: The choices as they are listed; the first one is what the chart shows as it is.
        views: For every further option, what changes in each trace.
        chosen: The option that is on at the beginning.
    """

    label: str
    options: Sequence[str]
    views: Sequence[Sequence[Trace]]
    chosen: int = 0


@dataclass(frozen=True)
class Chart:
    """A plotly figure with a title above it and how to read it below.

    Attributes:
        name: Its id in the page.
        title: What it shows.
        caption: How to read it.
        traces: Plotly traces. A text that starts with `--` is the name of a colour in style.css.
        layout: A plotly layout without fonts and colours, which script.js adds.
        picker: A choice of views.
        is_wide: Whether it needs the whole width of the page.
        least_width: Pixels below which it scrolls sideways in its box instead of getting narrower.
    """

    name: str
    title: str
    caption: str
    traces: Sequence[Trace]
    layout: Mapping[str, Any]
    picker: Picker | None = None
    is_wide: bool = True
    least_width: int = 0


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


@dataclass(frozen=True)
class Definition:
    """A term of the glossary."""

    term: str
    meaning: str
    source: str = ""


@dataclass(frozen=True)
class Glossary:
    """Terms with their meanings."""

    definitions: Sequence[Definition]


Part: TypeAlias = Paragraph | Tiles | Sentences | Facts | Chart | Table | Glossary


@dataclass(frozen=True)
class Section:
    """A section of the page; without parts it is left out, and `why_absent` says why."""

    name: str
    title: str
    lead: str = ""
    parts: Sequence[Part] = field(default_factory=tuple)
    why_absent: str = ""


def plotly_text(text: str) -> str:
    """Return a text that plotly shows as it is: it would read tags, and `%{...}` in some places, in it."""
    return html.escape(text, quote=False).replace("%{", "%\u200b{")
