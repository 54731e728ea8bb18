"""`subopt report`: a profile as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..units import format_bytes
from ._advice import own_advice, recommend_command
from ._options import DEFAULT_PROFILE, Debug, check_can_write, check_may_replace


def report(
    profile: Annotated[
        Path,
        typer.Argument(metavar="[PROFILE]", help="What subopt profile wrote.", show_default=False),
    ] = DEFAULT_PROFILE,
    to: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path(
        "report.html"
    ),
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite a file that is not a report.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Write a profile as one HTML page with charts and tables, which needs no network.

    PROFILE is .subopt/profile.json by default.
    """
    from subopt.profilers.record.profile import Profile

    from ..report import MARK, render
    from ..terminal.output import Output

    check_can_write(to)
    if not force:
        hint = "name another file with -o, or use --force"
        check_may_replace(to, MARK, "a report of subopt", hint)
    found = Profile.load(profile)
    page = render(found, own_advice(found), recommend_command(profile)).encode()
    to.parent.mkdir(parents=True, exist_ok=True)
    partial = to.with_name(to.name + ".partial")
    partial.write_bytes(page)
    partial.replace(to)
    Output().note(f"wrote {to} ({format_bytes(len(page))})")
