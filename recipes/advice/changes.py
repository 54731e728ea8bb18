"""What would make training fit when nothing does, the smallest change first; every one is checked to fit.

Micro-batches, recomputing, a fused backward pass and leaner options have been tried by then as far as they were allowed
(`solving`). What is left is what the user ruled out, another method, fewer examples per step, and a larger budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from subopt.errors import UsageError
from subopt.profilers.record.profile import MethodCost, Profile

from ..plan.budget import Budget, DeviceType, smallest_budget
from ..plan.solving import PlanRequest, Solved, least
from ..ranking.planned import Planned, least_changed, ranked_plans, solved_plans
from .answer import ChangeType, FittingChange, Question

# What is changed; where the plan alone was freed, what the plan has changed.
_KINDS: dict[Question, ChangeType] = {
    "methods": "method",
    "batch_size": "batch",
    "budget": "budget",
}


def changes_that_fit(
    profile: Profile,
    costs: Sequence[MethodCost],
    others: Sequence[MethodCost],
    budget: Budget,
    request: PlanRequest,
    device: DeviceType,
) -> tuple[FittingChange, ...]:
    """Return what would make training fit, the smallest change first; `others` are the methods not asked for."""
    wishes: list[tuple[Question, Sequence[MethodCost], PlanRequest]] = []
    if request.accumulate is not None and request.batch_size != "auto":
        wishes.append(("accumulate", costs, replace(request, accumulate=None)))
    if request.recompute is False:
        wishes.append(("recompute", costs, replace(request, recompute="auto")))
    if request.fused_backward is False:
        wishes.append(("fused_backward", costs, replace(request, fused_backward="auto")))
    wishes.append(("methods", others, request))
    if not request.is_open and profile.memory.activation_bytes is not None:
        fewer = replace(request, batch_size="auto", accumulate=None, examples_per_step=None)
        wishes.append(("batch_size", costs, fewer))
    granted = (
        (question, _best(profile, methods, budget, wish)) for question, methods, wish in wishes
    )
    return (
        *(
            _change(question, found.row.method, found.plan, budget.total_bytes)
            for question, found in granted
            if found is not None
        ),
        _larger_budget(profile, costs, budget, request, device),
    )


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
    return _change("budget", cost.method, plan, needed)


def _best(
    profile: Profile, costs: Sequence[MethodCost], budget: Budget, request: PlanRequest
) -> Planned | None:
    """Return the best ranked method among those with the least changed options."""
    planned = least_changed(solved_plans(profile, costs, request, budget.usable_bytes))
    return next(iter(ranked_plans(planned, "quality")), None)


def _change(question: Question, method: str, plan: Solved, budget_bytes: int) -> FittingChange:
    kind: ChangeType = "recompute" if plan.recompute else "batch"
    kind = "fused backward" if plan.fused_backward else kind
    return FittingChange(
        kind=_KINDS.get(question, kind),
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
