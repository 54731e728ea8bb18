"""What a run will take and do, as plain data, worked out before its first step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from operator import attrgetter
from pathlib import Path

import torch

from subopt.optimizers import ParameterRole, get_method
from subopt.optimizers.overrides import is_frozen, override_for, override_uses

from ..prior.rates import heavy_decay
from ..schema import Recipe
from .events import RunPlan
from .trainable import Trainable

_SWITCHES = ("recompute", "fused_backward", "compile", "checkpoint.best")


def make_plan(
    trainable: Trainable, device: torch.device, output: Path, start_step: int, free: int | None
) -> RunPlan:
    """Return the plan of a run whose parts are all built."""
    recipe, target, described = trainable.recipe, trainable.target, trainable.described
    overrides = [override.model_dump() for override in recipe.optimizer.overrides]
    record, steps, step_ms = target.record, recipe.schedule.steps, recipe.why.predicted_step_ms
    where = f" ({record.file}:{record.line})" if record.line else ""
    return RunPlan(
        target=record.picked + where,
        method=recipe.optimizer.method,
        device=str(device),
        precision=recipe.precision,
        parameters=_numbers(item for item in described if not is_frozen(overrides, item)),
        matrix_parameters=_numbers(item for item in described if _gets_method(recipe, item)),
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
        has_eval=target.data.has_eval,
        wall_time_s=None if step_ms is None else step_ms * max(0, steps - start_step) / 1000,
        switches=tuple(key for key in _SWITCHES if attrgetter(key)(recipe)),
        overrides=override_uses(overrides, described) if overrides else (),
        heavy_decay=heavy_decay(recipe.optimizer.lr, recipe.optimizer.weight_decay),
    )


def _numbers(items: Iterable[ParameterRole]) -> int:
    return sum(math.prod(item.shape) for item in items)


def _gets_method(recipe: Recipe, item: ParameterRole) -> bool:
    """Whether a parameter is a matrix that the recipe's main method trains, with an override's settings or without."""
    method, overrides = get_method(recipe.optimizer.method), recipe.optimizer.overrides
    index = override_for([override.model_dump() for override in overrides], item)
    is_main = index is None or overrides[index].method in {None, method.name}
    return is_main and item.role == "matrix" and method.accepts(item.layer_type)
