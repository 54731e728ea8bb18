"""How many directions a gradient has: energy by rank, rank by energy, and the heat map of layers and metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...findings.common import captured_share, needed_share, short_side, spread_share
from ..parts import Chart, Trace, plotly_text
from .by_layer import (
    NAMED_TICKS,
    WHISKERS,
    Points,
    Read,
    curve_chart,
    height_axis,
    labels,
    layer_chart,
    log_axis,
    marks,
    numbers,
    rule,
    share_axis,
    typical_curve,
)

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Layer, Profile, Ratio

THRESHOLDS = (
    ("0.90", "--sky", "circle"),
    ("0.95", "--blue", "square"),
    ("0.99", "--orange", "diamond"),
)


def spectra_charts(profile: Profile) -> list[Chart]:
    """Return energy at rank, and the ranks at 90, 95 and 99 % of the energy, for each layer with a spectrum."""
    layers = [layer for layer in profile.layers if layer.spectrum is not None]
    return [_energy_chart(profile, layers), _rank_chart(layers)] if layers else []


def _energy_chart(profile: Profile, layers: Sequence[Layer]) -> Chart:
    typical = typical_curve({
        float(energy): [needed_share(layer, energy) for layer in layers]
        for energy, _, _ in THRESHOLDS
    })
    lines = [rule("y", float(energy)) for energy, _, _ in THRESHOLDS]
    rank = profile.settings.rank
    if isinstance(rank, float):
        lines.append(rule("x", rank))
    bounded = sum(
        layer.spectrum is not None and layer.spectrum.sketched_rank is not None for layer in layers
    )
    caption = (
        "Share of the gradient's energy (squared singular values) in its leading directions: the further a curve is "
        "to the upper left, the less a low-rank method loses. Dotted: 90, 95 and 99 % of the energy"
        + (", and the rank asked for. " if isinstance(rank, float) else ". ")
        + "The typical layer is the median of all."
    )
    if bounded:
        caption += (
            f" In {bounded} of {len(layers)} layers a sketch resolved the leading directions only: what lies beyond "
            "them is a bound."
        )
    curves = [spectrum_points(layer) for layer in layers]
    return curve_chart(
        "energy",
        "Energy kept at each rank",
        caption,
        layers,
        curves,
        typical=[(share, energy) for energy, share in typical],
        layout={
            "xaxis": log_axis(
                "rank, as a share of the layer's short side",
                [share for curve in curves for share, _ in curve],
                tickformat=".2~p",
            ),
            "yaxis": share_axis("energy kept", range=[_lowest(curves), 1.01]),
            "shapes": lines,
        },
    )


def _lowest(curves: Sequence[Points]) -> float:
    """Where the axis of energies begins: below all curves and the lowest threshold."""
    lowest = min((energy for curve in curves for _, energy in curve), default=0.9)
    return max(0.0, min(lowest, 0.9) - 0.04)


def spectrum_points(layer: Layer) -> Points:
    """Return (share of the directions, share of the energy) for every rank and every energy in the record."""
    if layer.spectrum is None:
        return []
    m = short_side(layer.shape)
    at_rank = [(int(rank) / m, kept.mean) for rank, kept in layer.spectrum.energy_at_rank.items()]
    at_energy = [
        (rank.mean / m, float(share)) for share, rank in layer.spectrum.rank_at_energy.items()
    ]
    return sorted(at_rank + at_energy)


def _rank_chart(layers: Sequence[Layer]) -> Chart:
    traces = []
    for energy, colour, symbol in THRESHOLDS:
        values = [needed_share(layer, energy) for layer in layers]
        trace = marks(layers, values, f"{float(energy):.0%} of the energy", colour, symbol)
        if len(layers) <= WHISKERS:
            trace["error_y"] = _whiskers(layers, energy, values)
        traces.append(trace)
    caption = "Directions that hold that much of the gradient's energy, mean over the batches"
    caption += ", whiskers from the least to the most." if len(layers) <= WHISKERS else "."
    yaxis = height_axis("share of the short side", traces)
    title = "Directions needed, layer by layer"
    return layer_chart("ranks", title, caption, layers, traces, yaxis=yaxis)


def _whiskers(layers: Sequence[Layer], energy: str, values: Sequence[float | None]) -> Trace:
    ends = []
    for layer, value in zip(layers, values, strict=True):
        up = down = 0.0
        if layer.spectrum is not None and value is not None:
            spread, m = layer.spectrum.rank_at_energy[energy], short_side(layer.shape)
            up, down = spread.max / m - value, value - spread.min / m
        ends.append((up, down))
    return {
        "type": "data",
        "symmetric": False,
        "array": [up for up, _ in ends],
        "arrayminus": [down for _, down in ends],
        "thickness": 1,
        "width": 2,
    }


def heat_map(profile: Profile) -> list[Chart]:
    """Return the chart of all layers and the metrics that are shares, each metric coloured over its own range."""
    layers = [layer for layer in profile.layers if layer.spectrum or layer.activations]
    table = [(name, [read(layer) for layer in layers]) for name, read in _metrics(profile)]
    known = [(name, values) for name, values in table if any(v is not None for v in values)]
    if not known:
        return []
    values = [list(row) for row in zip(*(column for _, column in known), strict=True)]
    trace: Trace = {
        "type": "heatmap",
        "x": [name for name, _ in known],
        "y": numbers(layers),
        "z": [list(row) for row in zip(*(_scaled(column) for _, column in known), strict=True)],
        "customdata": [[plotly_text(layer.name)] * len(known) for layer in layers],
        "text": values,
        "texttemplate": "%{text:.2~p}" if len(layers) <= NAMED_TICKS else "",
        "hovertemplate": "%{customdata}<br>%{x}: %{text:.3~p}<extra></extra>",
        "colorscale": "Cividis",
        "showscale": False,
        "xgap": 1,
        "ygap": 1 if len(layers) <= NAMED_TICKS else 0,
    }
    return [
        Chart(
            "heat",
            "Every layer, every metric",
            "Dark is the least of a column, bright the most; a cell's value is its share. Blank: not measured.",
            [trace],
            {
                "margin": {"l": 56, "r": 40, "t": 12, "b": 16},
                "height": 130 + (24 if len(layers) <= NAMED_TICKS else 11) * len(layers),
                "xaxis": {"side": "top", "type": "category", "tickangle": -35, "showgrid": False},
                "yaxis": {
                    "autorange": "reversed",
                    "type": "category",
                    "labelalias": labels(layers),
                    "showgrid": False,
                },
            },
            least_width=720,
        )
    ]


def _scaled(values: Sequence[float | None]) -> list[float | None]:
    """The values between 0, the least, and 1, the most: positions on the scale of colours."""
    known = [value for value in values if value is not None]
    low, high = min(known), max(known)
    width = (high - low) or 1.0
    return [None if value is None else (value - low) / width for value in values]


def _metrics(profile: Profile) -> list[tuple[str, Read]]:
    """The metrics that are shares, in reading order."""

    def diagonal(basis: str) -> Read:
        def read(layer: Layer) -> float | None:
            found: Ratio | None = getattr(layer.diagonality, basis, None)
            return None if found is None else found.ratio

        return read

    def agreement(layer: Layer) -> float | None:
        return layer.agreement.cosine.get("raw") if layer.agreement else None

    def lasting(layer: Layer) -> float | None:
        lives = list((layer.subspace or {}).values())
        return lives[0].frozen[-1] if lives and lives[0].frozen else None

    return [
        ("gradient's spread", spread_share),
        ("90% of energy in", lambda layer: needed_share(layer, "0.90")),
        ("95% of energy in", lambda layer: needed_share(layer, "0.95")),
        ("kept at the rank", lambda layer: captured_share(layer, profile.settings.rank)),
        ("held steps later", lasting),
        ("signal in a batch", lambda layer: layer.noise.signal_share if layer.noise else None),
        ("diagonal as is", diagonal("raw")),
        ("diagonal, 1 side", diagonal("one_sided")),
        ("diagonal, 2 sides", diagonal("two_sided")),
        ("diagonal, covar.", diagonal("covariance")),
        ("agrees with full", agreement),
        ("in output blocks", lambda layer: layer.blocks.by_output if layer.blocks else None),
        ("inputs' spread", _input_spread),
    ]


def _input_spread(layer: Layer) -> float | None:
    inputs = layer.activations
    return inputs.effective_rank / inputs.width if inputs else None
