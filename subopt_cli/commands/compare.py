"""`subopt compare`: two profiles side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._options import Debug, Json


def compare(
    a: Annotated[Path, typer.Argument(metavar="A.json", help="The first profile.")],
    b: Annotated[Path, typer.Argument(metavar="B.json", help="The second profile.")],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare two profiles: two models, two moments in training, or two settings.

    Says what differs in what was asked for, what changed by more than the batches vary, and what that costs.
    """
    from subopt.profilers.compare.compare import compare as put_side_by_side
    from subopt.profilers.record.profile import Profile

    from ..terminal.comparison import comparison_report
    from ..terminal.output import Output, plain

    output = Output(as_json=as_json)
    found = put_side_by_side(Profile.load(a), Profile.load(b))
    output.document(plain(found))
    output.show(*comparison_report(found, str(a), str(b)))
