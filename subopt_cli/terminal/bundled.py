"""The bundled recipes as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from ..text import count
from .table import Columns, TerminalColumn, full_table

if TYPE_CHECKING:
    from subopt.recipes.recipe.bundled import Bundled

_COLUMNS: Columns[Bundled] = (
    TerminalColumn("recipe", is_text=True, cell=lambda item: item.name),
    TerminalColumn("method", 3, is_text=True, cell=lambda item: item.recipe.optimizer.method),
    TerminalColumn("learning\nrate", priority=4, cell=lambda item: f"{item.recipe.optimizer.lr:g}"),
    TerminalColumn(
        "examples\na step",
        priority=5,
        cell=lambda item: count(item.recipe.data.batch_size * item.recipe.data.accumulate),
    ),
    TerminalColumn("steps", priority=4, cell=lambda item: count(item.recipe.schedule.steps)),
    TerminalColumn("made for", priority=1, wraps=True, cell=lambda item: item.made_for),
    TerminalColumn("source", priority=2, wraps=True, cell=lambda item: short_source(item.source)),
)


def bundled_list(recipes: Sequence[Bundled]) -> RenderableType:
    """Return every recipe with its method, the model it was made for, and where it is published."""
    how = (
        "subopt train NAME model.target=my_model.py trains one on your model; "
        "subopt train --list NAME prints its YAML."
    )
    return Group(full_table(_COLUMNS, recipes), Text(), Text(how))


def short_source(source: str) -> str:
    """Return authors, year and place of `Authors year, Title: place`."""
    authors, _, rest = source.partition(", ")
    return f"{authors}, {rest.rpartition(': ')[2]}"
