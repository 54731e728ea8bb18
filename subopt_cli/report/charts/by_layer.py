"""Two kinds of charts that most sections use: a mark for every layer, and a curve for every layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ...findings.common import median_of
from ...text import shorten
from ..parts import Chart, Picker, Trace, plotly_text

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Layer

NAMED_TICKS = 40  # layers up to which the axis has their names, beyond it their numbers
WHISKERS = 150  # layers up to which spreads are drawn
NAME_LENGTH = 26

Read: TypeAlias = Callable[["Layer"], float | None]
Points: TypeAlias = Sequence[tuple[float, float]]


def share_axis(title: str, **more: Any) -> dict[str, Any]:
    """Return an axis for shares between none and all."""
    return {"title": {"text": title}, "tickformat": ".0%", "range": [0, 1.03], **more}


def log_axis(title: str, values: Iterable[float | None], **more: Any) -> dict[str, Any]:
    """Return a logarithmic axis with ticks at 1, 2 and 5 where the values span few decades."""
    logs = [math.log10(value) for value in values if value is not None and value > 0]
    decades = max(logs, default=0.0) - min(logs, default=0.0)
    ticks = "D1" if decades < 0.5 else "D2" if decades < 2.5 else 1 if decades < 8 else 2
    return {"type": "log", "title": {"text": f"{title} (log scale)"}, "dtick": ticks, **more}


def rule(axis: Literal["x", "y"], at: float, colour: str = "--grey", dash: str = "dot") -> Trace:
    """Return a line across the whole chart at a value of an axis."""
    other = "x" if axis == "y" else "y"
    return {
        "type": "line",
        f"{axis}0": at,
        f"{axis}1": at,
        f"{other}0": 0,
        f"{other}1": 1,
        f"{other}ref": "paper",
        "layer": "below",
        "line": {"color": colour, "width": 1.4, "dash": dash},
    }


def short_names(layers: Sequence[Layer]) -> list[str]:
    """Return what a chart calls each layer: without a first word that all names share, and shortened in the middle."""
    names = [layer.name.removesuffix(".weight") for layer in layers]
    first = {name.partition(".")[0] for name in names}
    skipped = len(first.pop()) + 1 if len(first) == 1 and len(names) > 1 else 0
    return [shorten(name[skipped:] or name, NAME_LENGTH, "…") for name in names]


def layer_axis(layers: Sequence[Layer]) -> dict[str, Any]:
    """Return an axis of layers in the model's order; plotly leaves out the ticks that have no room."""
    named = len(layers) <= NAMED_TICKS
    title = "layer, in the model's order" + ("" if named else " (touch a mark for its name)")
    ticks = {"labelalias": labels(layers), "tickangle": -50} if named else {"nticks": 20}
    return {
        "type": "category",
        "categoryarray": numbers(layers),
        "title": {"text": title},
        **ticks,
    }


def numbers(layers: Sequence[Layer]) -> list[str]:
    """Return the layers' places on their axis: two layers may have one short name."""
    return [str(number) for number in range(1, len(layers) + 1)]


def labels(layers: Sequence[Layer]) -> dict[str, str]:
    """Return what stands at each layer's place on their axis."""
    return dict(zip(numbers(layers), map(plotly_text, short_names(layers)), strict=True))


