"""A mix of methods as a table: which layers get which method, what that takes and promises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType

from .render_table import Column, FittingTable
from .render_text import DASH, count, facts, section
from .units import format_bytes, format_ms

if TYPE_CHECKING:
    from subopt.recipes.mixed.record import Mixed, MixedUse

_COLUMNS = (
    Column("layers", is_text=True),
    Column("method", is_text=True),
    Column("rank", priority=2),
    Column("matrices", priority=3),
    Column("numbers", priority=4),
    Column("state", priority=1),
    Column("adds to\nthe gain", priority=2),
)


def mixed_section(mixed: Mixed) -> RenderableType:
    """Return the rules of a mix, the main method last, and what all of it takes."""
    ruled = [use for use in mixed.uses if use.patterns]
    rows = [row for use in [*ruled, mixed.uses[0]] for row in _rows(use)]
    rows.append([
        "all that is no matrix",
        mixed.fallback_method,
        DASH,
        DASH,
        DASH,
        format_bytes(mixed.fallback_bytes),
        DASH,
    ])
    totals = [
        ("state", format_bytes(mixed.state_bytes)),
        ("peak", f"{format_bytes(mixed.peak_bytes)} ({mixed.peak.phase} phase)"),
        ("a step", format_ms(mixed.step_ms)),
        ("gain", f"{mixed.gain:+.1%}, at best {mixed.bound_gain:+.1%}"),
    ]
    return section("Mix of methods", Group(FittingTable(_COLUMNS, rows), facts(totals)))


def _rows(use: MixedUse) -> list[list[str]]:
    """One row for a method, with more below it for further patterns."""
    names = list(use.patterns) or ["all other matrices"]
    numbers = [
        use.method,
        DASH if use.rank is None else f"{use.rank:g}",
        count(len(use.layers)),
        count(use.parameters),
        format_bytes(use.state_bytes),
        f"{use.gain:+.2%}",
    ]
    return [[names[0], *numbers], *([name, *[DASH] * len(numbers)] for name in names[1:])]
