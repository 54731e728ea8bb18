"""From a profile and a memory budget to a ranked, explained table of methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from subopt.errors import UsageError
from subopt.optimizers import METHODS, get_method
from subopt.profilers.record.profile import MethodCost, Profile

from ..evidence.raced_settings import as_raced, known_rate
from ..plan.budget import Budget, DeviceType, read_budget
from ..plan.method_options import changed_options
from ..plan.reasons import plan_reasons
from ..plan.solving import PlanRequest
from ..prior.traits import Traits, traits_of_profile
from ..ranking.planned import (
    Planned,
    asked_plans,
    least_changed,
    ranked_plans,
    smallest_plans,
    solved_plans,
)
from ..ranking.row import Objective, Row
from ..reason import Reason
from .answer import Advice
from .calibrated import earlier_runs
from .changes import changes_that_fit
from .proposal import needs_data, to_recipe
from .reasons import ActivationsFillMemory, ChosenRate, NothingFits, NotInstalled, SmallestChange
from .regimes import regime_remarks
from .verdict import choice_reasons, confidence_of, how_sure

__all__ = ["Advice", "Row", "recommend", "to_recipe"]

# Below this share of the peak, the optimizer's state is not what fills the memory.
_SMALL_STATE_SHARE = 0.25


def recommend(
    profile: Profile,
    *,
    budget_bytes: int,
    objective: Objective = "quality",
    batch_size: int | Literal["auto"] | None = None,
    methods: Sequence[str] | None = None,
    device: DeviceType = "cuda",
    request: PlanRequest | None = None,
    headroom: float = 0.0,
    steps: int | None = None,
    fine_tunes: bool | None = None,
) -> Advice:
    """Rank the profile's methods under a memory budget, choose one, and solve for the rest of the plan.

    The ranking rule is `score` and `sort_key` of `ranking.rule`. Where a method fits as it is asked for, nothing is
    changed; where none does, each is made to fit by the smallest change (`solving`), and among those whose own options
    are the least changed the best is chosen. The result depends on nothing but the arguments.

    Args:
        profile: What `subopt profile` measured.
        budget_bytes: Memory of the device to train on.
        objective: `quality`: best expected result at equal wall time; `speed`: cheapest step among the methods not
            expected to be worse than AdamW; `memory`: smallest peak.
        batch_size: Examples of one micro-batch; the profile's own by default. `auto`: for each method the most that
            fits.
        methods: Method ids to choose from; all of the profile by default.
        device: Kind of the memory: `cuda` takes context and allocator reserve off the budget.
        request: What else is asked of the plan; it has the batch size then.
        headroom: Share of the usable budget to keep free.
        steps: Optimizer steps of the run; the request's by default.
        fine_tunes: Whether the run is fine-tuning; the request's by default.

    Raises:
        OptionError: An unknown method.
        UsageError: The profile lacks what the question needs: method costs, or activations for another batch size; or
            the least memory is asked for at the largest batch.
    """
    budget = read_budget(budget_bytes, device, headroom=headroom)
    request = PlanRequest(batch_size=batch_size) if request is None else request
    if steps is not None:
        request = replace(request, steps=steps)
    if fine_tunes is not None:
        request = replace(request, fine_tunes=fine_tunes)
    if objective == "memory" and request.batch_size == "auto":
        raise UsageError(
            "the largest batch fills the budget with every method, so there is no least memory to rank by",
            "give a batch size, or another objective",
        )
    unavailable = _unavailable(profile, methods)
    costs, others = _split(profile, methods, without=dict(unavailable))
    costs = [as_raced(profile, cost) for cost in costs]
    question = _Question(profile, objective, budget, device, request, costs, others, unavailable)
    planned, chosen = _planned(question)
    if chosen is None:
        return _refusal(question, planned)
    return _choice(question, planned, chosen)


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked, with the profile's rows that can answer it (`costs`) and the others that could."""

    profile: Profile
    objective: Objective
    budget: Budget
    device: DeviceType
    request: PlanRequest
    costs: Sequence[MethodCost]
    others: Sequence[MethodCost]
    unavailable: tuple[tuple[str, str], ...]

    def traits(self, examples_per_step: int) -> Traits:
        """The model and its run, with so many examples in a step."""
        return traits_of_profile(
            self.profile,
            examples_per_step=examples_per_step,
            steps=self.request.steps,
            fine_tunes=self.request.fine_tunes,
        )


def _refusal(question: _Question, planned: Sequence[Planned]) -> Advice:
    """Say that nothing fits, and what would make it fit."""
    profile, budget, request = question.profile, question.budget, question.request
    rows = tuple(item.row for item in planned)
    changes = changes_that_fit(
        profile, question.costs, question.others, budget, request, question.device
    )
    leanest = min(rows, key=lambda row: row.peak.bytes)
    peak = leanest.peak
    refusal = NothingFits(leanest.method, peak.bytes, peak.phase, max(-leanest.headroom_bytes, 0))
    return Advice(
        objective=question.objective,
        budget=budget,
        batch_size=planned[0].plan.batch_size,
        rows=rows,
        chosen=None,
        traits=question.traits(planned[0].plan.examples_per_step),
        reasons=(refusal, SmallestChange(changes[0]), *_remarks(question, rows, None)),
        changes=changes,
        unavailable=question.unavailable,
    )


