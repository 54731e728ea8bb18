"""The page: a profile's sections as one HTML document with everything in it, for any browser and without a network.

Scripts are let in by their hashes alone (content security policy), and nothing may be loaded from elsewhere: a text of
the user's that found a way around the escaping would still do nothing.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from subopt import __version__

from .elements import chart_id, element, part_html
from .parts import Chart, Section
from .sections import sections_of

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Profile

MARK = '<meta name="generator" content="subopt report">'  # by which a file is known to be a report
_LEFT_OUT = "left-out"


def render(
    profile: Profile, *, budget_bytes: int | None = None, usable_bytes: int | None = None
) -> str:
    """Return the report of a profile as an HTML document.

    Args:
        profile: What was measured.
        budget_bytes: The memory that training is to fit in.
        usable_bytes: What a training run may fill of it.
    """
    sections = sections_of(profile, budget_bytes=budget_bytes, usable_bytes=usable_bytes)
    shown = [section for section in sections if section.parts]
    charts = [part for section in shown for part in section.parts if isinstance(part, Chart)]
    title = f"subopt report: {profile.target.spec}"
    script, plotly, style = _resource("script.js"), _plotly(), _resource("style.css")
    return "\n".join([
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        _policy(script, plotly),
        MARK,
        f"<title>{html.escape(title)}</title>",
        f"<style>{style}</style>",
        "</head>",
        "<body>",
        _header(profile, shown),
        "<main>",
        *(_section(section) for section in shown),
        _left_out(sections),
        f"<footer>Made by subopt {html.escape(__version__)}. This page needs no network.</footer>",
        "</main>",
        f'<script type="application/json" id="charts">{_json({chart_id(c): _figure(c) for c in charts})}</script>',
        f'<script type="text/plain" id="plotly">{plotly}</script>',
        f"<script>{script}</script>",
        "</body>",
        "</html>",
        "",
    ])


def _header(profile: Profile, shown: Sequence[Section]) -> str:
    links = [element("li", element("a", html.escape(s.title), href=f"#{s.name}")) for s in shown]
    arguments = "".join(f" {key}={value}" for key, value in profile.target.kwargs.items())
    return (
        f'<header><p class="kind">subopt profile</p><h1>{html.escape(profile.target.spec)}'
        f"<small>{html.escape(arguments)}</small></h1>"
        f'<nav aria-label="Sections"><ul>{"".join(links)}</ul></nav></header>'
        "<noscript><p>The charts need JavaScript; the tables do not.</p></noscript>"
    )


def _section(section: Section) -> str:
    lead = element("p", html.escape(section.lead), **{"class": "lead"}) if section.lead else ""
    body = "\n".join(part_html(part) for part in section.parts)
    title = f'<h2 id="{section.name}-title">{html.escape(section.title)}</h2>'
    return (
        f'<section id="{section.name}" aria-labelledby="{section.name}-title">{title}{lead}'
        f'<div class="parts">{body}</div></section>'
    )


def _left_out(sections: Sequence[Section]) -> str:
    """The sections that the profile has no numbers for, one line each."""
    absent = [section for section in sections if not section.parts]
    if not absent:
        return ""
    lines = [
        f"<li><b>{html.escape(section.title)}</b>: {html.escape(section.why_absent)}</li>"
        for section in absent
    ]
    return (
        f'<section id="{_LEFT_OUT}"><h2>Left out of this report</h2>'
        f"<ul>{''.join(lines)}</ul></section>"
    )


def _figure(chart: Chart) -> dict[str, Any]:
    figure: dict[str, Any] = {"data": chart.traces, "layout": chart.layout}
    if chart.picker is not None:
        figure["views"] = chart.picker.views
    return figure


def _json(value: Any) -> str:
    """Compact JSON that cannot end the script element it stands in: no `<`, `>` or `&` in it as such."""
    text = json.dumps(_rounded(value), separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _rounded(value: Any) -> Any:
    """The same with four digits that count in every number: more cannot be seen in a chart."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def _policy(*scripts: str) -> str:
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts)
    rules = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:"
    )
    return f'<meta http-equiv="Content-Security-Policy" content="{rules}">'


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@cache
def _resource(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())
