"""`subopt lr`: the learning rate of a recipe's own method, from the first per cents of its run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._options import Debug, Device, Json, check_can_write
from ._racing import (
    RATES_SHARE,
    RUNS,
    GpuMem,
    Minutes,
    RaceRequest,
    Steps,
    is_profile,
    race_and_show,
    read_budget,
    read_source,
    share_option,
)


def lr(
    recipe_or_profile: Annotated[
        Path, typer.Argument(help="A recipe.yaml, or a profile.json to take the recipe of.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Recipe keys to replace, such as optimizer.method=soap.",
            show_default=False,
        ),
    ] = None,
    share: Annotated[str | None, share_option(RATES_SHARE)] = None,
    minutes: Minutes = None,
    gpu_mem: GpuMem = None,
    steps: Steps = None,
    profile: Annotated[
        Path | None, typer.Option(help="With a recipe: the profile that keeps the result.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--output", help="The folder; by default runs/lr-NAME.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with what the folder holds."),
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Start although the folder exists or the model changed."),
    ] = False,
    device: Device = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Look for the learning rate of the recipe's method in the first per cents of its run.

    Rates half a decade apart begin the real run on its own schedule; the worse ones stop, and the one that is chosen
    can go on. So early a look finds the best one in about half of the cases; --share 50% looks as far as 30%.
    """
    from ..terminal.lr import lr_report
    from ..terminal.output import Output

    output = Output(as_json=as_json)
    budget = read_budget(share, minutes, RATES_SHARE)
    joins = recipe_or_profile if is_profile(recipe_or_profile) else profile
    source = read_source(
        recipe_or_profile, overrides=overrides or [], profile=profile, gpu_mem=gpu_mem, steps=steps
    )
    if joins is not None:
        check_can_write(joins)
    folder = to or RUNS / f"lr-{recipe_or_profile.stem}"
    own = [source.recipe.optimizer.method]
    asked = RaceRequest(folder, own, resume=resume, force=force, device=device)
    race_and_show(output, source, budget, asked, lr_report, joins)
