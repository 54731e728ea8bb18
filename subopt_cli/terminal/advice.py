"""The first screen of `subopt recommend`: the answer, the best methods, what fills the memory, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType

from ..findings.answer import (
    Answer,
    gain_cell,
    how_known,
    in_claimed_order,
    is_within_error,
    order_title,
    other_reasons,
    signed_share,
)
from ..text import DASH, numbered, plural
from ..units import format_bytes
from .answer import answer_block, heading, indented, memory_block, named_lines
from .table import Columns, FittingTable, TerminalColumn, full_table, noted

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Profile
    from subopt.recipes.advice.answer import Advice
    from subopt.recipes.ranking.row import Row

METHODS_SHOWN = 5
# A screen has room for so many characters of reasons.
_REASONS_ROOM = 480


def advice_screen(
    advice: Advice,
    profile: Profile,
    answer: Answer,
    more: Sequence[tuple[str, str]],
    *,
    everything: bool = False,
) -> list[RenderableType]:
    """Return the blocks of the answer, the verdict first.

    Args:
        advice: The advice.
        profile: The profile it was given for.
        answer: Its first block.
        more: Commands that say more, each with what it says.
        everything: Whether to show every method, not the best ones alone.
    """
    shown = len(advice.rows) if everything else METHODS_SHOWN
    parts = [answer_block(answer), methods_block(advice, shown, "--all"), memory_block(profile)]
    why = that_fit(other_reasons(advice), _REASONS_ROOM)
    if why:
        parts.append(Group(heading("WHY", ""), indented(numbered(why))))
    return [*parts, named_lines(more)]


def methods_block(advice: Advice, most: int, all_of_them: str) -> RenderableType:
    """Return the first rows in the order that the heading claims, and how many more `all_of_them` shows."""
    ordered = in_claimed_order(advice)
    shown = shown_rows(advice, ordered, most)
    hidden = len(ordered) - len(shown)
    marked = "~ a gain within its error" if any(map(is_within_error, shown)) else ""
    note = "   ".join(
        filter(None, [f"... {hidden:,} more: {all_of_them}" if hidden else "", marked])
    )
    return Group(heading("METHODS", order_title(advice)), noted(ranking_table(shown, advice), note))


def shown_rows(advice: Advice, ordered: Sequence[Row], most: int) -> list[Row]:
    """Return the first rows, and of the others those that no answer can do without: the choice and plain AdamW."""
    return [
        row
        for number, row in enumerate(ordered)
        if number < most or row is advice.chosen or row.is_baseline
    ]


def ranking_table(rows: Sequence[Row], advice: Advice) -> FittingTable:
    """Return rows of methods, the chosen one marked, each gain with its error in the cell."""
    columns: Columns[Row] = (
        TerminalColumn(
            "  method",
            is_text=True,
            cell=lambda row: f"{'>' if row is advice.chosen else ' '} {row.method}",
        ),
        TerminalColumn("fits", priority=2, is_text=True, cell=lambda row: row.fit.name.lower()),
        TerminalColumn("peak", priority=1, cell=lambda row: format_bytes(row.peak.bytes)),
        TerminalColumn("step", priority=1, cell=_time),
        TerminalColumn("gain", cell=gain_cell),
        TerminalColumn("known by", priority=3, is_text=True, cell=_known_by),
    )
    styles = ["bold green" if row is advice.chosen else "" for row in rows]
    return full_table(columns, rows, styles)


def _time(row: Row) -> str:
    return signed_share(None if row.overhead is None else row.overhead.share)


def _known_by(row: Row) -> str:
    if row.is_baseline or row.expected is None:
        return DASH
    return how_known(row) + (" ~" if is_within_error(row) else "")


def that_fit(sentences: Sequence[str], room: int) -> list[str]:
    """Return the first sentences, as many as there is room for; a remark says where there are more."""
    shown: list[str] = []
    for sentence in sentences:
        room -= len(sentence)
        if room < 0:
            break
        shown.append(sentence)
    left = len(sentences) - len(shown)
    return shown if not left else [*shown, f"{plural(left, 'more remark')}: --details"]
