"""What a run will take and do, as plain data, worked out before its first step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from subopt.optimizers import Treatment, get_method
from subopt.optimizers.overrides import is_frozen, rule_for, rule_uses

from ..schema import Recipe
from .events import Plan

if TYPE_CHECKING:
    from .trainable import Trainable


def make_plan(
    trainable: Trainable,
    device: torch.device,
    output: Path,
    start_step: int,
    free: int | None,
) -> Plan:
    """Return the plan of a run whose parts are all built."""
    recipe, target, described = trainable.recipe, trainable.target, trainable.described
    rules = [rule.model_dump() for rule in recipe.optimizer.rules]
    record, steps, step_ms = target.record, recipe.schedule.steps, recipe.why.predicted_step_ms
    where = f" ({record.file}:{record.line})" if record.line else ""
    return Plan(
        target=record.picked + where,
        method=recipe.optimizer.method,
        device=str(device),
        precision=recipe.precision,
        parameters=sum(math.prod(item.shape) for item in described if not is_frozen(rules, item)),
        matrix_parameters=sum(
            math.prod(item.shape) for item in described if _gets_method(recipe, item)
        ),
        steps=steps,
        batch_size=recipe.data.batch_size,
        accumulate=recipe.data.accumulate,
        output=output,
        start_step=start_step,
        predicted_state_bytes=trainable.optimizer.planned_state_bytes(),
        predicted_peak_bytes=recipe.why.predicted_peak_bytes,
        predicted_step_ms=step_ms,
        free_bytes=free,
        checks=trainable.checks,
        has_eval=target.has_eval,
        wall_time_s=None if step_ms is None else step_ms * max(0, steps - start_step) / 1000,
        switches=tuple(key for key, is_on in _switches(recipe).items() if is_on),
        rules=rule_uses(rules, described) if rules else (),
    )


def _gets_method(recipe: Recipe, item: Treatment) -> bool:
    """Whether a parameter is a matrix that the recipe's main method trains, with a rule's settings or without."""
    method, rules = get_method(recipe.optimizer.method), recipe.optimizer.rules
    index = rule_for([rule.model_dump() for rule in rules], item)
    is_main = index is None or rules[index].method in {None, method.name}
    return is_main and item.treatment == "matrix" and method.accepts(item.layer_kind)


def _switches(recipe: Recipe) -> dict[str, bool]:
    return {
        "recompute": recipe.recompute,
        "fused_backward": recipe.fused_backward,
        "compile": recipe.compile,
        "checkpoint.best": recipe.checkpoint.best,
    }
