"""How diagonal the second moment is, before and after a rotation: by layer, as histograms, and as steps taken."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from ...text import plural
from ..parts import Chart, Picker, Trace
from .by_layer import layer_chart, level, log_axis, marks, picker_of, share_axis

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Layer, OffDiagonal, Profile, Ratio

# basis, its name in a legend, its colour and its mark; the same in every chart
BASES = (
    ("raw", "as is", "--grey", "circle"),
    ("one_sided", "rotated, one side", "--sky", "square"),
    ("two_sided", "rotated, two sides", "--blue", "diamond"),
    ("covariance", "in the covariance's basis", "--orange", "triangle-up"),
    ("low_rank", "projected to the rank", "--purple", "cross"),
)
_STALE = (("--green", "x"), ("--red", "triangle-down"), ("--purple", "star"))


def diagonality_charts(profile: Profile) -> list[Chart]:
    """Return the diagonal share of each layer in each basis, next to what noise would give."""
    layers = [layer for layer in profile.layers if layer.diagonality is not None]
    if not layers:
        return []
    columns = [
        ([_ratio(layer, basis) for layer in layers], label, colour, symbol)
        for basis, label, colour, symbol in BASES
    ]
    columns = [column for column in columns if any(column[0])]
    lags = sorted({int(lag) for layer in layers for lag in _stale(layer)})
    for (colour, symbol), lag in zip(_STALE, lags[:1] + lags[-1:] * (len(lags) > 1), strict=False):
        found = [_stale(layer).get(str(lag)) for layer in layers]
        columns.append((found, f"one side, {plural(lag, 'step')} old", colour, symbol))
    traces = [
        marks(layers, [one.ratio if one else None for one in column], label, colour, symbol)
        for column, label, colour, symbol in columns
    ]
    unbiased: list[Trace] = [{"y": [_positive(one) for one in column]} for column, *_ in columns]
    noise = [
        layer.diagonality.white_noise.get("raw") if layer.diagonality else None for layer in layers
    ]
    shown = _range([y for trace in traces for y in trace["y"]])
    ends = [10**bound for bound in shown]
    is_below = all(value is None or value < ends[0] for value in noise)
    label = f"pure noise of that size{' (below the chart)' if is_below else ''}"
    traces.append(level(layers, noise, label, "dot"))
    return [
        layer_chart(
            "diagonality",
            "Diagonal share of the second moment",
            "What a method that treats every coordinate by itself, as Adam does, can see of the gradients' second "
            "moment, in the layer's own coordinates and in rotated ones. A rotation pays where its marks lie clearly "
            "above 'as is'. The measured share is biased low for few batches, alike in all bases; the unbiased one can "
            "exceed 100 %." + _in_sample_remark(layers),
            layers,
            traces,
            yaxis=log_axis("diagonal share", ends, tickformat=".2~p", range=shown),
            height=470,
            picker=Picker("Show", ["as measured", "without its bias"], [unbiased]),
            is_wide=True,
        )
    ]


def _range(values: Sequence[float | None]) -> list[float]:
    """The logarithms between which the values lie, with some room: noise far below them may not squeeze them."""
    known = [math.log10(value) for value in values if value]
    return [min(known, default=-3.0) - 0.7, max(known, default=0.0) + 0.2]


def _ratio(layer: Layer, basis: str) -> Ratio | None:
    found: Ratio | None = getattr(layer.diagonality, basis)
    return found


def _stale(layer: Layer) -> Mapping[str, Ratio]:
    return layer.diagonality.stale if layer.diagonality else {}


def _positive(ratio: Ratio | None) -> float | None:
    """The unbiased share where a logarithmic axis can show it."""
    return ratio.unbiased if ratio and ratio.unbiased is not None and ratio.unbiased > 0 else None


def _in_sample_remark(layers: Sequence[Layer]) -> str:
    judged = [_ratio(layer, basis) for layer in layers for basis, *_ in BASES]
    if not any(one is not None and one.in_sample for one in judged):
        return ""
    return " Some bases were judged on the gradients they were fitted to, which flatters them: use more batches."


def off_diagonal_charts(profile: Profile) -> list[Chart]:
    """Return histograms of sampled off-diagonal entries, by size and by size relative to the diagonal."""
    layers = [layer for layer in profile.layers if layer.off_diagonal is not None]
    # Counts can be added up where the bins are the same.
    layers = [layer for layer in layers if _edges(layer) == _edges(layers[0])]
    if not layers:
        return []
    caption = "The same pairs of coordinates in every basis. A curve further to the left: a more diagonal matrix."
    return [
        _histogram(
            "offdiagonal",
            "Off-diagonal entries, scale-free",
            "Each entry as a share of its two diagonal entries' mean size, |C_ij| / sqrt(C_ii C_jj); with few batches "
            f"many entries correlate by chance. {caption}",
            "|C_ij| / sqrt(C_ii C_jj)",
            layers,
            [layer.off_diagonal.scale_free for layer in layers if layer.off_diagonal],
        ),
        _histogram(
            "offdiagonal-size",
            "Off-diagonal entries, by size",
            f"Each entry over the mean of the diagonal. {caption}",
            "|C_ij| / mean of the diagonal",
            layers,
            [layer.off_diagonal.absolute for layer in layers if layer.off_diagonal],
        ),
    ]


def _edges(layer: Layer) -> list[float]:
    found: OffDiagonal | None = layer.off_diagonal
    return found.edges if found else []


def _histogram(
    name: str,
    title: str,
    caption: str,
    x_title: str,
    layers: Sequence[Layer],
    counts: Sequence[Mapping[str, list[int]]],
) -> Chart:
    edges = _edges(layers[0])
    centres = [10 ** ((low + high) / 2) for low, high in pairwise(edges)]
    bases = [(basis, label, colour) for basis, label, colour, _ in BASES if basis in counts[0]]
    traces: list[Trace] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": label,
            "x": centres,
            "y": [
                sum(column) or None
                for column in zip(*(one[basis] for one in counts if basis in one), strict=True)
            ],
            "hovertemplate": "%{fullData.name}: %{y:,} pairs near %{x:.1e}<extra></extra>",
            "line": {"color": colour, "width": 2, "shape": "hvh"},
        }
        for basis, label, colour in bases
    ]
    views = [
        [{"y": [number or None for number in one.get(basis, [])]} for basis, *_ in bases]
        for one in counts
    ]
    return Chart(
        name,
        title,
        caption,
        traces,
        {
            "height": 400,
            "xaxis": log_axis(x_title, centres, exponentformat="power"),
            "yaxis": {"type": "log", "title": {"text": "pairs (log scale)"}, "dtick": 1},
        },
        picker_of(layers, views, "all layers together"),
        is_wide=False,
    )


def agreement_charts(profile: Profile) -> list[Chart]:
    """Return the cosine between the diagonal step and the full one, for each layer and basis."""
    layers = [layer for layer in profile.layers if layer.agreement is not None]
    if not layers:
        return []
    found = [layer.agreement for layer in layers if layer.agreement is not None]
    bases = [item for item in BASES if any(item[0] in one.cosine for one in found)]
    traces = [
        marks(layers, [one.cosine.get(basis) for one in found], *style, value_format=".3f")
        for basis, *style in bases
    ]
    inside: list[Trace] = [{"y": [one.in_span.get(basis) for one in found]} for basis, *_ in bases]
    outside = [one.share_outside for one in found]
    return [
        layer_chart(
            "agreement",
            "Agreement with the full preconditioner's step",
            "Cosine between the step that a diagonal preconditioner takes in a basis and the step of the full one, on "
            "gradients neither was made of: 1 is the same direction. Between "
            f"{min(outside):.0%} and {max(outside):.0%} of those gradients lies outside what the measured batches "
            "span, where the full preconditioner knows nothing.",
            layers,
            traces,
            yaxis=share_axis("cosine", tickformat=".1f", range=[-0.05, 1.05]),
            height=430,
            picker=Picker("Judge", ["the whole step", "within the measured span"], [inside]),
            is_wide=True,
        )
    ]
