"""Bars that are plain HTML: there at once, without a script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """A piece of a bar.

    Attributes:
        length: As a share of the width.
        colour: The name of a colour in style.css, such as `--blue`.
        title: What it is.
    """

    length: float
    colour: str
    title: str = ""


@dataclass(frozen=True)
class LabelledBar:
    """One bar; all positions are shares of the width.

    Attributes:
        label: What it is of.
        text: Its number.
        segments: Its pieces, one behind the other.
        start: Where the first one begins.
        whisker: Where the interval of its error begins and ends; None where it has none.
        is_marked: Whether it stands out.
    """

    label: str
    text: str
    segments: Sequence[Segment]
    start: float = 0.0
    whisker: tuple[float, float] | None = None
    is_marked: bool = False


@dataclass(frozen=True)
class Bars:
    """Bars below each other, with how to read them.

    Attributes:
        name: Its id in the page.
        title: What they show.
        caption: How to read them.
        bars: The bars.
        line: Where a line across all of them stands; None for none.
        legend: What the colours mean, as colours with texts.
    """

    name: str
    title: str
    caption: str
    bars: Sequence[LabelledBar]
    line: float | None = None
    legend: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Verdict:
    """What to do in large letters, how sure that is, and its numbers by name."""

    text: str
    confidence: str | None
    pairs: Sequence[tuple[str, str]]
