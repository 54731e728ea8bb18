"""The rows of the ranked table with the plan that each is worked out for: as asked, or changed so that it fits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from subopt.profilers.record.cost import BASELINE
from subopt.profilers.record.profile import MethodCost, Profile

from ..plan.method_options import with_options
from ..plan.peaks import peak_at
from ..plan.solving import RECOMPUTE_SHARE, PlanRequest, Solved, as_asked, can_run, solve
from ..prior.gains import worth_of_doubling
from ..prior.traits import Traits, traits_of_profile
from .make_row import make_row
from .row import Objective, Row
from .rule import sort_key, time_price


@dataclass(frozen=True, slots=True)
class Planned:
    """A method's row and the plan it is for."""

    row: Row
    plan: Solved


def asked_plans(
    profile: Profile, costs: Iterable[MethodCost], request: PlanRequest, usable_bytes: int
) -> list[Planned]:
    """Return the methods as they are asked for; without those that cannot run that way."""
    plans = ((cost, as_asked(profile, cost, request)) for cost in costs)
    return [
        Planned(_row(profile, cost, plan, usable_bytes, request), plan)
        for cost, plan in plans
        if plan is not None
    ]


def solved_plans(
    profile: Profile, costs: Iterable[MethodCost], request: PlanRequest, usable_bytes: int
) -> list[Planned]:
    """Return the methods that can be made to fit, each with the smallest change that does it.

    A method whose activations have to be computed again, where others need not, pays for that time in its score.
    """
    found = []
    for cost in costs:
        plan = solve(profile, cost, usable_bytes, request)
        if plan is None:
            continue
        leaner = with_options(profile, cost, plan.options)
        row = _row(profile, leaner, plan, usable_bytes, request)
        if plan.recompute and request.recompute == "auto" and row.score is not None:
            worth = worth_of_doubling(_traits(profile, plan, request))
            row = replace(row, score=row.score - time_price(RECOMPUTE_SHARE, worth))
        found.append(Planned(row, plan))
    return found


def smallest_plans(
    profile: Profile, costs: Iterable[MethodCost], request: PlanRequest, usable_bytes: int
) -> list[Planned]:
    """Return the methods with one example per step, whether they fit or not; without those that cannot run that way."""
    able = [cost for cost in costs if can_run(profile, cost, request)]
    plans = [(cost, Solved(1, 1, peak_at(profile, cost, 1))) for cost in able]
    return [Planned(_row(profile, cost, plan, usable_bytes, request), plan) for cost, plan in plans]


def least_changed(planned: Sequence[Planned]) -> list[Planned]:
    """Return those whose method's options are changed the least: not at all, else the state's dtype, else the rank."""

    def change(item: Planned) -> int:
        return 2 * ("rank" in item.plan.options) + ("state_dtype" in item.plan.options)

    least = min(map(change, planned), default=0)
    return [item for item in planned if change(item) == least]


def ranked_plans(planned: Iterable[Planned], objective: Objective) -> list[Planned]:
    """Return the methods best first; equal ones keep their order."""
    return sorted(planned, key=lambda item: sort_key(item.row, objective))


def _row(
    profile: Profile, cost: MethodCost, plan: Solved, usable_bytes: int, request: PlanRequest
) -> Row:
    baseline = next((row for row in profile.methods if row.method == BASELINE), None)
    examples, traits = plan.examples_per_step, _traits(profile, plan, request)
    row = make_row(profile, cost, baseline, examples, usable_bytes, traits, peak=plan.peak)
    if not plan.recompute or row.step_ms is None:
        return row
    passes_ms = (profile.forward_backward_ms or 0.0) * examples / profile.settings.batch_size
    return replace(row, step_ms=row.step_ms + RECOMPUTE_SHARE * passes_ms)


def _traits(profile: Profile, plan: Solved, request: PlanRequest) -> Traits:
    return traits_of_profile(
        profile,
        examples_per_step=plan.examples_per_step,
        steps=request.steps,
        fine_tunes=request.fine_tunes,
    )
