"""The checks made before anything long."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from subopt.profilers.preflight import Preflight
    from subopt.profilers.schema import Target


def preflight_report(target: Target, preflight: Preflight) -> RenderableType:
    """Return what was picked as the model, and every check with what it found."""
    line = "" if target.line is None else f" at line {target.line}"
    picked = Text(f"{target.spec}: {target.picked}{line}")
    return Group(picked, check_list((c.name, c.detail, c.ok) for c in preflight.checks))


def check_list(checks: Iterable[tuple[str, str, bool]]) -> RenderableType:
    """Return checks as (name, detail, ok), one to a line; one that needs a look is marked."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, detail, ok in checks:
        mark = Text("ok", "green") if ok else Text("look", "bold yellow")
        table.add_row(mark, Text(f"{name}: {detail}"))
    return table
