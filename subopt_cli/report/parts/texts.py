"""Paragraphs, lists and key numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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
class Definition:
    """A term of the glossary."""

    term: str
    meaning: str
    source: str = ""


@dataclass(frozen=True)
class Glossary:
    """Terms with their meanings."""

    definitions: Sequence[Definition]
