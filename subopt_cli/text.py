"""Small pieces that every rendered report shares: headings, facts, paragraphs, numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

DASH = "-"  # stands for "not known" or "does not apply"


def section(title: str, *body: RenderableType) -> RenderableType:
    """Return a heading with its body under it."""
    return Group(Text(title, style="bold cyan"), *body)


def facts(pairs: Iterable[tuple[str, str]]) -> Table:
    """Return short names with their values, the values wrapped beside the names."""
    return beside(((Text(name), Text(value)) for name, value in pairs), style="dim")


def beside(rows: Iterable[tuple[Text, Text]], gap: int = 2, style: str = "") -> Table:
    """Return short texts with long ones wrapped beside them."""
    table = Table.grid(padding=(0, gap, 0, 0))
    table.add_column(no_wrap=True, style=style)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def numbered(sentences: Sequence[str]) -> RenderableType:
    """Return sentences as a numbered list."""
    lines = enumerate(sentences, start=1)
    return beside(((Text(f"{number}."), Text(sentence)) for number, sentence in lines), gap=1)


def signed(value: float, size: str) -> str:
    """Return a difference with its sign, from the difference and the text of its size: `+3 MiB`, `-0.2 ms`."""
    return f"{'-' if value < 0 else '+'}{size}"


def percent(share: float | None, digits: int = 2) -> str:
    """Return a share as a percentage with that many digits that count, such as `0.65%`, `5.2%`, `63%`."""
    if share is None:
        return DASH
    value = 100 * share
    if value == 0:
        return "0%"
    if value < 0.01:
        return "<0.01%"
    if value < 9.95:
        return f"{value:.{digits}g}%"
    return f"{value:.0f}%"


def ratio(value: float | None) -> str:
    """Return a ratio with two digits that count, such as `0.27`, `1.3`, `4e-05`."""
    if value is None:
        return DASH
    return f"{value:.2f}" if 0.01 <= abs(value) < 10 else f"{value:.2g}"


def times(value: float | None) -> str:
    """Return a factor such as `7.5x` or `120x`."""
    if value is None:
        return DASH
    return f"{value:.1f}x" if value < 9.95 else f"{value:.0f}x"


def count(number: float) -> str:
    """Return a count such as `950`, `3.3M` or `1.1B`."""
    for limit, suffix in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if number >= limit:
            divisor = 1e3 if suffix == "k" else limit
            return f"{number / divisor:.3g}{suffix}"
    return f"{number:.0f}"


def plural(number: int, noun: str, many: str | None = None) -> str:
    """Return the number with its noun, such as `1 batch` or `8 batches`."""
    return f"{number:,} {noun if number == 1 else many or noun + 's'}"


def shorten(text: str, width: int, mark: str = "..") -> str:
    """Return the text cut in its middle to `width` characters: both ends of a parameter's name matter."""
    if len(text) <= width:
        return text
    room = width - len(mark)
    return f"{text[: room // 2]}{mark}{text[len(text) - (room - room // 2) :]}"


def shape_text(shape: Iterable[int]) -> str:
    """Return a shape such as `512x1376`."""
    return "x".join(map(str, shape)) or "scalar"
