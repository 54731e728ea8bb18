"""`subopt train`: train from a recipe."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from ..errors import UsageError
from . import _racing
from ._options import Debug, Device, split_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from subopt.recipes.race.budget import RaceBudget
    from subopt.recipes.schema import Recipe
    from subopt.recipes.tracking.trackers import Tracker
    from subopt.recipes.training.events import OnEvent

    from ..terminal.output import Output

RUNS = _racing.RUNS


class Asked(TypedDict):
    """What a run is asked for beside its recipe, as `plan` and `train` take it."""

    recipe_path: Path
    output: Path
    resume: bool
    force: bool
    device: str | None


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A recipe.yaml, as subopt recommend writes it, or the name of a bundled recipe.",
            show_default=False,
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Recipe keys to replace, such as schedule.steps=200.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--output", help="The run folder; by default runs/RECIPE-NAME.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the folder's last checkpoint.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, say what would happen, and stop.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Train although it may not fit, the model changed, or the folder exists.",
        ),
    ] = False,
    race: Annotated[
        bool,
        typer.Option(
            "--race", help="Begin with a race of learning rates; the best setting's run goes on."
        ),
    ] = False,
    share: Annotated[str | None, _racing.share_option(_racing.RATES_SHARE)] = None,
    minutes: _racing.Minutes = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="With --race: other methods beside the recipe's own, separated by commas.",
            show_default=False,
        ),
    ] = None,
    tensorboard: Annotated[
        bool,
        typer.Option(
            "--tensorboard",
            help="Write TensorBoard files to the run folder as well: --track tensorboard.",
        ),
    ] = False,
    track: Annotated[
        str,
        typer.Option(
            "--track",
            help="Trackers that get the run's numbers: tensorboard, wandb, trackio, or several with commas.",
            show_default=False,
        ),
    ] = "",
    listed: Annotated[
        bool,
        typer.Option(
            "--list", help="List the bundled recipes, or print the named one's YAML, and stop."
        ),
    ] = False,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Train a model from a recipe."""
    from subopt.recipes.recipe.bundled import open_recipe, require_model
    from subopt.recipes.recipe.load import with_settings
    from subopt.recipes.tracking.trackers import installed_trackers, parse_trackers
    from subopt.recipes.training.trainer import plan

    from ..terminal.output import Output
    from ..terminal.training import plan_facts

    output = Output()
    if listed:
        _show_bundled(output, recipe)
        return
    if recipe is None:
        raise UsageError(
            "there is no recipe to train from",
            "give a recipe.yaml, or a name of those that subopt train --list shows",
        )
    found, recipe_path = open_recipe(recipe)
    settled = with_settings(found, overrides or [])
    require_model(settled, recipe)
    folder = to or default_folder(recipe_path)
    names = parse_trackers(track + (",tensorboard" if tensorboard else ""))
    trackers = installed_trackers(names)
    asked = Asked(recipe_path=recipe_path, output=folder, resume=resume, force=force, device=device)
    budget = _budget(race, share, minutes, methods)
    before = _racing.RaceRequest(
        folder / "race",
        _racing.with_adamw(split_names(methods)),
        resume=resume,
        force=force,
        device=device,
    )
    if dry_run:
        with output.guarded_stdout():
            planned = plan(settled, **asked)
        output.show(plan_facts(planned))
        if budget is not None:
            output.show(_planned_race(settled, recipe_path, budget, before))
        return
    if budget is not None:
        settled, asked = _raced(output, settled, budget, asked, before)
    _run(output, settled, asked, trackers)


def _budget(
    race: bool, share: str | None, minutes: float | None, methods: str | None
) -> RaceBudget | None:
    """Return what the race before the run may cost; None where there is to be none."""
    if race:
        return _racing.read_budget(share, minutes, _racing.RATES_SHARE)
    if (share, minutes, methods) != (None, None, None):
        raise UsageError(
            "--share, --minutes and --methods are a race's", "say --race, or leave them out"
        )
    return None


def _planned_race(
    recipe: Recipe, recipe_path: Path, budget: RaceBudget, asked: _racing.RaceRequest
) -> RenderableType:
    """Return what the race before the run would do."""
    from subopt.recipes.race.race import plan_race
    from subopt.recipes.race.source import RaceSource

    from ..findings.race import plan_sentence
    from ..text import facts

    source = RaceSource(recipe, recipe_path)
    plan = plan_race(
        source, budget=budget, methods=asked.methods, force=asked.force, device=asked.device
    )
    return facts([("race", plan_sentence(plan))])


def _raced(
    output: Output, recipe: Recipe, budget: RaceBudget, asked: Asked, before: _racing.RaceRequest
) -> tuple[Recipe, Asked]:
    """Race, and return the winner's recipe and run, which is to be resumed."""
    from subopt.recipes.race.source import RaceSource
    from subopt.recipes.recipe.load import load_recipe

    source = RaceSource(recipe, asked["recipe_path"])
    path = _racing.race_before(output, source, budget, before, asked["output"])
    going_on = Asked(
        recipe_path=path, output=asked["output"], resume=True, force=asked["force"],
        device=asked["device"],
    )  # fmt: skip
    return load_recipe(path), going_on


def _run(output: Output, recipe: Recipe, asked: Asked, trackers: Sequence[Tracker]) -> None:
    """Train, show how it goes and what it came to, and exit with its status."""
    from subopt.recipes.tracking.listener import Tracking
    from subopt.recipes.training.events import each_of
    from subopt.recipes.training.interrupt import Ended
    from subopt.recipes.training.trainer import train as run

    from ..terminal.progress import TrainingProgress
    from ..terminal.training import result_report

    with contextlib.ExitStack() as stack:
        stack.enter_context(output.guarded_stdout())
        progress = stack.enter_context(TrainingProgress(output))
        settings = recipe.model_dump(mode="json")
        listeners: list[OnEvent] = [
            progress,
            *(
                stack.enter_context(Tracking(each, asked["output"], settings, progress))
                for each in trackers
            ),
        ]
        try:
            result = run(recipe, **asked, on_event=each_of(*listeners))
        except Ended as error:
            raise typer.Exit(error.exit_status) from None
    output.show(*result_report(result))
    if result.interrupted:
        raise typer.Exit(result.exit_status)


def _show_bundled(output: Output, name: str | None) -> None:
    """Print the table of bundled recipes, or one recipe's file as it is."""
    from subopt.recipes.recipe.bundled import PREFIX, bundled_names, load_bundled

    from ..terminal.bundled import bundled_list

    if name is None:
        output.show(bundled_list([load_bundled(each) for each in bundled_names()]))
    else:
        text = load_bundled(name.removeprefix(PREFIX)).text
        output.data.print(text, end="", soft_wrap=True)


def default_folder(recipe: Path) -> Path:
    """Return the run folder of a recipe: its own where it lies in one, so that it can be resumed; else runs/NAME."""
    is_in_run_folder = (recipe.parent / "metrics.jsonl").is_file()
    return recipe.parent if is_in_run_folder else RUNS / recipe.stem
