"""A race: the user's own run, started with several rates and methods, of which the best goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

from subopt.errors import NonFiniteLossError, UsageError
from subopt.profilers.device import quick_release, resolve_device
from subopt.profilers.record.race import Race

from ..run_folder.folder import content_of
from ..run_folder.lock import locked
from ..training.events import Warned, ignore
from ..training.interrupt import interruptible
from ..training.session import check_unchanged
from ..training.trainable import training_target
from .budget import RaceBudget
from .events import Decided, OnEvent, RacePlanned
from .folder import RaceFolder, RacePlan
from .outcome import outcome
from .planning import settle
from .running import Running
from .setup import RaceSetup
from .source import RaceSource


def race(
    source: RaceSource,
    *,
    budget: RaceBudget,
    methods: Sequence[str] | None = None,
    output: Path,
    resume: bool = False,
    force: bool = False,
    device: str | None = None,
    on_event: OnEvent = ignore,
) -> Race:
    """Start a run with several learning rates and methods, stop the worse ones early, and leave the best to go on.

    Every candidate is a run of its own in the race's folder: the recipe's model, data, seed and schedule, with as many
    steps as take the time of the recipe's own run. At each rung those of the higher held-out loss stop; without
    held-out data, of the higher training loss. The winner's folder is that of a run which was paused: it goes on with
    `train(resume=True)`, bit for bit as if it had been alone. See `design` for what a budget buys.

    Args:
        source: What is trained, and what is known of the methods.
        budget: What it may cost.
        methods: Method ids beside the recipe's own; the recipe's own alone races its rates. By default as many of the
            prior's portfolio as the budget allows.
        output: The race's folder.
        resume: Go on with the race in it; `budget.minutes` are then for what is left of it.
        force: Start over in an existing folder, or with a changed model file or synthetic data.
        device: Device, or None for the best there is.
        on_event: Called with every event as it happens, in this thread.

    Returns:
        What came out; its `winner` is None where Ctrl-C ended it before it was decided. Where the minutes did, the best
        run so far wins, and `interrupted` says so.

    Raises:
        UsageError: The folder is taken, or the budget is too small.
        NonFiniteLossError: Every run diverged.
        SuboptError: What loading the model and training it raise.
        KeyboardInterrupt: Ctrl-C before the first step.
    """
    began_s = monotonic()
    content_of(output)  # which is no file
    folder = RaceFolder(output)
    unnoticed = "so a second race in this folder would not be noticed"
    with (
        locked(output, lambda why: on_event(Warned(f"{why}, {unnoticed}"))),
        quick_release(),
        interruptible(on_event) as interrupt,
    ):
        folder.check(resume=resume, force=force)
        setup = _open_setup(source, device, force=force, on_event=on_event)
        settings = _settings(source, setup, methods, budget)
        if resume:
            plan = folder.load_plan(settings)
        else:
            plan = settle(source, setup, settings, budget, methods, interrupt, on_event)
            folder.start(plan)
        end_s = None if budget.minutes is None else began_s + 60 * budget.minutes
        running = Running(setup, plan, folder, interrupt=interrupt, end_s=end_s, on_event=on_event)
        on_event(RacePlanned(plan))
        running.run()
        is_decided = running.standing.is_decided
        result = outcome(
            setup,
            plan,
            running.entries,
            minutes=budget.minutes or 0.0,
            is_over=running.is_cut or is_decided,
            interrupted=not is_decided,
        )
        folder.save(result)
    return _told(result, is_decided=is_decided, on_event=on_event)


def plan_race(
    source: RaceSource,
    *,
    budget: RaceBudget,
    methods: Sequence[str] | None = None,
    force: bool = False,
    device: str | None = None,
    on_event: OnEvent = ignore,
) -> RacePlan:
    """Time everyone's steps and return what `race` would do; writes nothing.

    Raises:
        SuboptError: What `race` raises before its first step.
    """
    with quick_release(), interruptible(on_event) as interrupt:
        setup = _open_setup(source, device, force=force, on_event=on_event)
        settings = _settings(source, setup, methods, budget)
        return settle(source, setup, settings, budget, methods, interrupt, on_event)


def _told(result: Race, *, is_decided: bool, on_event: OnEvent) -> Race:
    winner = result.winner
    if winner is not None:
        on_event(Decided(winner.method, winner.lr, winner.steps))
    elif is_decided and any(trial.status == "diverged" for trial in result.trials):
        lowest = min(trial.lr for trial in result.trials)
        raise NonFiniteLossError(
            f"every run of the race diverged, down to a learning rate of {lowest:g}",
            f"try optimizer.lr={lowest / 10:.1g}, and look at the data and the first loss",
        )
    return result


def _open_setup(
    source: RaceSource, device: str | None, *, force: bool, on_event: OnEvent
) -> RaceSetup:
    place = resolve_device(device)
    target = training_target(source.recipe, source.recipe_path.parent)
    for warning in check_unchanged(source.recipe, target, force=force):
        on_event(warning)
    sha256 = target.record.sha256
    if source.profile is not None and source.profile.target.sha256 != sha256 and not force:
        raise UsageError(
            f"the profile is of another model file than {target.record.spec}",
            "profile this one, or race without a profile",
        )
    if target.data.is_synthetic and not force:
        raise UsageError(
            "the data is SYNTHETIC, and on random numbers no method learns better than another",
            "give the model file batches(batch_size), or race all the same with --force",
        )
    if not target.data.has_eval:
        compared = "runs are compared by their training loss"
        on_event(Warned(f"there is no held-out data (eval_batches): {compared}"))
    known = source.recipe.model.model_copy(update={"sha256": sha256})
    recipe = source.recipe.model_copy(update={"model": known})
    return RaceSetup(recipe, source.recipe_path, target, place)


def _settings(
    source: RaceSource, setup: RaceSetup, methods: Sequence[str] | None, budget: RaceBudget
) -> dict[str, str]:
    """Return what a race is known again by."""
    recipe = source.recipe.model_dump(mode="json", exclude={"why", "checkpoint", "model"})
    found = {key: json.dumps(value) for key, value in recipe.items()}
    return found | {
        "model": f"{setup.target.record.sha256} {json.dumps(source.recipe.model.kwargs)}",
        "methods": "chosen by the race" if methods is None else ",".join(methods),
        "share": str(budget.share),
        "device": str(setup.device),
        "budget": str(source.budget_bytes),
    }
