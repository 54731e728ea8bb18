"""What it costs to decompose a gradient and to follow it, at the model's largest shapes, and what a refresh costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from ...findings.common import decompositions_by_shape, refreshing
from ...text import DASH, plural, shape_text, times
from ...units import format_ms
from ..table import Columns, TerminalColumn, item_table, noted

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Decomposition, MethodCost, Profile

DECOMPOSITION_SHAPES = 2
SPIKES_SHOWN = 8

DECOMPOSITION_LEGEND = {
    "svd, PCA": "two ways to find the coordinates: decompose the gradient now and then, or follow it a little at "
    "every step; 'per step' is its cost to a training step, all layers of that shape together",
}
SPIKE_LEGEND = {
    "spikes": "a step that refreshes the bases of all layers at once, next to an ordinary one; 'staggered': an "
    "estimate of the longest step if layers were refreshed one by one",
}
_TIMING_COLUMNS: Columns[Decomposition] = (
    TerminalColumn("way", is_text=True, cell=lambda timing: timing.kernel),
    TerminalColumn("driver", priority=4, is_text=True, cell=lambda timing: timing.driver or DASH),
    TerminalColumn("median", priority=1, cell=lambda timing: format_ms(timing.median_ms)),
    TerminalColumn("spread (IQR)", priority=3, cell=lambda timing: format_ms(timing.iqr_ms)),
    TerminalColumn("times PCA", priority=2, cell=lambda timing: times(timing.times_online_pca)),
    TerminalColumn("per step", cell=lambda timing: format_ms(timing.ms_per_training_step)),
    TerminalColumn(
        "run every",
        priority=5,
        cell=lambda timing: DASH if timing.period is None else plural(timing.period, "step"),
    ),
    TerminalColumn("for", priority=6, is_text=True, cell=lambda timing: timing.used_by or DASH),
)
_SPIKE_COLUMNS: Columns[tuple[MethodCost, float, float]] = (
    TerminalColumn("method", is_text=True, cell=lambda found: found[0].method),
    TerminalColumn("ordinary\nstep", priority=1, cell=lambda found: format_ms(found[1])),
    TerminalColumn("all at\nonce", cell=lambda found: format_ms(found[2])),
    TerminalColumn(
        "times", priority=3, cell=lambda found: times(found[2] / found[1] if found[1] > 0 else None)
    ),
    TerminalColumn("stag-\ngered", priority=2, cell=lambda found: format_ms(found[0].staggered_ms)),
)


def decomposition_tables(profile: Profile) -> list[RenderableType]:
    """Return a table of timings for each of the largest shapes."""
    groups = decompositions_by_shape(profile)
    parts: list[RenderableType] = []
    for shape, rank, timings in groups[:DECOMPOSITION_SHAPES]:
        parts.extend((
            Text(f"{shape_text(shape)}, rank {rank}, on {timings[0].device}", style="italic"),
            item_table(_TIMING_COLUMNS, timings),
        ))
    if len(groups) > DECOMPOSITION_SHAPES:
        more = plural(len(groups) - DECOMPOSITION_SHAPES, "more shape")
        parts.append(Text(f"and {more}, in the profile file", style="dim"))
    return parts


def spike_table(profile: Profile) -> RenderableType | None:
    """Return what a refresh costs the methods that have one, the dearest first; None where none was timed."""
    found = refreshing(profile)
    if not found:
        return None
    hidden = len(found) - SPIKES_SHOWN
    table = item_table(_SPIKE_COLUMNS, found[:SPIKES_SHOWN])
    return noted(table, f"and {hidden} more, in the profile file" if hidden > 0 else None)
