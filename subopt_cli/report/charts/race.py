"""The race: the loss of every run against the share of its length, and the losses against the learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...findings.race import loss_at, race_summary, rungs_of, sorted_runs
from ...text import percent
from ..parts import Chart, Part, Sentences, Trace, plotly_text

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Profile, Race, Trial

_COLOURS = ("--blue", "--orange", "--green", "--sky", "--red", "--grey")
_DASHES = ("dot", "dash", "solid")  # of the rungs, the last one solid
_THICK, _THIN = 3.0, 1.0


def race_parts(profile: Profile) -> list[Part]:
    """Return what the race found out, its learning curves and its rates; nothing where the profile has no race."""
    race = profile.race
    if race is None:
        return []
    parts: list[Part] = [Sentences(race_summary(race))]
    drawn = [run for run in sorted_runs(race) if run.curve]
    if drawn:
        parts.append(_curves(race, drawn))
    if drawn and rungs_of(drawn):
        parts.append(_rates(race, drawn))
    return parts


def _curves(race: Race, runs: Sequence[Trial]) -> Chart:
    colours, named = _colours(runs), set[str]()
    traces: list[Trace] = []
    for run in runs:
        is_first, is_thick = run.method not in named, run.status in {"going on", "done"}
        named.add(run.method)
        points = [
            (100 * point.seconds / (race.horizon_seconds or 1.0), point) for point in run.curve
        ]
        traces.append({
            "type": "scatter",
            "mode": "lines+markers",
            "name": plotly_text(run.method),
            "legendgroup": plotly_text(run.method),
            "showlegend": is_first,
            "x": [share for share, _ in points],
            "y": [point.loss for _, point in points],
            "customdata": [[point.step, run.lr, run.status] for _, point in points],
            "hovertemplate": (
                "%{fullData.name} at %{customdata[1]}: %{y:.4~g}<br>step %{customdata[0]:,}, %{customdata[2]}"
                "<extra></extra>"
            ),
            "marker": {"size": 7 if is_thick else 4, "color": colours[run.method]},
            "line": {"width": _THICK if is_thick else _THIN, "color": colours[run.method]},
        })
    caption = (
        "A line for each learning rate of each method, to where it was stopped; the thick one goes on. Whole runs take "
        "equal time, so that a share of the run is the same time for everyone."
    )
    return Chart(
        "race",
        "Learning curves of the race",
        caption,
        traces,
        {
            "height": 420,
            "xaxis": {"title": {"text": "% of the run"}, "rangemode": "tozero"},
            "yaxis": _loss_axis(race, runs),
        },
    )


def _rates(race: Race, runs: Sequence[Trial]) -> Chart:
    colours, rungs, traces = _colours(runs), rungs_of(runs), list[Trace]()
    for method, colour in colours.items():
        own = sorted((run for run in runs if run.method == method), key=lambda run: run.lr)
        for index, rung in enumerate(rungs):
            found = [(run.lr, loss) for run in own if (loss := loss_at(run, rung)) is not None]
            if not found:
                continue
            traces.append({
                "type": "scatter",
                "mode": "lines+markers",
                "name": plotly_text(f"{method} at {percent(rung)}"),
                "x": [lr for lr, _ in found],
                "y": [loss for _, loss in found],
                "hovertemplate": "%{fullData.name}, rate %{x}: %{y:.4~g}<extra></extra>",
                "marker": {"size": 7, "color": colour},
                "line": {
                    "width": 1.8,
                    "color": colour,
                    "dash": _DASHES[max(0, index - len(rungs) + 3)],
                },
            })
    caption = (
        "Each line is one method at one point of the run; the lowest point is its best rate there. Where that is at an "
        "end of the line, a better rate may lie further out."
    )
    return Chart(
        "race-rates",
        "Loss against the learning rate",
        caption,
        traces,
        {
            "height": 380,
            "xaxis": {"title": {"text": "learning rate (log scale)"}, "type": "log"},
            "yaxis": _loss_axis(race, runs),
        },
    )


def _colours(runs: Sequence[Trial]) -> dict[str, str]:
    methods = dict.fromkeys(run.method for run in runs)
    return {method: _COLOURS[index % len(_COLOURS)] for index, method in enumerate(methods)}


def _loss_axis(race: Race, runs: Sequence[Trial]) -> dict[str, Any]:
    if all(point.loss > 0 for run in runs for point in run.curve):
        return {"type": "log", "title": {"text": f"{race.metric} (log scale)"}}
    return {"title": {"text": race.metric}}
