"""What `race`, `lr` and `train --race` share: the budget, what is raced, the race itself, and the profile it joins."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from ..errors import UsageError
from ._options import read_memory_limit

if TYPE_CHECKING:
    from rich.console import RenderableType

    from subopt.profilers.record.profile import Profile, Race
    from subopt.recipes.race.budget import RaceBudget
    from subopt.recipes.race.source import RaceSource

    from ..terminal.output import Output

RUNS = Path("runs")


class DefaultShare(NamedTuple):
    """A budget that nobody asked for: in a very short run it grows to what a race of so many methods takes."""

    text: str
    methods: int


RATES_SHARE, METHODS_SHARE = DefaultShare("10%", 1), DefaultShare("50%", 2)

Minutes = Annotated[
    float | None, typer.Option(help="In the place of --share: real time for all of it.")
]
GpuMem = Annotated[
    str | None,
    typer.Option(help="With a profile: only what fits, such as 24G.  [default: auto]"),
]
Steps = Annotated[int | None, typer.Option(min=1, help="Optimizer steps of the whole run.")]

_LARGEST_PLAIN = 5.0  # "10" is more likely 10% than ten runs


def share_option(default: DefaultShare) -> typer.models.OptionInfo:
    """Return the option --share of a command."""
    option: typer.models.OptionInfo = typer.Option(
        help="What the settings that lose may cost: a share of one run, such as 10% or 0.1.  "
        f"[default: {default.text}]"
    )
    return option


def parse_share(text: str) -> float:
    """Return the share in `10%` or `0.1`.

    Raises:
        UsageError: It is none.
    """
    number, is_percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        share = float(number) / (100 if is_percent else 1)
    except ValueError:
        share = float("nan")
    most = float("inf") if is_percent else _LARGEST_PLAIN
    if not 0 < share <= most or share == float("inf"):
        raise UsageError(f"'{text[:60]}' is no share of a run", "write it like 10% or 0.1")
    return share


def read_budget(share: str | None, minutes: float | None, default: DefaultShare) -> RaceBudget:
    """Return what a race may cost.

    Raises:
        UsageError: Two budgets, or one that is none.
    """
    from subopt.recipes.race.budget import RaceBudget

    if share is not None and minutes is not None:
        raise UsageError("--share and --minutes are two budgets", "give one of them")
    if minutes is not None:
        return RaceBudget(minutes=minutes)
    if share is None:
        return RaceBudget(share=parse_share(default.text), least_methods=default.methods)
    return RaceBudget(share=parse_share(share))


def with_adamw(methods: Sequence[str] | None) -> list[str] | None:
    """Return the methods that were asked for, and AdamW: every gain is one over it."""
    from subopt.profilers.record.cost import BASELINE

    return None if methods is None else list(dict.fromkeys([*methods, BASELINE]))


def is_profile(path: Path) -> bool:
    """Return whether a file is a profile rather than a recipe: by its name, as both may begin with a brace."""
    return path.suffix == ".json"


def read_source(
    path: Path,
    *,
    overrides: Sequence[str] = (),
    profile: Path | None = None,
    gpu_mem: str | None = None,
    steps: int | None = None,
) -> RaceSource:
    """Return what is raced: a recipe's run, or that of the recipe that `recommend` would write for a profile."""
    from dataclasses import replace

    from subopt.profilers.record.profile import Profile
    from subopt.recipes.race.source import RaceSource, source_of_profile
    from subopt.recipes.recipe.bundled import open_recipe, require_model
    from subopt.recipes.recipe.load import with_settings
    from subopt.recipes.schedule import DEFAULT_STEPS

    joins = path if is_profile(path) else profile
    if joins is None and gpu_mem is not None:
        raise UsageError(
            "--gpu-mem goes by a profile's memory, and there is none here",
            "race a profile, or name one with --profile",
        )
    found = None if joins is None else Profile.load(joins)
    if found is not None and is_profile(path):
        limit = read_memory_limit(gpu_mem or "auto")
        source = source_of_profile(
            found,
            folder=Path.cwd(),
            budget_bytes=limit.total_bytes,
            device=limit.device,
            steps=steps or DEFAULT_STEPS,
        )
        return replace(source, recipe=with_settings(source.recipe, overrides))
    recipe, recipe_path = open_recipe(str(path))
    more = [] if steps is None else [f"schedule.steps={steps}"]
    settled = with_settings(recipe, [*overrides, *more])
    require_model(settled, str(path))
    if found is None:
        return RaceSource(settled, recipe_path)
    limit = read_memory_limit(gpu_mem or "auto")
    return RaceSource(settled, recipe_path, found, limit.total_bytes, limit.device)


