"""The race: each method's loss against seconds, steps and tokens, at its best rate and options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ...findings.race import counted_runs, mean_curve, race_summary
from ...units import format_ms
from ..parts import Chart, Part, Picker, Sentences, Trace, plotly_text

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Contestant, CurvePoint, Profile, Race

_COLOURS = ("--blue", "--orange", "--green", "--sky", "--red", "--grey")
_DASHES = ("solid", "dash", "dot")
_SHOWN = 6  # curves that are on at the beginning; the others wait in the legend

_AXES: tuple[tuple[str, Callable[[CurvePoint], float]], ...] = (
    ("seconds of training", lambda point: point.seconds),
    ("steps", lambda point: float(point.step)),
    ("tokens", lambda point: float(point.tokens)),
)


def race_parts(profile: Profile) -> list[Part]:
    """Return what the race found out, and its learning curves; nothing where the profile has no race."""
    race = profile.race
    if race is None:
        return []
    ran = [(contestant, _points(race, contestant)) for contestant in race.contestants]
    drawn = [(contestant, points) for contestant, points in ran if points]
    parts: list[Part] = [Sentences(race_summary(race))]
    return [*parts, _chart(race, drawn)] if drawn else parts


def _points(race: Race, contestant: Contestant) -> list[tuple[CurvePoint, float]]:
    return mean_curve(counted_runs(race, contestant))


def _chart(
    race: Race, drawn: Sequence[tuple[Contestant, Sequence[tuple[CurvePoint, float]]]]
) -> Chart:
    traces = [_trace(index, contestant, points) for index, (contestant, points) in enumerate(drawn)]
    views: list[list[Trace]] = [
        [{"x": [read(point) for point, _ in points]} for _, points in drawn]
        for _, read in _AXES[1:]
    ]
    axis: dict[str, Any] = {"title": {"text": race.metric}}
    if all(loss > 0 for _, points in drawn for _, loss in points):
        axis = {"type": "log", "title": {"text": f"{race.metric} (log scale)"}}
    caption = (
        f"Mean over the seeds of each method at its best setting. Everybody trained for "
        f"{format_ms(1000 * race.horizon_seconds)} of steps, so that against seconds all curves end together: "
        "the lower end is the better one. Against steps or tokens a quick method goes further."
    )
    return Chart(
        "race",
        "Learning curves of the race",
        caption,
        traces,
        {
            "height": 420,
            "xaxis": {"title": {"text": "training"}, "rangemode": "tozero"},
            "yaxis": axis,
        },
        Picker("Against", [name for name, _ in _AXES], views),
    )


def _trace(index: int, contestant: Contestant, points: Sequence[tuple[CurvePoint, float]]) -> Trace:
    _, read = _AXES[0]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": plotly_text(contestant.method),
        "x": [read(point) for point, _ in points],
        "y": [loss for _, loss in points],
        "customdata": [[point.step, point.tokens] for point, _ in points],
        "hovertemplate": (
            "%{fullData.name}: %{y:.4~g}<br>step %{customdata[0]:,}, %{customdata[1]:,} tokens<extra></extra>"
        ),
        "visible": True if index < _SHOWN else "legendonly",
        "marker": {"size": 5, "color": _COLOURS[index % len(_COLOURS)]},
        "line": {
            "width": 3 if contestant.verdict == "baseline" else 1.8,
            "color": _COLOURS[index % len(_COLOURS)],
            "dash": _DASHES[index // len(_COLOURS) % len(_DASHES)],
        },
    }