def marks(
    layers: Sequence[Layer],
    values: Sequence[float | None],
    label: str,
    colour: str,
    symbol: str,
    *,
    value_format: str = ".3~p",
) -> Trace:
    """Return a mark for each layer."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plotly_text(label),
        "x": numbers(layers),
        "y": values,
        "text": [plotly_text(layer.name) for layer in layers],
        "hovertemplate": f"%{{text}}<br>%{{fullData.name}}: %{{y:{value_format}}}<extra></extra>",
        "marker": {"color": colour, "symbol": symbol, "size": 8 if len(layers) <= WHISKERS else 5},
    }


def bars(names: Sequence[str], lengths: Sequence[float], hover: str, **more: Any) -> Trace:
    """Return a horizontal bar for each name."""
    return {
        "type": "bar",
        "orientation": "h",
        "y": [plotly_text(name) for name in names],
        "x": lengths,
        "hovertemplate": f"{hover}<extra></extra>",
        **more,
    }


def curve(
    label: str,
    xs: Sequence[float],
    ys: Sequence[float | None],
    line: Mapping[str, Any],
    hover: str,
    *,
    mark_size: int = 7,
) -> Trace:
    """Return a curve with a mark at each of its points."""
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": plotly_text(label),
        "x": xs,
        "y": ys,
        "hovertemplate": f"{hover}<extra></extra>",
        "line": {"width": 2.2, **line},
        "marker": {"size": mark_size},
    }


def level(layers: Sequence[Layer], values: Sequence[float | None], label: str, dash: str) -> Trace:
    """Return a grey line over the layers, for what noise or chance gives."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": label,
        "x": numbers(layers),
        "y": values,
        "hovertemplate": "%{fullData.name}: %{y:.3~p}<extra></extra>",
        "line": {"color": "--grey", "width": 2, "dash": dash},
    }


def layer_chart(
    name: str,
    title: str,
    caption: str,
    layers: Sequence[Layer],
    traces: Sequence[Trace],
    *,
    yaxis: dict[str, Any],
    height: int = 448,  # what a neighbour's picker takes is given to the chart
    picker: Picker | None = None,
    is_wide: bool = False,
    **layout: Any,
) -> Chart:
    """Return a chart with the layers along its axis."""
    layout = {"height": height, "xaxis": layer_axis(layers), "yaxis": yaxis, **layout}
    return Chart(name, title, caption, traces, layout, picker, is_wide=is_wide)


def height_axis(title: str, traces: Sequence[Trace]) -> dict[str, Any]:
    """Return a logarithmic axis for the shares that traces show."""
    return log_axis(title, [y for trace in traces for y in trace["y"]], tickformat=".2~p")


def typical_curve(values: Mapping[float, Sequence[float | None]]) -> Points:
    """Return the median at each place where something is known, from all layers' values there."""
    medians = {at: median_of(found) for at, found in values.items()}
    return [(at, middle) for at, middle in medians.items() if middle is not None]


def faint_curves(curves: Sequence[Points]) -> Trace:
    """Return all curves as one faint trace: one path to draw however many they are."""
    points = [point for curve in curves for point in (*curve, (None, None))]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "all layers",
        "x": [x for x, _ in points],
        "y": [y for _, y in points],
        "hoverinfo": "skip",
        "line": {"color": "--faint", "width": 1.2},
    }


def curve_chart(
    name: str,
    title: str,
    caption: str,
    layers: Sequence[Layer],
    curves: Sequence[Points],
    *,
    typical: Points,
    layout: dict[str, Any],
    is_wide: bool = False,
) -> Chart:
    """Return a chart of one curve for each layer: all of them faint, the typical one, and one that is picked."""
    hover = "%{x:.3~p}: %{y:.3~p}"
    picked = curve("picked layer", [], [], {"color": "--red", "width": 2.5}, hover)
    picked["visible"] = False
    blue = {"color": "--blue", "width": 2.5, "dash": "dash"}
    middle = curve("typical layer", *_coordinates(typical), blue, hover)
    middle |= {"visible": True, "marker": {"size": 9, "symbol": "diamond"}}
    places = map(_coordinates, curves)
    views = [[{}, {}, {"visible": True, "x": xs, "y": ys}] for xs, ys in places]
    return Chart(
        name,
        title,
        caption,
        [faint_curves(curves), middle, picked],
        {"height": 400, **layout},
        picker_of(layers, views),
        is_wide=is_wide,
    )


def _coordinates(points: Points) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def picker_of(
    layers: Sequence[Layer],
    views: Sequence[Sequence[Trace]],
    first: str = "all layers",
) -> Picker:
    """Return the choice of a layer."""
    return Picker("Layer", [first, *(layer.name for layer in layers)], views)
