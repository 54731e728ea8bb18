"""The page: a profile's sections as one HTML document with everything in it, for any browser and without a network.

`page.html` and `parts.html` are its templates, in which every text is escaped. Scripts are let in by their hashes alone
(content security policy), and nothing may be loaded from elsewhere: a text of the user's that found a way around the
escaping would still do nothing.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from subopt import __version__

from .parts import Chart
from .sections import sections_of

if TYPE_CHECKING:
    from jinja2 import Environment

    from subopt.profilers.record.profile import Profile
    from subopt.recipes.advice.answer import Advice

MARK = '<meta name="generator" content="subopt report">'  # by which a file is known to be a report


def render(
    profile: Profile, advice: Advice | None = None, next_step: str = "subopt recommend"
) -> str:
    """Return the report of a profile as an HTML document.

    Args:
        profile: What was measured.
        advice: The answer for the memory that training is to fit in; None where there is none.
        next_step: The command to go on with.
    """
    from plotly.offline import get_plotlyjs

    sections = sections_of(profile, advice, next_step)
    parts = [part for section in sections for part in section.parts]
    return (
        _engine()
        .get_template("page.html")
        .render(
            mark=MARK,
            version=__version__,
            target=profile.target,
            shown=[section for section in sections if section.parts],
            absent=[section for section in sections if not section.parts],
            figures={
                f"chart-{part.name}": _figure(part) for part in parts if isinstance(part, Chart)
            },
            plotly=get_plotlyjs(),
            script=_resource("script.js"),
            style=_resource("style.css"),
        )
    )


@cache
def _engine() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    engine = Environment(
        loader=PackageLoader(__package__, ""),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    engine.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    engine.filters |= {"sha256": _sha256, "kind": lambda part: type(part).__name__.lower()}
    return engine


def _figure(chart: Chart) -> dict[str, Any]:
    views = {} if chart.picker is None else {"views": chart.picker.views}
    return {"data": _rounded(chart.traces), "layout": _rounded(chart.layout), **_rounded(views)}


def _rounded(value: Any) -> Any:
    """The same with four digits that count in every number: more cannot be seen in a chart."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


@cache
def _resource(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
