"""What a run will take and do, as plain data, worked out before its first step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from subopt.optimizers import Composed, Treatment, get_method, stored_bytes
from subopt.profilers.target import LoadedTarget

from .events import Plan
from .schema import Recipe


def model_bytes(model: nn.Module) -> int:
    """Return the bytes of a model's parameters and buffers."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def actual_state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of the tensors an optimizer holds."""
    return sum(
        stored_bytes(value)
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )


def make_plan(
    recipe: Recipe,
    target: LoadedTarget,
    described: Sequence[Treatment],
    optimizer: Composed,
    device: torch.device,
    output: Path,
    start_step: int,
    free: int | None,
    checks: tuple[tuple[str, str], ...],
) -> Plan:
    """Return the plan of a run whose parts are all built; `described`: the parameters of the model as it was given."""
    method = get_method(recipe.optimizer.method)
    record, steps, step_ms = target.record, recipe.schedule.steps, recipe.why.predicted_step_ms
    where = f" ({record.file}:{record.line})" if record.line else ""
    return Plan(
        target=record.picked + where,
        method=method.name,
        device=str(device),
        precision=recipe.precision,
        parameters=sum(math.prod(item.shape) for item in described if item.treatment != "frozen"),
        matrix_parameters=sum(
            math.prod(item.shape)
            for item in described
            if item.treatment == "matrix" and method.accepts(item.layer_kind)
        ),
        steps=steps,
        batch_size=recipe.data.batch_size,
        accumulate=recipe.data.accumulate,
        output=output,
        start_step=start_step,
        predicted_state_bytes=optimizer.planned_state_bytes(),
        predicted_peak_bytes=recipe.why.predicted_peak_bytes,
        predicted_step_ms=step_ms,
        free_bytes=free,
        checks=checks,
        has_eval=target.has_eval,
        wall_time_s=None if step_ms is None else step_ms * max(0, steps - start_step) / 1000,
    )
