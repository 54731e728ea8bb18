"""The decomposition tables: what it costs to decompose a gradient and to follow it, at the model's largest shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from .readings import decompositions_by_shape
from .render_table import Column, FittingTable
from .render_text import plural, shape_text, times
from .units import format_ms

if TYPE_CHECKING:
    from subopt.profilers.schema import Decomposition, Profile

DECOMPOSITION_SHAPES = 2

DECOMPOSITION_LEGEND = (
    (
        "svd, PCA",
        "two ways to find the coordinates: decompose the gradient now and then, or follow it a little at every step; "
        "'per step' is its cost to a training step, all layers of that shape together",
    ),
)


def decomposition_tables(profile: Profile) -> list[RenderableType]:
    """Return a table of timings for each of the largest shapes."""
    groups = decompositions_by_shape(profile)
    parts: list[RenderableType] = []
    for shape, rank, timings in groups[:DECOMPOSITION_SHAPES]:
        parts.extend((
            Text(f"{shape_text(shape)}, rank {rank}, on {timings[0].device}", style="italic"),
            _timing_table(timings),
        ))
    if len(groups) > DECOMPOSITION_SHAPES:
        more = plural(len(groups) - DECOMPOSITION_SHAPES, "more shape")
        parts.append(Text(f"and {more}, in the profile file", style="dim"))
    return parts


def _timing_table(timings: Sequence[Decomposition]) -> FittingTable:
    columns = (
        Column("way", is_text=True),
        Column("median", priority=1),
        Column("spread (IQR)", priority=3),
        Column("times PCA", priority=2),
        Column("per step"),
    )
    rows = [
        [
            timing.kernel,
            format_ms(timing.median_ms),
            format_ms(timing.iqr_ms),
            times(timing.times_online_pca),
            format_ms(timing.ms_per_training_step),
        ]
        for timing in timings
    ]
    return FittingTable(columns, rows)
