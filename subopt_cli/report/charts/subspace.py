"""How long a subspace lasts along training, and how much of one batch's gradient is signal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...findings.common import median_of
from ...findings.subspaces import captured_after, sources
from ..parts import Cell, Chart, Column, Table, Trace, plotly_text
from .by_layer import (
    curve_chart,
    faint_curves,
    layer_chart,
    level,
    log_axis,
    marks,
    picker_of,
    share_axis,
    typical_curve,
)

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Layer, Profile, SubspaceLife

_COLOURS = ("--blue", "--orange", "--green", "--purple", "--red")


def _followed(profile: Profile) -> list[Layer]:
    return [layer for layer in profile.layers if layer.subspace]


def life_charts(profile: Profile) -> list[Chart]:
    """Return the energy a basis holds some steps after it was fitted, for the typical layer or a picked one."""
    layers = _followed(profile)
    if not layers:
        return []
    names = sources(profile)
    lags = sorted({
        lag for layer in layers for life in (layer.subspace or {}).values() for lag in life.lag
    })
    faint = faint_curves([
        list(zip(life.lag, life.frozen, strict=True))
        for layer in layers
        for life in [(layer.subspace or {}).get(names[0])]
        if life is not None
    ])
    faint["name"] = plotly_text(f"all layers, {names[0]}, frozen")
    traces = [faint]
    for source, colour in zip(names, _COLOURS, strict=False):
        lives = [life for layer in layers if (life := (layer.subspace or {}).get(source))]
        traces += [
            _curve(f"{source}, {word}", lags, _typical(lives, lags, tracked=is_on), colour, dash)
            for word, is_on, dash in (("frozen", False, "solid"), ("followed", True, "dash"))
        ]
    first = [next(iter((layer.subspace or {}).values())) for layer in layers]
    most = median_of([life.own for life in first])
    chance = median_of([life.chance for life in first])
    traces += [
        _curve("the most any basis holds", lags, [most] * len(lags), "--grey", "dashdot"),
        _curve("a random basis", lags, [chance] * len(lags), "--grey", "dot"),
    ]
    views = [_view(layer, names, lags) for layer in layers]
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


def _typical(
    lives: Sequence[SubspaceLife], lags: Sequence[int], *, tracked: bool
) -> list[float | None]:
    return [
        median_of([captured_after(life, lag, tracked=tracked) for life in lives]) for lag in lags
    ]


def _view(layer: Layer, names: Sequence[str], lags: Sequence[int]) -> list[Trace]:
    lives = layer.subspace or {}
    view: list[Trace] = [{}]
    for source in names:
        held = [lives[source]] if source in lives else []
        view += [{"y": _typical(held, lags, tracked=is_on)} for is_on in (False, True)]
    first = next(iter(lives.values()))
    return [*view, {"y": [first.own] * len(lags)}, {"y": [first.chance] * len(lags)}]


def life_tables(profile: Profile) -> list[Table]:
    """Return what the curves support: how long a basis may be kept, by layer and source."""
    layers = _followed(profile)
    if not layers:
        return []
    names = sources(profile)
    columns: list[Column[Any]] = [Column("layer", "text"), Column("rank")]
    for source in names:
        columns += [Column(f"{source}: next step"), Column(f"{source}: refresh after")]
    rows = []
    for layer in layers:
        lives = [(layer.subspace or {}).get(source) for source in names]
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
            is_folded=True,
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
        layer_chart(
            "signal",
            "Signal in one batch's gradient",
            "Share of a batch's gradient energy that all batches have in common, at fixed weights (unbiased, so it can "
            "fall below none).",
            layers,
            [
                marks(layers, [one.signal_share for one in found], "signal", "--blue", "circle"),
                level(layers, [0.5] * len(layers), "half", "dot"),
            ],
            yaxis={"title": {"text": "share of the energy"}, "tickformat": ".0%"},
            height=420,
            showlegend=False,
        ),
        layer_chart(
            "batches-needed",
            "Batches to average for half signal",
            "How many batches like these must be averaged until half of the gradient's energy is signal (the gradient "
            "noise scale). No mark: no signal was found.",
            layers,
            [marks(layers, needed, "batches", "--orange", "square", value_format=".3~g")],
            yaxis=log_axis("batches", needed, tickformat=".2~g"),
            height=420,
        ),
    ]
    if any(curves):
        charts.append(_kept_chart(layers, curves))
    return charts


def _kept_chart(layers: Sequence[Layer], curves: Sequence[list[tuple[float, float]]]) -> Chart:
    averaged = sorted({b for curve in curves for b, _ in curve})
    return curve_chart(
        "noise-kept",
        "What a basis from more batches holds",
        "Energy of the held-out batches' mean gradient in the leading directions of the mean of so many batches: where "
        "the curve is flat, a larger batch finds no better subspace.",
        layers,
        curves,
        typical=typical_curve({b: [dict(curve).get(b) for curve in curves] for b in averaged}),
        layout={
            "xaxis": log_axis("batches averaged", averaged, tickvals=averaged),
            "yaxis": share_axis("energy of the mean gradient"),
        },
        is_wide=True,
    )
