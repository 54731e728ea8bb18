"""The bundled recipes as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from ..text import count
from .table import FittingTable, TerminalColumn

if TYPE_CHECKING:
    from subopt.recipes.recipe.bundled import Bundled

_COLUMNS = (
    TerminalColumn("recipe", is_text=True),
    TerminalColumn("method", priority=3, is_text=True),
    TerminalColumn("learning\nrate", priority=4),
    TerminalColumn("examples\na step", priority=5),
    TerminalColumn("steps", priority=4),
    TerminalColumn("made for", priority=1, wraps=True),
    TerminalColumn("source", priority=2, wraps=True),
)


def bundled_list(recipes: Sequence[Bundled]) -> RenderableType:
    """Return every recipe with its method, the model it was made for, and where it is published."""
    rows = [
        [
            item.name,
            item.recipe.optimizer.method,
            f"{item.recipe.optimizer.lr:g}",
            count(item.recipe.data.batch_size * item.recipe.data.accumulate),
            count(item.recipe.schedule.steps),
            item.made_for,
            short_source(item.source),
        ]
        for item in recipes
    ]
    how = (
        "subopt train NAME model.target=my_model.py trains one on your model; "
        "subopt train --list NAME prints its YAML."
    )
    return Group(FittingTable(_COLUMNS, rows), Text(), Text(how))


def short_source(source: str) -> str:
    """Return authors, year and place of `Authors year, Title: place`."""
    authors, _, rest = source.partition(", ")
    return f"{authors}, {rest.rpartition(': ')[2]}"
