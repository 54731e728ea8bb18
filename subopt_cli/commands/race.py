"""`subopt race`: the methods against each other on the user's own model, data and device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from ._options import (
    GPU_MEMORY_HELP,
    Debug,
    Device,
    Json,
    check_can_write,
    read_memory_limit,
    split_names,
)

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Race
    from subopt.recipes.race.source import RaceSource

    from ..terminal.output import Output

RUNS = Path("runs")


def race(
    recipe_or_profile: Annotated[
        Path, typer.Argument(help="A recipe.yaml, or a profile.json with the methods to race.")
    ],
    minutes: Annotated[float, typer.Option(help="Real time for all of it.")] = 20,
    methods: Annotated[
        str | None,
        typer.Option(help="Race these methods against AdamW, separated by commas."),
    ] = None,
    gpu_mem: Annotated[
        str | None, typer.Option(help="Only what fits, by the profile. " + GPU_MEMORY_HELP)
    ] = None,
    finalists: Annotated[
        int, typer.Option(help="How many of the best repeat their best setting.")
    ] = 3,
    seeds: Annotated[int, typer.Option(help="Runs of a finalist, each with its own seed.")] = 3,
    profile: Annotated[
        Path | None,
        typer.Option(
            help="With a recipe: the profile that ranks the methods and keeps the result."
        ),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--output", help="The race's folder; by default runs/race-NAME.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the folder's race, for --minutes more.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Race although the folder exists or the model changed."),
    ] = False,
    device: Device = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train methods against each other for equal time.

    Each gets the same weights, batches and search for its learning rate; AdamW too. The result joins the profile,
    and subopt recommend goes by it.
    """
    from subopt.recipes.race.race import race as run

    from ..terminal.output import Output, plain
    from ..terminal.progress_race import RaceProgress
    from ..terminal.race import race_report

    output = Output(as_json=as_json)
    joins = recipe_or_profile if is_profile(recipe_or_profile) else profile
    source = _source(recipe_or_profile, joins, gpu_mem)
    if joins is not None:
        check_can_write(joins)
    folder = to or RUNS / f"race-{recipe_or_profile.stem}"
    with output.guarded_stdout(), RaceProgress(output) as progress:
        result = run(
            source,
            minutes=minutes,
            methods=split_names(methods),
            finalists=finalists,
            seeds=seeds,
            output=folder,
            resume=resume,
            force=force,
            device=device,
            on_event=progress,
        )
    output.document(plain(result))
    output.show(*race_report(result))
    output.note(f"wrote {folder / 'race.json'}")
    if joins is not None:
        _join(joins, result, output)
    if result.interrupted:
        output.note("go on with the same command and --resume")
    if progress.exit_status:
        raise typer.Exit(progress.exit_status)


def is_profile(path: Path) -> bool:
    """Return whether a file is a profile rather than a recipe: by its name, as both may begin with a brace."""
    return path.suffix == ".json"


def _source(path: Path, profile: Path | None, gpu_mem: str | None) -> RaceSource:
    from subopt.profilers.record.profile import Profile
    from subopt.recipes.race.source import RaceSource, source_of_profile
    from subopt.recipes.recipe.load import load_recipe

    if profile is None and gpu_mem is not None:
        raise UsageError(
            "--gpu-mem goes by a profile's memory, and there is none here",
            "race a profile, or name one with --profile",
        )
    budget = None if gpu_mem is None else read_memory_limit(gpu_mem).total_bytes
    found = None if profile is None else Profile.load(profile)
    if found is not None and profile == path:
        return source_of_profile(found, folder=Path.cwd(), budget_bytes=budget)
    return RaceSource(load_recipe(path), path, found, budget)


def _join(path: Path, race: Race, output: Output) -> None:
    """Put the race into the profile as it is now: another command may have written it meanwhile."""
    from subopt.profilers.record.profile import Profile
    from subopt.recipes.race.joining import joined

    profile = joined(Profile.load(path), race)
    if profile is None:
        output.note(f"{path} stays as it is: there is no comparison to keep")
        return
    profile.save(path)
    output.note(f"the result is in {path}; choose by it with: subopt recommend --profile {path}")
