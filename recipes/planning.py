"""What a run will take and do, as plain data, worked out before its first step."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from torch import nn

from subopt.optimizers import Composed, treatments
from subopt.optimizers.cell import Cell
from subopt.optimizers.slots import Dtypes, layout_bytes
from subopt.profilers.target import LoadedTarget

from .events import Plan
from .schema import Recipe


def model_bytes(model: nn.Module) -> int:
    """Return the bytes of a model's parameters and buffers."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def predicted_state_bytes(optimizer: Composed) -> int:
    """Return the optimizer-state bytes that the method table gives for an optimizer's parameters."""
    total = 0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            dtypes = Dtypes.of(parameter.dtype, group["state_dtype"], group["basis_dtype"])
            total += layout_bytes(Cell.of(group, parameter.shape).layout(parameter.shape), dtypes)
    return total


def actual_state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of the tensors an optimizer holds."""
    return sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )


def make_plan(
    recipe: Recipe,
    target: LoadedTarget,
    model: nn.Module,
    optimizer: Composed,
    device: torch.device,
    output: Path,
    start_step: int,
    free: int | None,
    checks: tuple[tuple[str, str], ...],
) -> Plan:
    """Return the plan of a run whose parts are all built."""
    record, steps, step_ms = target.record, recipe.schedule.steps, recipe.why.predicted_step_ms
    where = f" ({record.file}:{record.line})" if record.line else ""
    return Plan(
        target=record.picked + where,
        method=recipe.optimizer.method,
        device=str(device),
        precision=recipe.precision,
        parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        matrix_parameters=sum(
            item.parameter.numel() for item in treatments(model) if item.treatment == "matrix"
        ),
        steps=steps,
        batch_size=recipe.data.batch_size,
        accumulate=recipe.data.accumulate,
        output=output,
        start_step=start_step,
        predicted_state_bytes=predicted_state_bytes(optimizer),
        predicted_peak_bytes=recipe.why.predicted_peak_bytes,
        predicted_step_ms=step_ms,
        free_bytes=free,
        checks=checks,
        has_eval=target.has_eval,
        wall_time_s=None if step_ms is None else step_ms * max(0, steps - start_step) / 1000,
    )
