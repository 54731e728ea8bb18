"""What would make training fit when nothing does, the smallest change first; every one is checked to fit.

Micro-batches, recomputing, a fused backward pass and leaner options have been tried by then as far as they were allowed
(`solving`). What is left is what the user ruled out, another method, fewer examples per step, and a larger budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from subopt.errors import UsageError
from subopt.profilers.record.profile import MethodCost, Profile

from ..plan.budget import Budget, DeviceType, smallest_budget
from ..plan.solving import PlanRequest, Solved, least
from ..ranking.planned import Planned, least_changed, solved_plans
from ..ranking.rule import ranked
from .answer import ChangeType, FittingChange, Question


def changes_that_fit(
    profile: Profile,
    costs: Sequence[MethodCost],
    others: Sequence[MethodCost],
    budget: Budget,
    request: PlanRequest,
    device: DeviceType,
) -> tuple[FittingChange, ...]:
    """Return what would make training fit, the smallest change first.

    Args:
        profile: The profile.
        costs: The methods that were asked for, none of which fits.
        others: Methods of the profile that were not asked for.
        budget: The budget.
        request: What was fixed.
        device: What kind of memory the budget is.
    """
    return (
        *_allowed(profile, costs, budget, request),
        *_other_method(profile, others, budget, request),
        *_fewer_examples(profile, costs, budget, request),
        _larger_budget(profile, costs, budget, request, device),
    )


def _allowed(
    profile: Profile, costs: Sequence[MethodCost], budget: Budget, request: PlanRequest
) -> Iterator[FittingChange]:
    """Yield what would fit if one thing that the user fixed were free, or else all of them."""
    wishes: list[tuple[Question, PlanRequest]] = []
    if request.accumulate is not None and request.batch_size != "auto":
        wishes.append(("accumulate", replace(request, accumulate=None)))
    if request.recompute is False:
        wishes.append(("recompute", replace(request, recompute="auto")))
    if request.fused_backward is False:
        wishes.append(("fused_backward", replace(request, fused_backward="auto")))
    for question, allowed in wishes:
        found = _best(profile, costs, budget, allowed)
        if found is not None:
            kind: ChangeType = "recompute" if found.plan.recompute else "batch"
            if found.plan.fused_backward:
                kind = "fused backward"
            yield _change(kind, question, found.row.method, found.plan, budget.total_bytes)


def _other_method(
    profile: Profile, others: Sequence[MethodCost], budget: Budget, request: PlanRequest
) -> Iterator[FittingChange]:
    """Yield the method with the least change among those that were left out of the question."""
    found = _best(profile, others, budget, request)
    if found is not None:
        yield _change("method", "methods", found.row.method, found.plan, budget.total_bytes)


def _fewer_examples(
    profile: Profile, costs: Sequence[MethodCost], budget: Budget, request: PlanRequest
) -> Iterator[FittingChange]:
    """Yield the largest step that fits, which is another step than what was asked for."""
    if request.batch_size == "auto" and request.examples_per_step is None:
        return
    fewer = replace(request, batch_size="auto", accumulate=None, examples_per_step=None)
    if profile.memory.activation_bytes is None:
        return
    found = _best(profile, costs, budget, fewer)
    if found is not None:
        yield _change("batch", "batch_size", found.row.method, found.plan, budget.total_bytes)


def _larger_budget(
    profile: Profile,
    costs: Sequence[MethodCost],
    budget: Budget,
    request: PlanRequest,
    device: DeviceType,
) -> FittingChange:
    plans = [(cost, plan) for cost in costs if (plan := least(profile, cost, request)) is not None]
    if not plans:
        raise UsageError(
            f"the profile does not know the memory of {request.examples_per_step} examples at once",
            "ask for fewer --examples-per-step, or leave out --fused-backward on",
        )
    cost, plan = min(plans, key=lambda pair: pair[1].needed_bytes)
    needed = smallest_budget(plan.needed_bytes, device, headroom=budget.headroom)
    return _change("budget", "budget", cost.method, plan, needed)


def _best(
    profile: Profile, costs: Sequence[MethodCost], budget: Budget, request: PlanRequest
) -> Planned | None:
    """Return the best ranked method among those with the least changed options."""
    planned = least_changed(solved_plans(profile, costs, request, budget.usable_bytes))
    if not planned:
        return None
    first, *_ = ranked([item.row for item in planned], "quality", budget.usable_bytes)
    return next(item for item in planned if item.row is first)


def _change(
    kind: ChangeType, question: Question, method: str, plan: Solved, budget_bytes: int
) -> FittingChange:
    return FittingChange(
        kind=kind,
        question=question,
        method=method,
        options=plan.options,
        batch_size=plan.batch_size,
        accumulate=plan.accumulate,
        recompute=plan.recompute,
        fused_backward=plan.fused_backward,
        peak_bytes=plan.peak.bytes,
        budget_bytes=budget_bytes,
        counts_activations=plan.peak.high_bytes is not None,
    )
