"""Block structure of the second moment, one basis for all output neurons, and the spectrum of a layer's inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from ...findings.common import measured_layers, over_noise
from ...text import DASH, percent, shape_text, times
from ..table import Columns, TerminalColumn, fitting_table, noted
from .layers import LAYER_ROWS, more_layers, short_name

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Blocks, Layer, Profile

SHARED_RANKS = ("16", "32")  # of the measured ones, those that the shared-basis method is used with

BLOCK_LEGEND = {
    "blocks": "share of the gradients' second moment in the blocks of single output neurons, or of single inputs; "
    "'x noise': how many times what random gradients would have there",
    "shared k": "how much of those output blocks one basis of rank k for all of them keeps; 'own': each with its own "
    "basis",
    "inputs": "effective rank of what flows into the layer, over its width",
}
_COLUMNS: Columns[Any] = (
    TerminalColumn("layer", is_text=True),
    TerminalColumn("shape", priority=6),
    TerminalColumn("output\nblocks"),
    TerminalColumn("x noise", priority=2),
    TerminalColumn("input\nblocks", priority=1),
    TerminalColumn("x noise", priority=4),
    *(TerminalColumn(f"shared\n{k}", priority=3) for k in SHARED_RANKS),
    *(TerminalColumn(f"own\n{k}", priority=5) for k in SHARED_RANKS),
    TerminalColumn("inputs", priority=2),
)


def block_table(profile: Profile) -> RenderableType | None:
    """Return the matrices with their blocks and inputs; None where neither was measured."""
    layers = [layer for layer in measured_layers(profile) if layer.blocks or layer.activations]
    if not layers:
        return None
    table = fitting_table(_COLUMNS, [_row(layer) for layer in layers[:LAYER_ROWS]])
    return noted(table, more_layers(layers))


def _row(layer: Layer) -> list[str]:
    inputs = layer.activations
    return [
        short_name(layer),
        shape_text(layer.shape),
        *_block_cells(layer.blocks),
        percent(inputs.effective_rank / inputs.width) if inputs else DASH,
    ]


def _block_cells(blocks: Blocks | None) -> list[str]:
    if blocks is None:
        return [DASH] * (4 + 2 * len(SHARED_RANKS))
    return [
        percent(blocks.by_output),
        times(over_noise(blocks.by_output, blocks.by_output_noise)),
        percent(blocks.by_input),
        times(over_noise(blocks.by_input, blocks.by_input_noise)),
        *(percent(blocks.shared.get(k)) for k in SHARED_RANKS),
        *(percent(blocks.own.get(k)) for k in SHARED_RANKS),
    ]
