"""`subopt recommend`: choose a method for a memory budget and write the recipe."""

from __future__ import annotations

import hashlib
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import UsageError
from ._advice import DEFAULT_RECIPE, recommend_command, train_command
from ._options import (
    DEFAULT_PROFILE,
    GPU_MEMORY_HELP,
    HEADROOM,
    Debug,
    Details,
    Json,
    check_can_write,
    describe_budget,
    read_memory_limit,
    split_names,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

    from subopt.profilers.record.profile import Profile
    from subopt.recipes.advice.answer import Advice

# First line of a recipe file of ours. It carries a checksum of the rest: a file that somebody has edited since
# is theirs, and is not overwritten.
_MARKER = "# Written by subopt recommend, which replaces it unless it was edited. Checksum: "


class Switch(str, Enum):
    """Whether to do something."""

    auto = "auto"
    on = "on"
    off = "off"

    @property
    def wish(self) -> bool | Literal["auto"]:
        """The same as the advisor takes it."""
        return "auto" if self is Switch.auto else self is Switch.on


class Objective(str, Enum):
    """What to rank by."""

    quality = "quality"
    speed = "speed"
    memory = "memory"


def recommend(
    gpu_mem: Annotated[str, typer.Option(help=GPU_MEMORY_HELP)] = "auto",
    profile: Annotated[Path, typer.Option(help="What subopt profile wrote.")] = DEFAULT_PROFILE,
    objective: Annotated[Objective, typer.Option(help="What to rank by.")] = Objective.quality,
    batch_size: Annotated[
        str | None, typer.Option(help="Examples of a micro-batch, or auto: the most that fits.")
    ] = None,
    examples_per_step: Annotated[
        int | None,
        typer.Option(
            min=1, help="Examples of a step; micro-batches that are too small for it accumulate."
        ),
    ] = None,
    accumulate: Annotated[
        int | None,
        typer.Option(min=1, help="Micro-batches of a step.  [default: as many as it takes]"),
    ] = None,
    recompute: Annotated[
        Switch,
        typer.Option(
            help="Compute activations again in the backward pass; auto: if nothing fits without."
        ),
    ] = Switch.auto,
    fused_backward: Annotated[
        Switch,
        typer.Option(
            help="Update weights in the backward pass, unclipped; auto: if nothing fits without."
        ),
    ] = Switch.auto,
    headroom: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Share of the usable budget to keep free.")
    ] = HEADROOM,
    steps: Annotated[
        int,
        typer.Option(min=1, help="Optimizer steps of the run: rates and promises depend on it."),
    ] = 1000,
    fine_tune: Annotated[
        bool | None,
        typer.Option(
            "--fine-tune/--no-fine-tune",
            help="Whether the run is fine-tuning.  [default: if the model loads weights]",
        ),
    ] = None,
    methods: Annotated[
        str | None, typer.Option(help="Only these methods, separated by commas.")
    ] = None,
    to: Annotated[
        Path, typer.Option("--output", "-o", help="The recipe to write.")
    ] = DEFAULT_RECIPE,
    explain: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD", help="Say what one method's numbers rest on; writes no recipe."
        ),
    ] = None,
    details: Details = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Show every method, not the best ones alone.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite a recipe that subopt did not write.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Choose an optimizer for a memory budget and write the recipe.

    Ranks all methods by races of this model, comparisons of such runs, what its gradients predict, and says why.
    """
    from subopt.profilers.record.profile import Profile
    from subopt.recipes.advice.advisor import recommend as advise
    from subopt.recipes.advice.proposal import recipe_reasons, to_recipe
    from subopt.recipes.plan.solving import PlanRequest
    from subopt.recipes.recipe.load import dump_recipe

    from ..findings.advice import evidence_text, words
    from ..findings.answer import answer_of
    from ..terminal.advice import advice_screen
    from ..terminal.details.advice import advice_report
    from ..terminal.output import Output

    output = Output(as_json=as_json)
    if explain is None:
        check_can_write(to)
        if not force:
            refuse_foreign_file(to)
    found = Profile.load(profile)
    limit = read_memory_limit(gpu_mem)
    advice = advise(
        found,
        budget_bytes=limit.total_bytes,
        device=limit.device,
        objective=objective.value,
        request=PlanRequest(
            batch_size=_parse_batch_size(batch_size),
            accumulate=accumulate,
            examples_per_step=examples_per_step,
            recompute=recompute.wish,
            fused_backward=fused_backward.wish,
            steps=steps,
            fine_tunes=fine_tune,
        ),
        headroom=headroom,
        methods=split_names(methods),
    )
    output.document(_document(advice))
    if explain is not None:
        output.show(_explained(advice, found, explain))
        return
    command = recommend_command(profile, gpu_mem)
    screen = advice_screen(
        advice,
        found,
        answer_of(advice, found, train_command(to, advice)),
        _more(advice, command, profile),
        everything=everything,
    )
    output.show(*screen)
    if details:
        budget_line = describe_budget(gpu_mem, advice.budget)
        output.show("", *advice_report(advice, found, budget_line, everything=everything))
    advice.require_chosen(hint=words(advice.changes[0]) if advice.changes else None)
    evidence = [evidence_text(reason) for reason in recipe_reasons(advice, found)]
    write_recipe(to, dump_recipe(to_recipe(advice, found, recipe_path=to, evidence=evidence)))
    output.note(f"wrote {to}; train with: subopt train {to}")


def _document(advice: Advice) -> dict[str, Any]:
    """Return the answer as JSON: every reason with its type, its fields and its text."""
    from ..findings.advice import described, words
    from ..terminal.output import plain

    return {
        **plain(advice, described),
        "sentences": [words(reason) for reason in advice.reasons],
        "plan_sentences": [words(reason) for reason in advice.plan_reasons],
    }


def _more(advice: Advice, command: str, profile: Path) -> list[tuple[str, str]]:
    """Return the commands that say more."""
    method = advice.chosen.method if advice.chosen else advice.rows[0].method
    report = "subopt report" if profile == DEFAULT_PROFILE else f"subopt report {profile}"
    return [("why", f"{command} --explain {method}"), ("more", f"--details, or {report}")]


def _explained(advice: Advice, profile: Profile, method: str) -> RenderableType:
    """Return what one method's numbers rest on.

    Raises:
        OptionError: There is no such method.
        UsageError: It is not among those asked for, or of the profile.
    """
    from subopt.optimizers import get_method

    from ..terminal.details.explain import explanation

    name = get_method(method).name
    row = next((row for row in advice.rows if row.method == name), None)
    if row is None:
        known = ", ".join(row.method for row in advice.rows)
        raise UsageError(f"{name} is not among the methods compared here", f"they are {known}")
    return explanation(row, profile, advice.traits)


def _parse_batch_size(text: str | None) -> int | Literal["auto"] | None:
    if text is None:
        return None
    if text == "auto":
        return "auto"
    # At ten digits a peak leaves the range in which budgets are computed.
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise UsageError(
            f"'{text[:60]}' is not a batch size", "give a whole number from 1 to 999999999, or auto"
        )
    return int(text)


def refuse_foreign_file(path: Path) -> None:
    """Refuse to overwrite what we did not write, or what was edited since.

    Raises:
        UsageError: The path holds such a file.
    """
    if not path.exists():
        return
    first, _, rest = path.read_text(encoding="utf-8", errors="replace").partition("\n")
    if first != _MARKER + _checksum(rest):
        raise UsageError(
            f"{path} exists and was not written by subopt, or was edited since",
            "write another file with -o, or overwrite it with --force",
        )


def write_recipe(path: Path, text: str) -> None:
    """Write a recipe under a first line by which it is known again as ours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{_MARKER}{_checksum(text)}\n{text}", encoding="utf-8")


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
