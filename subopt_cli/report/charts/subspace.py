"""How long a subspace lasts along training, and how much of one batch's gradient is signal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...findings.common import median_of
from ..parts import Cell, Chart, Column, Table, Trace, plotly_text
from .by_layer import (
    curve_chart,
    faint_curves,
    layer_axis,
    level,
    log_axis,
    marks,
    picker_of,
    share_axis,
)

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Layer, Profile, SubspaceLife

_COLOURS = ("--blue", "--orange", "--green", "--purple", "--red")


def _followed(profile: Profile) -> list[Layer]:
    return [layer for layer in profile.layers if layer.subspace]


def _sources(layers: Sequence[Layer]) -> list[str]:
    """What bases are of, in the order of the first layer that has them."""
    return list(dict.fromkeys(source for layer in layers for source in layer.subspace or {}))


def life_charts(profile: Profile) -> list[Chart]:
    """Return the energy a basis holds some steps after it was fitted, for the typical layer or a picked one."""
    layers = _followed(profile)
    if not layers:
        return []
    sources = _sources(layers)
    lags = sorted({
        lag for layer in layers for life in (layer.subspace or {}).values() for lag in life.lag
    })
    faint = faint_curves([
        list(zip(life.lag, life.frozen, strict=True))
        for layer in layers
        for life in [(layer.subspace or {}).get(sources[0])]
        if life is not None
    ])
    faint["name"] = plotly_text(f"all layers, {sources[0]}, frozen")
    traces = [faint]
    for source, colour in zip(sources, _COLOURS, strict=False):
        lives = [life for layer in layers if (life := (layer.subspace or {}).get(source))]
        traces += [
            _curve(f"{source}, frozen", lags, _typical(lives, lags, "frozen"), colour, "solid"),
            _curve(f"{source}, followed", lags, _typical(lives, lags, "tracked"), colour, "dash"),
        ]
    first = [next(iter((layer.subspace or {}).values())) for layer in layers]
    for name, dash in (("own", "dashdot"), ("chance", "dot")):
        height = median_of([getattr(life, name) for life in first])
        label = {"own": "the most any basis holds", "chance": "a random basis"}[name]
        traces.append(_curve(label, lags, [height] * len(lags), "--grey", dash))
    views = [_view(layer, sources, lags) for layer in layers]
    return [
        Chart(
            "life",
            "Energy a basis still holds, steps later",
            "A basis is fitted to one step's gradient, momentum or accumulated covariance and judged on the gradients "
            "of later steps. Frozen: kept as it was, as between two refreshes; followed: moved at every step by online "
            "PCA. On the line of a random basis it is worth nothing. All layers: the median.",
            traces,
            {
                "height": 460,
                "xaxis": log_axis("training steps since the basis was fitted", lags, tickvals=lags),
                "yaxis": share_axis("energy held"),
            },
            picker_of(layers, views, "all layers (median)"),
        )
    ]


def _curve(
    label: str, lags: Sequence[int], values: Sequence[float | None], colour: str, dash: str
) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines" if colour == "--grey" else "lines+markers",
        "name": plotly_text(label),
        "x": lags,
        "y": values,
        "hovertemplate": "%{fullData.name}, %{x} steps: %{y:.3~p}<extra></extra>",
        "line": {"color": colour, "width": 2.2, "dash": dash},
        "marker": {"size": 6},
    }


def _typical(lives: Sequence[SubspaceLife], lags: Sequence[int], kind: str) -> list[float | None]:
    return [median_of([_at(life, kind, lag) for life in lives]) for lag in lags]


def _at(life: SubspaceLife | None, kind: str, lag: int) -> float | None:
    values = getattr(life, kind, None)
    if life is None or values is None or lag not in life.lag:
        return None
    found: float = values[life.lag.index(lag)]
    return found


def _view(layer: Layer, sources: Sequence[str], lags: Sequence[int]) -> list[Trace]:
    lives = layer.subspace or {}
    view: list[Trace] = [{}]
    for source in sources:
        view += [
            {"y": [_at(lives.get(source), kind, lag) for lag in lags]}
            for kind in ("frozen", "tracked")
        ]
    first = next(iter(lives.values()))
    return [*view, {"y": [first.own] * len(lags)}, {"y": [first.chance] * len(lags)}]


def life_tables(profile: Profile) -> list[Table]:
    """Return what the curves support: how long a basis may be kept, by layer and source."""
    layers = _followed(profile)
    if not layers:
        return []
    sources = _sources(layers)
    columns = [Column("layer", "text"), Column("rank")]
    for source in sources:
        columns += [Column(f"{source}: next step"), Column(f"{source}: refresh after")]
    rows = []
    for layer in layers:
        lives = [(layer.subspace or {}).get(source) for source in sources]
        rank = next((life.rank for life in lives if life), None)
        row = [Cell(layer.name), Cell(str(rank), rank)]
        for life in lives:
            row += _life_cells(life)
        rows.append(row)
    return [
        Table(
            "periods",
            "How long a basis may be kept",
            "'next step' is the energy a frozen basis holds one step after it was fitted; 'refresh after' the longest "
            "time between refreshes that the frozen curve supports. 'noise': it holds no more than chance explains, "
            "so that no period makes sense for this source.",
            columns,
            rows,
        )
    ]


def _life_cells(life: SubspaceLife | None) -> list[Cell]:
    if life is None or not life.frozen:
        return [Cell("-"), Cell("-")]
    kept = Cell(f"{life.frozen[0]:.0%}", life.frozen[0], bar=min(1.0, life.frozen[0]))
    if life.is_noise:
        return [kept, Cell("noise", 0)]
    if life.period is None:
        return [kept, Cell(f"over {life.lag[-1]} steps", life.lag[-1] + 1)]
    return [kept, Cell(f"{life.period} steps", life.period)]


def noise_charts(profile: Profile) -> list[Chart]:
    """Return how much of one batch's gradient is common to all batches, and what more batches would change."""
    layers = [layer for layer in profile.layers if layer.noise is not None]
    if not layers:
        return []
    found = [layer.noise for layer in layers if layer.noise is not None]
    needed = [one.batches_needed for one in found]
    curves = [sorted((float(b), share) for b, share in one.captured.items()) for one in found]
    charts = [
        Chart(
            "signal",
            "Signal in one batch's gradient",
            "Share of a batch's gradient energy that all batches have in common, at fixed weights (unbiased, so it can "
            "fall below none).",
            [
                marks(layers, [one.signal_share for one in found], "signal", "--blue", "circle"),
                level(layers, [0.5] * len(layers), "half", "dot"),
            ],
            {
                "height": 420,
                "showlegend": False,
                "xaxis": layer_axis(layers),
                "yaxis": {"title": {"text": "share of the energy"}, "tickformat": ".0%"},
            },
            is_wide=False,
        ),
        Chart(
            "batches-needed",
            "Batches to average for half signal",
            "How many batches like these must be averaged until half of the gradient's energy is signal (the gradient "
            "noise scale). No mark: no signal was found.",
            [marks(layers, needed, "batches", "--orange", "square", value_format=".3~g")],
            {
                "height": 420,
                "xaxis": layer_axis(layers),
                "yaxis": log_axis("batches", needed, tickformat=".2~g"),
            },
            is_wide=False,
        ),
    ]
    if any(curves):
        charts.append(_kept_chart(layers, curves))
    return charts


def _kept_chart(layers: Sequence[Layer], curves: Sequence[list[tuple[float, float]]]) -> Chart:
    averaged = sorted({b for curve in curves for b, _ in curve})
    middle = [
        (b, share)
        for b in averaged
        if (share := median_of([dict(curve).get(b) for curve in curves])) is not None
    ]
    layout: dict[str, Any] = {
        "xaxis": log_axis("batches averaged", averaged, tickvals=averaged),
        "yaxis": share_axis("energy of the mean gradient"),
    }
    return curve_chart(
        "noise-kept",
        "What a basis from more batches holds",
        "Energy of the held-out batches' mean gradient in the leading directions of the mean of so many batches: where "
        "the curve is flat, a larger batch finds no better subspace.",
        layers,
        curves,
        typical=middle,
        layout=layout,
        is_wide=True,
    )
