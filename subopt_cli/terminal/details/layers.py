"""The layer table: how widely each matrix' gradient is spread, and in which coordinates it is diagonal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from ...findings.common import (
    captured_share,
    measured_layers,
    needed_share,
    oldest_lag,
    oldest_stale,
    spread_share,
)
from ...text import DASH, percent, ratio, shape_text
from ..table import Columns, TerminalColumn, fitting_table, noted

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Layer, Profile, Ratio

LAYER_ROWS = 12

LAYER_LEGEND = {
    "spread": "effective rank of the gradient over its short side: 100% means that every direction matters alike",
    "95% in": "share of the directions that together hold 95% of the gradient's energy",
    "kept at r": "energy that a low-rank method keeps at the rank asked for (--rank)",
    "diagonal": "share of the gradients' second moment that a method which treats every weight by itself, as Adam "
    "does, can see: in the layer's own coordinates, and rotated on one side or both; 'sums': both, from gradients "
    "added up, as SOAP's, judged on half the batches, which lowers it; 'old': one side, fitted that many steps "
    "earlier; 'pure noise': of random gradients",
}


def _columns(stale_steps: int | None) -> Columns[Any]:
    old = f"{stale_steps}\nold" if stale_steps is not None else "old"
    return (
        TerminalColumn("layer", is_text=True),
        TerminalColumn("shape", priority=6),
        TerminalColumn("spread"),
        TerminalColumn("stable\nrank", priority=8),
        TerminalColumn("90%\nin", priority=7),
        TerminalColumn("95%\nin", priority=1),
        TerminalColumn("kept\nat r", priority=2),
        TerminalColumn("diagonal\nas is", priority=3),
        TerminalColumn("one\nside", priority=3),
        TerminalColumn("two\nsides", priority=3),
        TerminalColumn("of\nsums", priority=5),
        TerminalColumn(old, priority=4),
        TerminalColumn("pure\nnoise", priority=5),
        TerminalColumn("unbiased\nas is", priority=9),
        TerminalColumn("unbiased\none side", priority=9),
        TerminalColumn("unbiased\ntwo sides", priority=9),
    )


def layer_table(profile: Profile) -> RenderableType:
    """Return the matrices with their gradient's spread and diagonality, the widest spread first."""
    layers = measured_layers(profile)
    rank = profile.settings.rank
    rows = [_layer_row(layer, rank) for layer in layers[:LAYER_ROWS]]
    table = fitting_table(_columns(oldest_lag(profile)), rows)
    fitted = "* judged on the gradients it was fitted to, so too good: use more batches"
    is_any_fitted = any(map(_is_in_sample, layers))
    return noted(table, more_layers(layers), fitted if is_any_fitted else None)


def _layer_row(layer: Layer, rank: int | float) -> list[str]:
    diagonality = layer.diagonality
    bases: Sequence[Ratio | None] = [None] * 3
    covariance = stale = None
    if diagonality is not None:
        bases = (diagonality.raw, diagonality.one_sided, diagonality.two_sided)
        covariance, stale = diagonality.covariance, oldest_stale(layer)
    return [
        short_name(layer),
        shape_text(layer.shape),
        percent(spread_share(layer)),
        f"{layer.spectrum.stable_rank.mean:.1f}" if layer.spectrum else DASH,
        percent(needed_share(layer, "0.90")),
        percent(needed_share(layer, "0.95")),
        percent(captured_share(layer, rank)),
        *(_diagonal_text(value) for value in (*bases, covariance, stale)),
        percent(diagonality.white_noise.get("raw")) if diagonality else DASH,
        *(ratio(value.unbiased) if value else DASH for value in bases),
    ]


def short_name(layer: Layer) -> str:
    """Return a layer's name as tables show it."""
    return layer.name.removesuffix(".weight")


def _diagonal_text(value: Ratio | None) -> str:
    if value is None:
        return DASH
    return percent(value.ratio) + ("*" if value.in_sample else "")


def more_layers(layers: Sequence[Layer]) -> str | None:
    """Return how many layers a table leaves out."""
    rest = len(layers) - LAYER_ROWS
    return f"and {rest} more, in the profile file" if rest > 0 else None


def _is_in_sample(layer: Layer) -> bool:
    bases = layer.diagonality
    if bases is None:
        return False
    rotated = (bases.one_sided, bases.two_sided, bases.covariance, oldest_stale(layer))
    return any(value is not None and value.in_sample for value in rotated)
