"""From advice to a mix of methods at the plan that was chosen, and from a mix to a recipe."""

from __future__ import annotations

from collections.abc import Sequence

from subopt.profilers.record.profile import MethodCost, Profile
from subopt.units import format_bytes

from ..evidence.published import load_evidence
from ..evidence.raced_settings import known_rate
from ..plan.solving import PlanRequest, Solved
from ..ranking.planned import asked_plans
from ..schema import Fallback, Recipe
from .choose import choose_mixed, leanest_bytes
from .record import Mixed, MixRemark


def mixed_at(
    profile: Profile, costs: Sequence[MethodCost], plan: Solved, usable_bytes: int
) -> tuple[Mixed | None, tuple[MixRemark, ...]]:
    """Return the best mix that runs as a plan says, and remarks about it; None, and why, where none fits.

    Args:
        profile: The profile.
        costs: The methods to choose from.
        plan: Batch, accumulation, recomputing and fused backward pass.
        usable_bytes: What tensors can use of the budget.
    """
    request = PlanRequest(
        batch_size=plan.batch_size,
        accumulate=plan.accumulate,
        recompute=plan.recompute,
        fused_backward=plan.fused_backward,
    )
    rows = [item.row for item in asked_plans(profile, costs, request, usable_bytes)]
    mixed = choose_mixed(profile, rows, usable_bytes)
    if mixed is not None:
        return mixed, tuple(map(MixRemark, mixed.sentences))
    needed = leanest_bytes(profile, rows, usable_bytes)
    if needed is None:
        said = "There is nothing to mix: no matrix, or no method of which anything is known."
    else:
        said = f"No mix of methods fits: the leanest needs {format_bytes(needed)} usable."
    return None, (MixRemark(said),)


def with_mixed(recipe: Recipe, mixed: Mixed, profile: Profile) -> Recipe:
    """Return a recipe that trains with a mix in the place of its method.

    Args:
        recipe: What `to_recipe` made of the same advice.
        mixed: The mix.
        profile: The profile it was chosen by.
    """
    baseline = load_evidence().baseline
    rate = known_rate(profile, mixed.method)
    own = recipe.optimizer
    optimizer = own.model_copy(
        update={
            "method": mixed.method,
            "lr": rate.lr,
            "weight_decay": rate.weight_decay or 0.0,
            "options": mixed.options,
            "overrides": list(mixed.overrides),
            "fallback": Fallback.model_validate({
                "method": mixed.fallback,
                "lr": own.fallback.lr or known_rate(profile, baseline).lr,
            }),
        }
    )
    factor = recipe.why.step_factor or 1.0
    why = recipe.why.model_copy(
        update={
            "predicted_state_bytes": mixed.state_bytes,
            "predicted_peak_bytes": mixed.peak_bytes,
            "predicted_step_ms": None if mixed.step_ms is None else mixed.step_ms * factor,
        }
    )
    return recipe.model_copy(update={"optimizer": optimizer, "why": why})
