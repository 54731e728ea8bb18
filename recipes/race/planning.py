"""Who takes part in a race, how fast everyone is, and what the budget buys: settled before its first step."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

from subopt.profilers.device import release_memory
from subopt.profilers.record.race import LeftOut
from subopt.profilers.target.batches import tokens_in

from ..prior.traits import Traits, traits_of_model
from ..training.interrupt import Interrupt
from ..training.trainable import make_trainable
from .budget import RaceBudget, design_within
from .candidates import Candidate, make_candidate, methods_of
from .design import LEAST_STEPS, Design
from .events import OnEvent, TimingSteps
from .folder import RacePlan
from .setup import RaceSetup
from .source import RaceSource
from .step_time import CandidateStepTime, measure_step_times, steps_within, time_of_steps_ms

# Of the time, for finding the step times.
_STEP_TIMES_SHARE = 0.1


def settle(
    source: RaceSource,
    setup: RaceSetup,
    settings: dict[str, str],
    budget: RaceBudget,
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
    design = design_within(budget, steps, run_s, monotonic() - began_s, len(candidates), fixed)
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
