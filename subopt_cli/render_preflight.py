"""The checks made before anything long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from subopt.profilers.preflight import Preflight
    from subopt.profilers.schema import Target


def preflight_table(target: Target, preflight: Preflight) -> RenderableType:
    """Return what was picked as the model, and every check with what it found; one that needs a look is marked."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in preflight.checks:
        mark = Text("ok  ", "green") if check.ok else Text("look", "bold yellow")
        table.add_row(mark, Text(f"{check.name}: {check.detail}"))
    line = "" if target.line is None else f" at line {target.line}"
    return Group(Text(f"{target.spec}: {target.picked}{line}"), table)
