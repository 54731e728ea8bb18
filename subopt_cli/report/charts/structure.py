"""Blocks of the second moment, the basis they could share, and the spectra of the layers' inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...findings.common import median_of
from ..parts import Chart, Trace
from .by_layer import (
    Points,
    curve,
    curve_chart,
    faint_curves,
    height_axis,
    layer_chart,
    level,
    log_axis,
    marks,
    picker_of,
    share_axis,
    typical_curve,
)

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Activations, Layer, Profile


def block_charts(profile: Profile) -> list[Chart]:
    """Return the share of C in its diagonal blocks, and what one basis for all blocks keeps of them."""
    layers = [layer for layer in profile.layers if layer.blocks is not None]
    if not layers:
        return []
    blocks = [layer.blocks for layer in layers if layer.blocks]
    shares = [
        marks(layers, [one.by_output for one in blocks], "by output neuron", "--blue", "circle"),
        marks(layers, [one.by_input for one in blocks], "by input neuron", "--orange", "square"),
        level(layers, [one.by_output_noise for one in blocks], "noise, by output", "dot"),
        level(layers, [one.by_input_noise for one in blocks], "noise, by input", "dash"),
    ]
    return [
        layer_chart(
            "blocks",
            "Second moment within single neurons",
            "Share of the second moment's squared norm in the blocks of weights that belong to one neuron. Far above "
            "the noise lines, a preconditioner of blocks sees more than Adam's diagonal.",
            layers,
            shares,
            yaxis=height_axis("share", shares),
        ),
        *_shared_chart(layers),
    ]


def _shared_chart(layers: Sequence[Layer]) -> list[Chart]:
    shared = [_by_number(layer.blocks.shared) for layer in layers if layer.blocks]
    own = [_by_number(layer.blocks.own) for layer in layers if layer.blocks]
    ranks = sorted({k for curve in shared for k, _ in curve})
    if not ranks:
        return []

    def medians(curves: Sequence[Points]) -> list[float | None]:
        return [median_of([dict(points).get(k) for points in curves]) for k in ranks]

    hover = "%{fullData.name}, k = %{x}: %{y:.3~p}"
    blue = {"color": "--blue", "dash": "solid"}
    orange = {"color": "--orange", "dash": "dash"}
    traces = [
        {**faint_curves(shared), "name": "all layers, shared"},
        curve("one shared basis", ranks, medians(shared), blue, hover),
        curve("each block its own", ranks, medians(own), orange, hover),
    ]
    views: list[list[Trace]] = [
        [
            {},
            {"y": [dict(kept).get(k) for k in ranks]},
            {"y": [dict(best).get(k) for k in ranks]},
        ]
        for kept, best in zip(shared, own, strict=True)
    ]
    return [
        Chart(
            "shared",
            "One basis for all neurons' blocks",
            "What rank-k bases keep of the blocks by output neuron. Where the two curves are close, one basis can be "
            "shared by all neurons, at a fraction of the memory. From k = the number of batches on, its own basis "
            "keeps all of a block. All layers: the median.",
            traces,
            {
                "height": 400,
                "xaxis": log_axis("rank k", ranks, tickvals=ranks),
                "yaxis": share_axis("squared norm kept"),
            },
            picker_of(layers, views, "all layers (median)"),
            is_wide=False,
        )
    ]


def _by_number(shares: dict[str, float]) -> Points:
    return sorted((int(k), share) for k, share in shares.items())


def activation_charts(profile: Profile) -> list[Chart]:
    """Return the spectra of the layers' inputs."""
    layers = [layer for layer in profile.layers if layer.activations is not None]
    if not layers:
        return []
    inputs = [layer.activations for layer in layers if layer.activations]
    curves = [_points(one) for one in inputs]
    effective = [one.effective_rank / one.width for one in inputs]
    stable = [one.stable_rank / one.width for one in inputs]
    spreads = [
        marks(layers, effective, "effective rank", "--blue", "circle"),
        marks(layers, stable, "stable rank", "--orange", "square"),
    ]
    typical = typical_curve({
        float(energy): [_needed(one, energy) for one in inputs]
        for energy in inputs[0].rank_at_energy
    })
    return [
        curve_chart(
            "inputs",
            "Energy of the layers' inputs",
            "Share of the inputs' energy in their leading directions. A gradient lies within the space its layer's "
            "inputs span, so narrow inputs make a narrow gradient.",
            layers,
            curves,
            typical=[(share, energy) for energy, share in typical],
            layout={
                "xaxis": log_axis(
                    "directions, as a share of the inputs' width",
                    [share for curve in curves for share, _ in curve],
                    tickformat=".2~p",
                ),
                "yaxis": share_axis("energy held"),
            },
        ),
        layer_chart(
            "input-ranks",
            "Spread of the inputs, layer by layer",
            "Effective rank: the exponential of the energies' entropy. Stable rank: all energy over the largest.",
            layers,
            spreads,
            yaxis=height_axis("share of the width", spreads),
        ),
    ]


def _needed(inputs: Activations, energy: str) -> float | None:
    rank = inputs.rank_at_energy.get(energy)
    return None if rank is None else rank / inputs.width


def _points(inputs: Activations) -> Points:
    at_rank = [(int(rank) / inputs.width, share) for rank, share in inputs.energy_at_rank.items()]
    at_energy = [(rank / inputs.width, float(e)) for e, rank in inputs.rank_at_energy.items()]
    return sorted(at_rank + at_energy)
