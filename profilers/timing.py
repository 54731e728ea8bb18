"""How long an optimizer's step takes on a model's own gradients, the decompositions it does now and then included."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from subopt.optimizers import create, get_method, is_refresh_due

from .costs import options_for

# While timing, bases are refreshed every fourth step, so that refreshes and ordinary steps are both seen often.
_SHORT_PERIOD = 4
_LEAST_STEPS = 4


@dataclass(frozen=True)
class StepTime:
    """Time of a method's step.

    Attributes:
        ordinary_ms: Median of a step without a refresh.
        refresh_ms: Median of a step with one; None for a method that has none.
        period: The method's own number of steps between refreshes, or None.
    """

    ordinary_ms: float
    refresh_ms: float | None
    period: int | None

    @property
    def step_ms(self) -> float:
        """An average step: ordinary + (refresh - ordinary) / T. Early refreshes are over soon and not counted."""
        if self.refresh_ms is None or self.period is None:
            return self.ordinary_ms
        return self.ordinary_ms + max(0.0, self.refresh_ms - self.ordinary_ms) / self.period


def time_step(
    model: nn.Module,
    method: str,
    options: Mapping[str, Any],
    *,
    groups: Sequence[Mapping[str, Any]] | None = None,
    rounds: int = 3,
    budget_s: float = 3.0,
) -> StepTime:
    """Time a method's real optimizer on a model whose gradients are in place; the weights stay as they are.

    Args:
        model: The model, with its gradients.
        method: Method id.
        options: Its options.
        groups: The user's own parameter groups, if any.
        rounds: Refreshes to time after the first, each followed by ordinary steps.
        budget_s: No further step is begun after so much time, except that ordinary steps are timed at least thrice.

    Returns:
        Medians. The first step allocates the state; it stands for a refresh only where time allowed no other.
    """
    record = get_method(method)
    schedule = options_for(record, {"period": _SHORT_PERIOD, "early_refresh": False})
    optimizer = create(method, model, lr=0.0, groups=_without_lr(groups), **{**options, **schedule})
    devices = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
    begin_s = time.perf_counter()
    times_ms: list[float] = []
    while len(times_ms) < 1 + rounds * _SHORT_PERIOD:
        used_s = time.perf_counter() - begin_s
        if len(times_ms) >= _LEAST_STEPS and used_s > budget_s:
            break
        times_ms.append(timed_ms(optimizer.step, devices))
    refreshes = [
        bool(schedule) and is_refresh_due(t, _SHORT_PERIOD, False)
        for t in range(1, len(times_ms) + 1)
    ]
    pairs = list(zip(times_ms, refreshes, strict=True))
    ordinary = [ms for ms, is_refresh in pairs[1:] if not is_refresh]
    with_refresh = [ms for ms, is_refresh in pairs[1:] if is_refresh] or times_ms[:1]
    return StepTime(
        ordinary_ms=statistics.median(ordinary),
        refresh_ms=statistics.median(with_refresh) if schedule else None,
        period=record.resolve(options)["period"] if schedule else None,
    )


def time_forward_backward(
    forward_backward: Callable[[nn.Module, Any], None], model: nn.Module, batches: Sequence[Any]
) -> float:
    """Return the median time of a forward and backward pass in ms; the last batch's gradients stay in place.

    The first batch warms up and is not counted, unless it is the only one.
    """
    devices = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
    times_ms = [
        timed_ms(functools.partial(forward_backward, model, batch), devices) for batch in batches
    ]
    return statistics.median(times_ms[1:] or times_ms)


def timed_ms(run: Callable[[], object], devices: set[torch.device]) -> float:
    """Return the time of one call in ms, waiting for the GPUs it uses."""
    for device in devices:
        torch.cuda.synchronize(device)
    begin_s = time.perf_counter()
    run()
    for device in devices:
        torch.cuda.synchronize(device)
    return (time.perf_counter() - begin_s) * 1e3


def _without_lr(
    groups: Sequence[Mapping[str, Any]] | None,
) -> list[dict[str, Any]] | None:
    """Return the user's groups without what would move the weights."""
    if groups is None:
        return None
    return [{**group, "lr": 0.0} for group in groups]
