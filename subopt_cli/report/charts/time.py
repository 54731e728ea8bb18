"""Time: decompositions against online PCA, what they cost a training step, and the spike of a refresh."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...findings.common import ONLINE_PCA, decompositions_by_shape, refreshing
from ...text import shape_text
from ...units import format_ms
from ..parts import Chart, Picker, Trace, plotly_text
from .by_layer import bars, log_axis, rule

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Decomposition, Profile

_ROW = 24  # pixels of a method's line


def decomposition_charts(profile: Profile) -> list[Chart]:
    """Return the time of each kernel, and what it costs a training step, at each timed shape."""
    groups = decompositions_by_shape(profile)
    if not groups:
        return []
    options = [f"{shape_text(shape)}, rank {rank}" for shape, rank, _ in groups]
    device = groups[0][2][0].device
    return [
        _kernel_chart(
            "kernels",
            "Time of one run",
            f"Median on {device}, whiskers as long as the middle half of the runs.",
            options,
            [timings for _, _, timings in groups],
            "median_ms",
        ),
        _kernel_chart(
            "kernels-per-step",
            "Cost to a training step",
            "All layers of that shape together, at each way's own period: a decomposition now and then, online PCA at "
            "every step. This is the number that decides.",
            options,
            [timings for _, _, timings in groups],
            "ms_per_training_step",
        ),
    ]


def _kernel_chart(
    name: str,
    title: str,
    caption: str,
    options: Sequence[str],
    groups: Sequence[Sequence[Decomposition]],
    field: str,
) -> Chart:
    views = [_kernel_bars(timings, field) for timings in groups]
    times = [value for view in views for value in view["x"]]
    return Chart(
        name,
        title,
        caption,
        [views[0]],
        {
            "height": 150 + 34 * max(map(len, groups)),
            "bargap": 0.35,
            "xaxis": log_axis("milliseconds", times, tickformat="~g"),
            "yaxis": {"type": "category"},
        },
        Picker("Shape", options, [[view] for view in views[1:]]) if len(views) > 1 else None,
        is_wide=False,
    )


def _kernel_bars(timings: Sequence[Decomposition], field: str) -> Trace:
    ordered = sorted(timings, key=lambda timing: float(getattr(timing, field)), reverse=True)
    is_followed = [timing.kernel.startswith(ONLINE_PCA) for timing in ordered]
    trace = bars(
        [timing.kernel for timing in ordered],
        [getattr(timing, field) for timing in ordered],
        "%{y}: %{x:.3~g} ms<br>%{text}",
        text=[plotly_text(timing.driver or "") for timing in ordered],
        textposition="none",
        marker={"color": ["--orange" if followed else "--blue" for followed in is_followed]},
    )
    if field == "median_ms":
        trace["error_x"] = {
            "type": "data",
            "array": [timing.iqr_ms / 2 for timing in ordered],
            "color": "--ink",
            "thickness": 1.2,
            "width": 3,
        }
    return trace


def step_charts(profile: Profile) -> list[Chart]:
    """Return the time of an ordinary step, of one that refreshes everything, and of the longest staggered one."""
    rows = [cost for cost in profile.methods if cost.ordinary_ms is not None]
    if not rows:
        return []
    rows.sort(key=lambda cost: cost.refresh_ms or cost.ordinary_ms or 0.0, reverse=True)
    spiked = {cost.method for cost, _, _ in refreshing(profile)}
    series = (
        ("ordinary step", "--blue", "circle", [cost.ordinary_ms for cost in rows]),
        (
            "longest step if layers took turns (estimate)",
            "--orange",
            "diamond",
            [cost.staggered_ms if cost.method in spiked else None for cost in rows],
        ),
        (
            "step that refreshes all layers",
            "--red",
            "square",
            [cost.refresh_ms if cost.method in spiked else None for cost in rows],
        ),
    )
    traces: list[Trace] = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": label,
            "y": [plotly_text(cost.method) for cost in rows],
            "x": [value if value and value > 0 else None for value in values],
            "hovertemplate": "%{y}, %{fullData.name}: %{x:.3~g} ms<extra></extra>",
            "marker": {"color": colour, "symbol": symbol, "size": 9},
        }
        for label, colour, symbol, values in series
    ]
    return [_step_chart(traces, len(rows), profile.forward_backward_ms)]


def _step_chart(traces: Sequence[Trace], rows: int, passes_ms: float | None) -> Chart:
    caption = "The optimizer's own time in a step. A method that refreshes all layers in one step makes that step long"
    caption += ", unless refreshes are staggered."
    if passes_ms:
        caption += f" Dotted: one forward and backward pass, {format_ms(passes_ms)}."
    times = [value for trace in traces for value in trace["x"]]
    layout = {
        "height": 130 + _ROW * rows,
        "xaxis": log_axis("milliseconds", [*times, passes_ms], tickformat="~g"),
        "yaxis": {"type": "category"},
        "shapes": [rule("x", passes_ms)] if passes_ms else [],
    }
    return Chart("steps", "Time of a step, and the spike of a refresh", caption, traces, layout)
