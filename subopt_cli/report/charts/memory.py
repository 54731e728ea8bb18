"""What every method takes of the memory: its peak by category against the budget, and what its optimizer keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ...units import format_bytes
from ..parts import Chart, Picker, Trace, plotly_text
from .by_layer import bars, rule

if TYPE_CHECKING:
    from subopt.profilers.record.profile import MethodCost, Peak, Phase, Profile

CATEGORIES = (
    ("parameter", "parameters", "--grey"),
    ("gradient", "gradients", "--green"),
    ("state", "optimizer state", "--red"),
    ("activation", "activations", "--blue"),
    ("temporary", "temporaries", "--orange"),
    ("whole", "not split", "--sky"),
)
PHASES: tuple[Phase, ...] = ("forward", "backward", "step", "refresh")
_ROW = 24  # pixels of a bar with its gap


def memory_charts(
    profile: Profile, *, budget_bytes: int | None, usable_bytes: int | None
) -> list[Chart]:
    """Return the peak of every method by category against the budget, and what its optimizer keeps."""
    rows = [cost for cost in profile.methods if cost.peak is not None]
    rows.sort(key=lambda cost: cost.peak.bytes if cost.peak else 0, reverse=True)
    charts = [_peak_chart(rows, budget_bytes, usable_bytes)] if rows else []
    return [*charts, *_state_chart(profile)]


def _peak_chart(
    rows: Sequence[MethodCost], budget_bytes: int | None, usable_bytes: int | None
) -> Chart:
    peaks = [cost.peak for cost in rows if cost.peak]
    largest = max([budget_bytes or 0, *(peak.high_bytes for peak in peaks)])
    divisor, unit = _unit(largest)
    sources = " or ".join(sorted({peak.source for peak in peaks}))
    highest = [_at_phase(peak, None) for peak in peaks]
    phases = [phase for phase in PHASES if any(phase in peak.categories for peak in peaks)]
    by_phase = [[_at_phase(peak, phase) for peak in peaks] for phase in phases]
    held = {category for instant in [highest, *by_phase] for one in instant for category in one}
    series = [item for item in CATEGORIES if item[0] in held]
    names = [cost.method for cost in rows]
    hover = f"%{{y}}: %{{x:.3~g}} {unit} of %{{fullData.name}}"
    traces = [
        bars(
            names,
            _lengths(highest, category, divisor),
            hover,
            name=label,
            marker={"color": colour},
        )
        for category, label, colour in series
    ]
    traces.append(_interval(rows, peaks, divisor))
    views: list[list[Trace]] = [
        [
            *({"x": _lengths(instant, category, divisor)} for category, _, _ in series),
            {"visible": False},
        ]
        for instant in by_phase
    ]
    limits = _limits(budget_bytes, usable_bytes)
    return Chart(
        "memory",
        "Peak memory of a training step",
        f"Bars: what fills the highest instant, {sources}; whiskers: the interval the true peak lies in. The "
        "driver's context is in neither, but taken off what is usable: whiskers that end left of that line fit.",
        traces,
        {
            "height": 120 + _ROW * len(rows),
            "barmode": "stack",
            "bargap": 0.3,
            "xaxis": {"title": {"text": unit}, "rangemode": "tozero"},
            "yaxis": {"type": "category"},
            "shapes": [rule("x", size / divisor, "--ink", dash) for size, _, dash in limits],
            "annotations": [_limit_label(name, size, divisor) for size, name, _ in limits],
            "margin": {"l": 56, "r": 16, "t": 48, "b": 48},
            "legend": {"traceorder": "normal"},
        },
        Picker("Instant", ["the highest", *(f"highest of the {phase}" for phase in phases)], views)
        if views
        else None,
    )


def _at_phase(peak: Peak, phase: Phase | None) -> Mapping[str, int]:
    """What fills a phase's highest instant, the peak's own by default; the whole as one where it was not followed."""
    categories = peak.categories.get(phase or peak.phase, {})
    held = {str(category): size for category, size in categories.items()}
    return held if held or phase else {"whole": peak.bytes}


def _lengths(held: Sequence[Mapping[str, int]], category: str, divisor: int) -> list[float]:
    return [one.get(category, 0) / divisor for one in held]


def _interval(rows: Sequence[MethodCost], peaks: Sequence[Peak], divisor: int) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "interval",
        "y": [plotly_text(cost.method) for cost in rows],
        "x": [peak.bytes / divisor for peak in peaks],
        "text": [
            f"{format_bytes(peak.low_bytes)} to {format_bytes(peak.high_bytes)}" for peak in peaks
        ],
        "hovertemplate": "%{y}: between %{text}<extra></extra>",
        "marker": {"color": "--ink", "size": 5, "symbol": "line-ns-open"},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [(peak.high_bytes - peak.bytes) / divisor for peak in peaks],
            "arrayminus": [(peak.bytes - peak.low_bytes) / divisor for peak in peaks],
            "color": "--ink",
            "thickness": 1.3,
            "width": 4,
        },
    }


def _unit(largest: int) -> tuple[int, str]:
    """The binary unit in which the largest number has at most four digits before the point."""
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if largest >= 2**power:
            return 2**power, unit
    return 1, "bytes"


def _limits(budget_bytes: int | None, usable_bytes: int | None) -> list[tuple[int, str, str]]:
    limits = []
    if usable_bytes is not None and usable_bytes != budget_bytes:
        limits.append((usable_bytes, "usable", "dot"))
    if budget_bytes is not None:
        limits.append((budget_bytes, "budget", "dash"))
    return limits


def _limit_label(name: str, size: int, divisor: int) -> Trace:
    return {
        "x": size / divisor,
        "y": 0,
        "yref": "paper",
        "yanchor": "bottom",
        "xanchor": "right",
        "textangle": -90,
        "showarrow": False,
        "text": f"{name} {format_bytes(size)}",
        "font": {"size": 11, "color": "--ink"},
    }


def _state_chart(profile: Profile) -> list[Chart]:
    rows = sorted(profile.methods, key=lambda cost: cost.state_bytes, reverse=True)
    if not rows:
        return []
    divisor, unit = _unit(rows[0].state_bytes)
    trace = bars(
        [cost.method for cost in rows],
        [cost.state_bytes / divisor for cost in rows],
        "%{y}: %{text}",
        text=[format_bytes(cost.state_bytes) for cost in rows],
        textposition="auto",
        marker={"color": ["--red" if cost.method == "adamw" else "--blue" for cost in rows]},
    )
    return [
        Chart(
            "state",
            "What each optimizer keeps between two steps",
            "Exact bytes of state for all parameters, the fallback's included. AdamW, the usual baseline, stands out.",
            [trace],
            {
                "height": 80 + _ROW * len(rows),
                "bargap": 0.3,
                "xaxis": {"title": {"text": unit}},
                "yaxis": {"type": "category"},
            },
        )
    ]