def _choice(question: _Question, planned: Sequence[Planned], chosen: Planned) -> Advice:
    """Say what was chosen and why."""
    profile, plan = question.profile, chosen.plan
    rows = tuple(item.row for item in planned)
    solved = tuple(plan_reasons(profile, question.request, plan))
    leaner = {item.row.method: item.plan.options for item in planned if item.plan.options}
    why = choice_reasons(chosen.row, rows, question.objective, profile, leaner)
    traits = question.traits(plan.examples_per_step)
    rate = known_rate(profile, chosen.row.method, traits)
    return Advice(
        objective=question.objective,
        budget=question.budget,
        batch_size=plan.batch_size,
        rows=rows,
        chosen=chosen.row,
        traits=traits,
        reasons=(*why, *solved, *_remarks(question, rows, chosen)),
        unavailable=question.unavailable,
        plan=plan,
        plan_reasons=solved,
        confidence=confidence_of(profile, chosen.row, rows),
        rate=ChosenRate(chosen.row.method, rate.lr, rate.reason),
    )


def _remarks(question: _Question, rows: Sequence[Row], chosen: Planned | None) -> Iterator[Reason]:
    """Yield what follows the answer: what fills the memory, how sure it is, what is missing, the budget."""
    profile, memory = question.profile, question.profile.memory
    peak, state = memory.peak_bytes or 0, memory.optimizer_state_bytes
    activations = memory.activation_bytes or 0
    if state < _SMALL_STATE_SHARE * peak and activations > state:
        yield ActivationsFillMemory(peak, state, activations, profile.settings.batch_size)
    if chosen is not None:
        plan = chosen.plan
        yield from regime_remarks(
            profile,
            question.traits(plan.examples_per_step),
            rows,
            is_asked=question.request.fine_tunes is not None,
            accumulate=plan.accumulate,
        )
        yield how_sure(profile, chosen.row, rows)
        yield from needs_data(profile)
    if question.unavailable:
        yield NotInstalled(question.unavailable)
    yield from earlier_runs(profile.calibration)
    yield question.budget


def _planned(question: _Question) -> tuple[list[Planned], Planned | None]:
    """Return the methods, best first, with the plan each row is for, and the chosen one of them."""
    profile, costs, request = question.profile, question.costs, question.request
    objective, usable_bytes = question.objective, question.budget.usable_bytes
    if request.batch_size == "auto":
        asked = smallest_plans(profile, costs, request, usable_bytes)
    else:
        asked = asked_plans(profile, costs, request, usable_bytes)
        ranked = ranked_plans(asked, objective)
        if best := _first_that_fits(ranked):
            return ranked, best
    solved = solved_plans(profile, costs, request, usable_bytes)
    best = _first_that_fits(ranked_plans(least_changed(solved), objective))
    by_method = {item.row.method: item for item in [*asked, *solved]}
    if not by_method:
        raise UsageError(
            "no method of the profile can be run this way, or the profile does not know what that takes",
            "leave out --recompute on and --fused-backward on",
        )
    return ranked_plans(by_method.values(), objective), best


def _first_that_fits(planned: Sequence[Planned]) -> Planned | None:
    return next((item for item in planned if item.row.is_recommendable), None)


def _unavailable(profile: Profile, methods: Sequence[str] | None) -> tuple[tuple[str, str], ...]:
    """Return the methods, of those asked for, that need what is not installed, and how to install it."""
    options = {cost.method: changed_options(cost) for cost in profile.methods}
    return tuple(
        (name, f"pip install 'subopt[{extra}]'")
        for name in (METHODS if methods is None else methods)
        if (extra := get_method(name).missing_extra(options.get(name))) is not None
    )


def _split(
    profile: Profile, methods: Sequence[str] | None, *, without: Mapping[str, str]
) -> tuple[list[MethodCost], list[MethodCost]]:
    """Return the profile's rows that were asked for, and the rest; none of the methods that are unavailable."""
    if not profile.methods:
        raise UsageError(
            "the profile holds no method costs", "make it again with: subopt profile model.py"
        )
    usable = [cost for cost in profile.methods if cost.method not in without]
    if methods is None:
        return usable, []
    wanted = {get_method(name).name for name in methods}
    for name in wanted & without.keys():
        raise UsageError(f"{name} needs a package that is not installed", without[name])
    missing = wanted - {cost.method for cost in profile.methods}
    if missing or not wanted:
        raise UsageError(
            f"the profile holds no costs of {', '.join(sorted(missing)) or 'the methods asked for'}",
            "it has " + ", ".join(cost.method for cost in profile.methods),
        )
    return (
        [cost for cost in usable if cost.method in wanted],
        [cost for cost in usable if cost.method not in wanted],
    )
