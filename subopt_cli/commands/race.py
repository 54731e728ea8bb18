"""`subopt race`: the run, started with several methods and rates, of which the best goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._options import Debug, Device, Json, check_can_write, split_names
from ._racing import (
    METHODS_SHARE,
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
    with_adamw,
)


def race(
    recipe_or_profile: Annotated[
        Path, typer.Argument(help="A recipe.yaml, or a profile.json with the methods to race.")
    ],
    share: Annotated[str | None, share_option(METHODS_SHARE)] = None,
    minutes: Minutes = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Race these methods beside AdamW and the recipe's own, separated by commas.  "
            "[default: as many as the budget allows]"
        ),
    ] = None,
    gpu_mem: GpuMem = None,
    steps: Steps = None,
    profile: Annotated[
        Path | None,
        typer.Option(help="With a recipe: the profile that knows what fits and keeps the result."),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--output", help="The race's folder; by default runs/race-NAME.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the folder's race; --minutes are more minutes."),
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Race although the folder exists or the model changed."),
    ] = False,
    device: Device = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Start the run with several methods and rates and stop the worse ones early; the best goes on.

    Every candidate is a run of the recipe, over as many steps as take equal time. The winner is paused and can be
    resumed; the result joins the profile, and subopt recommend goes by it.
    """
    from ..terminal.output import Output
    from ..terminal.race import race_report

    output = Output(as_json=as_json)
    budget = read_budget(share, minutes, METHODS_SHARE)
    names = with_adamw(split_names(methods))
    joins = recipe_or_profile if is_profile(recipe_or_profile) else profile
    source = read_source(recipe_or_profile, profile=profile, gpu_mem=gpu_mem, steps=steps)
    if joins is not None:
        check_can_write(joins)
    folder = to or RUNS / f"race-{recipe_or_profile.stem}"
    asked = RaceRequest(folder, names, resume=resume, force=force, device=device)
    race_and_show(output, source, budget, asked, race_report, joins)