@dataclass(frozen=True)
class RaceRequest:
    """How a race is asked for, beside what is raced and its budget."""

    folder: Path
    methods: Sequence[str] | None = None
    resume: bool = False
    force: bool = False
    device: str | None = None


def run_race(
    output: Output, source: RaceSource, budget: RaceBudget, asked: RaceRequest
) -> tuple[Race, int]:
    """Race, and show how it goes; return the result and the exit status, 0 unless a signal came."""
    from subopt.recipes.race.race import race
    from subopt.recipes.training.interrupt import Ended

    from ..terminal.progress_race import RaceProgress

    try:
        with output.guarded_stdout(), RaceProgress(output) as progress:
            result = race(
                source,
                budget=budget,
                methods=asked.methods,
                output=asked.folder,
                resume=asked.resume,
                force=asked.force,
                device=asked.device,
                on_event=progress,
            )
    except Ended as error:
        raise typer.Exit(error.exit_status) from None
    return result, progress.exit_status


def race_and_show(
    output: Output,
    source: RaceSource,
    budget: RaceBudget,
    asked: RaceRequest,
    report: Callable[[Race, str | None], list[RenderableType]],
    joins: Path | None,
) -> None:
    """Race, show what came out and how to go on, and put it into the profile `joins`; exit as a signal wants it."""
    from ..terminal.output import plain

    result, status = run_race(output, source, budget, asked)
    output.document(plain(result))
    output.show(*report(result, next_command(asked.folder, result)))
    output.note(f"wrote {asked.folder / 'race.json'}")
    if joins is not None:
        join_profile(joins, result, output)
    if status:
        raise typer.Exit(status)


def race_before(
    output: Output, source: RaceSource, budget: RaceBudget, asked: RaceRequest, run_folder: Path
) -> Path:
    """Race in a run's folder, make the winner's run that folder's own, and return its recipe, to be resumed.

    Raises:
        UsageError: The folder is taken, or the minutes ended before anything could be compared.
        Exit: A signal ended the race.
    """
    from subopt.recipes.race.folder import RaceFolder
    from subopt.recipes.race.going_on import move_winner
    from subopt.recipes.run_folder.folder import RunFolder

    from ..terminal.race import race_facts_table

    if not asked.resume:
        folder = RunFolder(run_folder)
        folder.check(source.recipe, source.recipe_path, resume=False, force=asked.force)
    found = RaceFolder(asked.folder).load_result() if asked.resume else None
    if found is None or found.winner is None:
        found, status = run_race(output, source, budget, asked)
        output.aside(race_facts_table(found))
        if status:
            raise typer.Exit(status)
    if found.winner is None:
        raise UsageError(
            "the minutes ended before any two runs could be compared",
            "go on with the same command, --resume and more --minutes",
        )
    return move_winner(asked.folder, found.winner, run_folder)


def next_command(folder: Path, race: Race) -> str | None:
    """Return the command with which the winner's run goes on; None where there is no winner."""
    from subopt.recipes.race.going_on import winner_folder

    if race.winner is None:
        return None
    recipe = winner_folder(folder, race.winner).recipe
    return shlex.join(["subopt", "train", str(recipe), "--resume"])


def join_profile(path: Path, race: Race, output: Output) -> None:
    """Put the race into the profile as it is now: another command may have written it meanwhile."""
    from subopt.profilers.record.profile import Profile
    from subopt.recipes.race.joining import joined

    before = Profile.load(path)
    profile = joined(before, race)
    if profile is None:
        output.note(f"{path} stays as it is: {_why_not(before, race)}")
        return
    profile.save(path)
    replaced = ", in the place of an earlier race" if before.race is not None else ""
    output.note(f"the result is in {path}{replaced}; subopt recommend goes by it")


def _why_not(profile: Profile, race: Race) -> str:
    if profile.target.sha256 != race.target_sha256:
        return "it is of another model file"
    return "nothing has been compared yet"
