"""What it costs to decompose a gradient and to follow it, at the model's largest shapes, and what a refresh costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from ..findings.common import decompositions_by_shape, refreshing
from ..text import DASH, plural, shape_text, times
from ..units import format_ms
from .table import TerminalColumn, fitting_table

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Decomposition, Profile

DECOMPOSITION_SHAPES = 2
SPIKES_SHOWN = 8

DECOMPOSITION_LEGEND = (
    (
        "svd, PCA",
        "two ways to find the coordinates: decompose the gradient now and then, or follow it a little at every step; "
        "'per step' is its cost to a training step, all layers of that shape together",
    ),
)
SPIKE_LEGEND = (
    (
        "spikes",
        "a step that refreshes the bases of all layers at once, beside an ordinary one; 'in turns': an estimate of the "
        "longest step if layers were refreshed one by one",
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


def _timing_table(timings: Sequence[Decomposition]) -> RenderableType:
    columns = (
        TerminalColumn("way", is_text=True),
        TerminalColumn("driver", priority=4, is_text=True),
        TerminalColumn("median", priority=1),
        TerminalColumn("spread (IQR)", priority=3),
        TerminalColumn("times PCA", priority=2),
        TerminalColumn("per step"),
        TerminalColumn("run every", priority=5),
        TerminalColumn("for", priority=6, is_text=True),
    )
    rows = [
        [
            timing.kernel,
            timing.driver or DASH,
            format_ms(timing.median_ms),
            format_ms(timing.iqr_ms),
            times(timing.times_online_pca),
            format_ms(timing.ms_per_training_step),
            DASH if timing.period is None else plural(timing.period, "step"),
            timing.used_by or DASH,
        ]
        for timing in timings
    ]
    return fitting_table(columns, rows)


def spike_table(profile: Profile) -> RenderableType | None:
    """Return what a refresh costs the methods that have one, the dearest first; None where none was timed."""
    found = refreshing(profile)
    if not found:
        return None
    columns = (
        TerminalColumn("method", is_text=True),
        TerminalColumn("ordinary\nstep", priority=1),
        TerminalColumn("all at\nonce"),
        TerminalColumn("times", priority=3),
        TerminalColumn("in\nturns", priority=2),
    )
    rows = [
        [
            cost.method,
            format_ms(ordinary_ms),
            format_ms(refresh_ms),
            times(refresh_ms / ordinary_ms) if ordinary_ms > 0 else DASH,
            format_ms(cost.staggered_ms),
        ]
        for cost, ordinary_ms, refresh_ms in found[:SPIKES_SHOWN]
    ]
    hidden = len(found) - SPIKES_SHOWN
    note = [Text(f"and {hidden} more, in the profile file", style="dim")] if hidden > 0 else []
    return Group(fitting_table(columns, rows), *note)
