"""The blocks that the first screen of a command is made of: the answer, a bar of what fills the memory, headings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..findings.common import parts_at_peak
from ..findings.memory import peak_text, what_saves_most
from ..text import beside, percent

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Profile

    from ..findings.answer import Answer

INDENT = 2
# What a part of the bar is drawn with; without colours the parts are told apart by it.
_MARKS = (("#", "blue"), ("=", "red"), ("-", "green"), (":", "yellow"), (".", "magenta"))


def heading(name: str, text: str) -> Text:
    """Return the first line of a block: what it is, and of what."""
    return Text.assemble((name, "bold cyan"), f" {text}" if text else "")


def indented(body: RenderableType) -> RenderableType:
    """Return what stands below a heading."""
    return Padding(body, (0, 0, 0, INDENT))


def named_lines(pairs: Iterable[tuple[str, str]]) -> RenderableType:
    """Return short names with their texts wrapped beside them, below a heading."""
    return indented(beside(((Text(name, "dim"), Text(text)) for name, text in pairs)))


def answer_block(answer: Answer) -> RenderableType:
    """Return a verdict, how sure it is at the right edge, and below it its numbers and what to do next."""
    first = Table.grid(expand=True, padding=(0, 2, 0, 0))
    first.add_column()
    first.add_column(justify="right", no_wrap=True)
    verdict = Text.assemble(("ANSWER", "bold cyan"), " ", (answer.verdict, "bold green"))
    sure = f"confidence: {answer.confidence}" if answer.confidence else ""
    first.add_row(verdict, Text(sure, "bold"))
    return Group(first, named_lines(answer.lines))


def memory_block(profile: Profile) -> RenderableType:
    """Return what fills the peak of AdamW as a bar with its legend, and what would save most of it."""
    parts = [(name.removeprefix("optimizer "), size) for name, size in parts_at_peak(profile)]
    saving = what_saves_most(profile)
    lines: list[RenderableType] = [MemoryBar(parts)] if parts else []
    lines += [Text(saving)] if saving else []
    return Group(heading("MEMORY", peak_text(profile)), *map(indented, lines))


class MemoryBar:
    """Parts of a whole as lengths of one bar, with a legend of their shares below it."""

    def __init__(self, parts: Sequence[tuple[str, int]]) -> None:
        self._parts = parts
        self._total = sum(size for _, size in parts)

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        lengths = lengths_of([size for _, size in self._parts], options.max_width - 2)
        bar, legend = Text("["), Text()
        for (name, size), length, (mark, style) in zip(self._parts, lengths, _MARKS, strict=False):
            bar.append(mark * length, style)
            legend.append(f"{mark} ", style)
            legend.append(f"{name} {percent(size / self._total)}  ")
        yield bar.append("]")
        legend.rstrip()
        yield legend


def lengths_of(sizes: Sequence[int], room: int) -> list[int]:
    """Return lengths in proportion to the sizes that sum to the room: what rounding leaves goes where it cut most."""
    total = sum(sizes)
    exact = [size * room / total for size in sizes] if total else [0.0] * len(sizes)
    lengths = [int(length) for length in exact]
    cut = sorted(range(len(sizes)), key=lambda index: lengths[index] - exact[index])
    for index in cut[: room - sum(lengths)]:
        lengths[index] += 1
    return lengths
