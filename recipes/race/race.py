"""A race: the user's own run, started with several rates and methods, of which the best goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from subopt.errors import NonFiniteLossError, UsageError
from subopt.profilers.device import release_memory, resolve_device
from subopt.profilers.record.race import LeftOut, Race
from subopt.profilers.target.batches import tokens_in

from ..prior.traits import Traits, traits_of_model
from ..run_folder.folder import content_of
from ..run_folder.lock import locked
from ..training.events import Warned, ignore
from ..training.interrupt import Interrupt, interruptible
from ..training.session import check_unchanged
from ..training.trainable import make_trainable, training_target
from .candidates import Candidate, make_candidate, methods_of
from .design import LEAST_STEPS, Design, design_for, least_cost_runs
from .events import Decided, OnEvent, RacePlanned, TimingSteps
from .folder import RaceFolder, RacePlan
from .outcome import outcome
from .quick_release import quick_release
from .running import Running
from .setup import RaceSetup
from .source import RaceSource
from .step_time import CandidateStepTime, measure_step_times, steps_within, time_of_steps_ms

# Of the time, for finding the step times.
_STEP_TIMES_SHARE = 0.1
# Of the minutes, for what a plan cannot know: building models, saving, evaluating.
_USABLE_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Budget:
    """What a race may cost: a share of one run, taken by the candidates that do not win; or minutes in all.

    `least_methods`: of a share that nobody asked for; it grows to what a race of so many methods takes.
    """

    share: float | None = None
    minutes: float | None = None
    least_methods: int | None = None

    def __post_init__(self) -> None:
        given = self.minutes if self.share is None else self.share
        if given is None or not (math.isfinite(given) and 0 < given <= 1e6):
            raise UsageError(
                "a race needs a budget above 0", "give --share 10% of the run, or --minutes 20"
            )


def race(
    source: RaceSource,
    *,
    budget: Budget,
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
            plan = _planned(source, setup, settings, budget, methods, interrupt, on_event)
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
    budget: Budget,
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
        return _planned(source, setup, settings, budget, methods, interrupt, on_event)


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
    source: RaceSource, setup: RaceSetup, methods: Sequence[str] | None, budget: Budget
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


def _planned(
    source: RaceSource,
    setup: RaceSetup,
    settings: dict[str, str],
    budget: Budget,
    methods: Sequence[str] | None,
    interrupt: Interrupt,
    on_event: OnEvent,
) -> RacePlan:
    """Find out who can take part and how fast everyone is, and settle the race."""
    began_s = monotonic()
    traits = _traits(source, setup)
    names, absent = methods_of(source, traits, methods)
    candidates = [make_candidate(source, traits, name) for name in names]
    release_memory()

    def timed(those: list[Candidate]) -> tuple[dict[str, CandidateStepTime], list[LeftOut]]:
        return measure_step_times(
            setup,
            those,
            budget_s=60 * (budget.minutes or 5.0) * _STEP_TIMES_SHARE,
            is_over=lambda: interrupt.requested,
            on_progress=lambda *what: on_event(TimingSteps(*what)),
        )

    step_times, unable = timed(candidates[:1])
    own, steps = candidates[0], setup.recipe.schedule.steps
    run_s = time_of_steps_ms(steps, step_times[own.method], own.method, own.options) / 1000
    fixed = None if methods is None else len(candidates)
    design = _design(budget, steps, run_s, monotonic() - began_s, len(candidates), fixed)
    if design.methods > 1:
        step_times, unable = timed(candidates[: design.methods])
        run_s = time_of_steps_ms(steps, step_times[own.method], own.method, own.options) / 1000
    others = (one for one in candidates[1:] if one.method in step_times)
    entered = [own, *(_over(run_s, one, step_times[one.method]) for one in others)]
    settled = _over_all(design, entered)
    fewest = fixed or budget.least_methods or 1
    while budget.share and len(entered) > fewest and settled.cost_runs > budget.share * (1 + 1e-9):
        too_many = LeftOut(method=entered.pop().method, reason="the budget buys no more methods")
        unable, settled = [*unable, too_many], _over_all(design, entered)
    return RacePlan(
        settings=settings,
        design=settled,
        candidates=entered,
        step_times={one.method: step_times[one.method] for one in entered},
        run_seconds=run_s,
        left_out=[*absent, *unable],
        spent_seconds=monotonic() - began_s,
    )


def _over_all(design: Design, entered: Sequence[Candidate]) -> Design:
    """Return a design among these, whose shortest run has the fewest steps."""
    return design.model_copy(update={"methods": len(entered)}).over(
        min(one.steps for one in entered)
    )


def _over(run_s: float, candidate: Candidate, step_time: CandidateStepTime) -> Candidate:
    """Return a candidate with as many steps as take the time of the recipe's own run."""
    steps, _ = steps_within(run_s, step_time, candidate.method, candidate.options)
    return candidate.model_copy(update={"steps": max(steps, 2 * LEAST_STEPS)})


def _traits(source: RaceSource, setup: RaceSetup) -> Traits:
    """Return the traits of the run; building it shows that the model can be trained at all."""
    recipe = setup.recipe
    trainable = make_trainable(recipe, setup.target, setup.device)
    tokens = tokens_in(next(trainable.begin())) * recipe.data.accumulate
    return traits_of_model(
        trainable.model,
        tokens_per_step=tokens,
        steps=recipe.schedule.steps,
        fine_tunes=setup.target.record.loads_weights,
    )


def _design(
    budget: Budget,
    steps: int,
    run_s: float,
    spent_s: float,
    most_methods: int,
    fixed_methods: int | None,
) -> Design:
    """Return what the budget buys.

    Raises:
        UsageError: It buys nothing.
    """
    share, with_winner = budget.share, budget.share is None  # minutes are for all of it
    if share is None:
        share = (60 * (budget.minutes or 0.0) * _USABLE_SHARE - spent_s) / run_s
    if budget.least_methods is not None:
        count = fixed_methods or min(budget.least_methods, most_methods)
        share = max(share, least_cost_runs(count, steps=steps))
    design = design_for(
        share,
        steps=steps,
        most_methods=most_methods,
        fixed_methods=fixed_methods,
        with_winner=with_winner,
    )
    if design is not None:
        return design
    least = least_cost_runs(fixed_methods or 1, steps=steps, with_winner=with_winner)
    what = "one method's rates" if fixed_methods in {None, 1} else f"{fixed_methods} methods"
    takes = f"a race of {what} takes {least:.0%} of a run"
    if with_winner:
        needed = (least * run_s + spent_s) / 60 / _USABLE_SHARE
        raise UsageError(
            f"{budget.minutes:g} minutes are too few: {takes}, and a run {run_s / 60:.3g} minutes",
            f"give --minutes {math.ceil(10 * needed) / 10:g}; or train the recipe at the rate it has",
        )
    raise UsageError(
        f"{budget.share:.2%} of a run is too little: {takes}",
        f"give --share {math.ceil(100 * least)}%; or train the recipe at the rate it has",
    )
