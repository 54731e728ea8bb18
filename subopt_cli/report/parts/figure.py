"""Charts, whose texts plotly reads tags in."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Trace: TypeAlias = dict[str, Any]


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


def plotly_text(text: str) -> str:
    """Return a text that plotly shows as it is: it would read tags, and `%{...}` in some places, in it."""
    return html.escape(text, quote=False).replace("%{", "%\u200b{")
