"""A race: the methods against each other on the user's own model, data and device, for equal wall time."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

from subopt.errors import UsageError
from subopt.profilers.device import release_memory, resolve_device
from subopt.profilers.record.race import LeftOut, Race

from ..evidence.published import load_evidence
from ..training.events import Warned, ignore
from ..training.interrupt import Interrupt, interruptible
from ..training.session import check_unchanged
from ..training.trainable import make_trainable, training_target
from .candidates import Candidate, candidates_of
from .events import OnEvent, Pacing, RacePlanned
from .folder import RaceFolder, RacePlan
from .plan import lay_out
from .running import Running
from .search import require_optuna
from .source import RaceSource
from .step_time import measure_step_times
from .trial import RaceSetup, quick_release

# Of the minutes, for finding the step times.
_STEP_TIMES_SHARE = 0.1


def race(
    source: RaceSource,
    *,
    minutes: float,
    methods: Sequence[str] | None = None,
    finalists: int = 3,
    seeds: int = 3,
    output: Path,
    resume: bool = False,
    force: bool = False,
    device: str | None = None,
    on_event: OnEvent = ignore,
) -> Race:
    """Race methods for equal wall time, and leave every finished trial in a folder.

    Every trial has the same weights at its seed, the same batches in the same order, the same schedule stretched over
    its own steps, and as many steps as its method takes in `horizon_seconds` at its measured step time. The baseline
    searches its rate first; it then trains, under every other method, what that method leaves alone.

    Args:
        source: What is trained, and what is known of the methods.
        minutes: Real time in all; of a resumed race, for what is left of it.
        methods: Method ids beside the baseline; by default as many of the most promising as there is time for.
        finalists: Methods beside the baseline that repeat their best setting with other seeds.
        seeds: Runs of a finalist, the search's among them.
        output: The race's folder.
        resume: Go on with the race in it, for further `minutes`.
        force: Start over in an existing folder, or with a changed model file or synthetic data.
        device: Device, or None for the best there is.
        on_event: Called with every event as it happens, in this thread.

    Returns:
        What came out; `interrupted` where Ctrl-C or the clock ended it before its plan was done.

    Raises:
        UsageError: Optuna is missing, the folder is taken, the minutes are too few, or there is nothing to race.
        SuboptError: What loading the model and training it with the baseline raise.
        KeyboardInterrupt: Ctrl-C before the first trial.
    """
    require_optuna()
    _check_numbers(minutes, finalists, seeds)
    began_s = monotonic()
    folder = RaceFolder(output)
    folder.check(resume=resume, force=force)
    setup = _open_setup(source, device, force=force, on_event=on_event)
    settings = _settings(source, setup, methods, finalists, seeds)
    with quick_release(), interruptible(on_event) as interrupt:
        if resume:
            plan = folder.load_plan(settings)
        else:
            plan = _planned(
                source, setup, settings, minutes, methods, finalists, seeds, interrupt, on_event
            )
            folder.start(plan)
        running = Running(
            setup,
            plan,
            folder,
            interrupt=interrupt,
            end_s=began_s + 60 * minutes,
            on_event=on_event,
        )
        on_event(RacePlanned(plan, running.done))
        result = running.run(minutes)
    folder.save(result)
    return result


def _check_numbers(minutes: float, finalists: int, seeds: int) -> None:
    if not (math.isfinite(minutes) and 0 < minutes <= 1e6):
        raise UsageError(f"{minutes:g} minutes make no race", "give a number above 0: --minutes 20")
    if finalists < 1 or seeds < 1:
        raise UsageError("a race has at least one finalist and one seed", "give 1 or more")


def _open_setup(
    source: RaceSource, device: str | None, *, force: bool, on_event: OnEvent
) -> RaceSetup:
    place = resolve_device(device)
    target = training_target(source.recipe, source.recipe_path.parent)
    for warning in check_unchanged(source.recipe, target, force=force):
        on_event(warning)
    profile = source.profile
    if profile is not None and profile.target.sha256 != target.record.sha256 and not force:
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
        on_event(
            Warned(
                "there is no held-out data (eval_batches): methods are compared by their training loss"
            )
        )
    return RaceSetup(source.recipe, target, place)


def _settings(
    source: RaceSource, setup: RaceSetup, methods: Sequence[str] | None, finalists: int, seeds: int
) -> dict[str, str]:
    """Return what a race is known again by."""
    recipe = source.recipe.model_dump(mode="json", exclude={"why", "checkpoint", "model"})
    found = {key: json.dumps(value) for key, value in recipe.items()}
    return found | {
        "model": f"{setup.target.record.sha256} {json.dumps(source.recipe.model.kwargs)}",
        "methods": "chosen by the race" if methods is None else ",".join(methods),
        "finalists": str(finalists),
        "seeds": str(seeds),
        "device": str(setup.device),
        "budget": str(source.budget_bytes),
    }


def _planned(
    source: RaceSource,
    setup: RaceSetup,
    settings: dict[str, str],
    minutes: float,
    methods: Sequence[str] | None,
    finalists: int,
    seeds: int,
    interrupt: Interrupt,
    on_event: OnEvent,
) -> RacePlan:
    """Find out who can take part and how fast everyone is, and settle the race."""
    began_s = monotonic()
    candidates, absent = _candidates(source, setup, methods)
    release_memory()
    step_times, unable = measure_step_times(
        setup,
        candidates,
        budget_s=60 * minutes * _STEP_TIMES_SHARE,
        is_over=lambda: interrupt.requested,
        on_progress=lambda *what: on_event(Pacing(*what)),
    )
    able = [candidate for candidate in candidates if candidate.method in step_times]
    if len(able) < 2:
        raise UsageError(
            f"no other method than {able[0].method} can train this model: {unable[0].reason}"
        )
    spent_s = monotonic() - began_s
    layout = lay_out(
        able,
        step_times,
        minutes=minutes,
        spent_s=spent_s,
        finalists=finalists,
        seeds=seeds,
        is_fixed=methods is not None,
        most_steps=source.recipe.schedule.steps if source.is_tuned else None,
    )
    return RacePlan(
        settings=settings,
        minutes=minutes,
        horizon_seconds=layout.horizon_s,
        finals_seconds=layout.finals_s,
        trials=layout.trials,
        finalists=finalists,
        seeds=[source.recipe.seed + k for k in range(layout.seeds)],
        contestants=list(layout.contestants),
        step_times=step_times,
        left_out=[*absent, *unable, *layout.left_out],
        spent_seconds=spent_s,
    )


def _candidates(
    source: RaceSource, setup: RaceSetup, methods: Sequence[str] | None
) -> tuple[list[Candidate], list[LeftOut]]:
    """Check the model on a batch, with the baseline, and return who may take part in the race."""
    baseline, own = load_evidence().baseline, source.recipe.optimizer
    recipe = setup.recipe_of(
        baseline, {}, own.lr, steps=1, seed=source.recipe.seed, fallback_lr=None
    )
    trainable = make_trainable(recipe, setup.target, setup.device)
    return candidates_of(source, trainable.model, methods)
