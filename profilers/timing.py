"""How long an optimizer's step takes on a model's own gradients, the decompositions it does now and then included.

Every method is timed in turn with the same baseline, so that a machine that gets busier or idler meanwhile does not
show up as a difference between them.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from subopt.optimizers import create, get_method, is_refresh_due

from .costs import options_for

# While timing, bases are refreshed every fourth step, so that refreshes and ordinary steps are both seen often.
_SHORT_PERIOD = 4
_LEAST_STEPS = 4
# Where even fewer steps have taken so many seconds, they have to do.
_LONG_S = 3.0


@dataclass(frozen=True)
class StepTime:
    """Time of a method's step, beside that of the baseline's.

    Attributes:
        ordinary_ms: Median of a step without a refresh.
        refresh_ms: Median of a step with one; None for a method that has none.
        period: The method's own number of steps between refreshes, or None.
        baseline_ms: Median of the baseline's steps taken in turn with these.
    """

    ordinary_ms: float
    refresh_ms: float | None
    period: int | None
    baseline_ms: float

    @property
    def step_ms(self) -> float:
        """An average step: ordinary + (refresh - ordinary) / T. Early refreshes are over soon and not counted."""
        if self.refresh_ms is None or self.period is None:
            return self.ordinary_ms
        return self.ordinary_ms + max(0.0, self.refresh_ms - self.ordinary_ms) / self.period

    @property
    def overhead_ms(self) -> float:
        """An average step less one of the baseline under the same load; negative where the method is faster."""
        return self.step_ms - self.baseline_ms


def time_step(
    model: nn.Module,
    method: str,
    options: Mapping[str, Any],
    *,
    baseline: str,
    groups: Sequence[Mapping[str, Any]] | None = None,
    rounds: int = 3,
    budget_s: float = 3.0,
) -> StepTime:
    """Time a method's real optimizer on a model whose gradients are in place; the weights stay as they are.

    A step of the baseline follows each step of the method. What else the machine does then slows both alike, and their
    difference keeps its meaning even where the times themselves do not.

    Args:
        model: The model, with its gradients.
        method: Method id.
        options: Its options.
        baseline: Id of the method to compare with, at its default options; a method is not compared with itself.
        groups: The user's own parameter groups, if any.
        rounds: Refreshes to time after the first, each followed by ordinary steps.
        budget_s: No further pair of steps is begun after so much time, except that ordinary steps are timed at least
            thrice, or once where that alone takes seconds.

    Returns:
        Medians. The first step allocates the state; it stands for a refresh only where time allowed no other.
    """
    record = get_method(method)
    schedule = options_for(record, {"period": _SHORT_PERIOD, "early_refresh": False})
    timed = {**options, **schedule, **options_for(record, {"start_step": 1})}
    optimizer = create(method, model, lr=0.0, groups=_without_lr(groups), **timed)
    others = []
    if method != baseline:
        others.append(create(baseline, model, lr=0.0, groups=_without_lr(groups)))
    devices = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
    runs = [optimizer.step, *(other.step for other in others)]
    fewest = 2 if schedule else 1  # the first step refreshes, where any does
    times_ms, *others_ms = _in_turn(
        runs, 1 + rounds * _SHORT_PERIOD, budget_s, devices, fewest=fewest
    )
    refreshes = [
        bool(schedule) and is_refresh_due(t, _SHORT_PERIOD, False)
        for t in range(1, len(times_ms) + 1)
    ]
    pairs = list(zip(times_ms, refreshes, strict=True))
    ordinary_ms = statistics.median(ms for ms, is_refresh in pairs[1:] or pairs if not is_refresh)
    with_refresh = [ms for ms, is_refresh in pairs[1:] if is_refresh] or times_ms[:1]
    return StepTime(
        ordinary_ms=ordinary_ms,
        refresh_ms=statistics.median(with_refresh) if schedule else None,
        period=record.resolve(options)["period"] if schedule else None,
        baseline_ms=_typical(others_ms[0]) if others_ms else ordinary_ms,
    )


def time_whole_step(
    models: tuple[nn.Module, nn.Module],
    method: str,
    options: Mapping[str, Any],
    forward_backward: Callable[[nn.Module], Tensor],
    *,
    baseline: str,
    groups_of: Callable[[nn.Module], Sequence[Mapping[str, Any]] | None],
    rounds: int = 3,
    budget_s: float = 3.0,
) -> StepTime:
    """Time whole training steps of a method that evaluates the loss itself, against whole ones of the baseline.

        step = whole step with the method - one forward and backward pass,   all three timed in turn

    so that step + forward and backward pass is a training step, as it is for every other method. The step is negative
    where layers that the method replaced make its passes cheaper than the model's own. No rank is cut, no basis frozen.

    Args:
        models: A model for the method, which may change its layers, and one for the baseline; alike.
        method: Method id.
        options: Its options.
        forward_backward: Leaves the gradients of one batch in a model and returns the loss.
        baseline: Id of the method to compare with, at its default options.
        groups_of: The user's own parameter groups of a model, if any.
        rounds: As in `time_step`.
        budget_s: As in `time_step`.
    """
    own, plain = models
    unsettled = {"tau": 0.0, "settle_steps": 0}
    timed = {**options, **options_for(get_method(method), unsettled)}
    optimizer = create(method, own, lr=0.0, groups=_without_lr(groups_of(own)), **timed)
    other = create(baseline, plain, lr=0.0, groups=_without_lr(groups_of(plain)))
    devices = {parameter.device for parameter in own.parameters() if parameter.is_cuda}
    runs: list[Callable[[], object]] = [
        functools.partial(optimizer.step, functools.partial(forward_backward, own)),
        functools.partial(forward_backward, plain),
        other.step,
    ]
    most = 1 + rounds * _SHORT_PERIOD
    whole_ms, passes_ms, others_ms = _in_turn(runs, most, budget_s, devices, fewest=1)
    beyond_ms = [whole - passes for whole, passes in zip(whole_ms, passes_ms, strict=True)]
    return StepTime(
        ordinary_ms=_typical(beyond_ms),
        refresh_ms=None,
        period=None,
        baseline_ms=_typical(others_ms),
    )


def _typical(times_ms: Sequence[float]) -> float:
    """Return the median without the first, which warms up, unless it is the only one."""
    return statistics.median(times_ms[1:] or times_ms)


def _in_turn(
    runs: Sequence[Callable[[], object]],
    most: int,
    budget_s: float,
    devices: set[torch.device],
    *,
    fewest: int,
) -> list[list[float]]:
    """Call one after another, again and again, but where that takes long only the fewest times; return times in ms."""
    times_ms: list[list[float]] = [[] for _ in runs]
    begin_s = time.perf_counter()
    for done in range(most):
        spent_s = time.perf_counter() - begin_s
        if spent_s > budget_s and (done >= _LEAST_STEPS or (done >= fewest and spent_s > _LONG_S)):
            break
        for times, run in zip(times_ms, runs, strict=True):
            times.append(timed_ms(run, devices))
    return times_ms


def time_forward_backward(
    forward_backward: Callable[[nn.Module, Any], object], model: nn.Module, batches: Sequence[Any]
) -> float:
    """Return the median time of a forward and backward pass in ms; the last batch's gradients stay in place.

    The first batch warms up and is not counted, unless it is the only one.
    """
    devices = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
    times_ms = [
        timed_ms(functools.partial(forward_backward, model, batch), devices) for batch in batches
    ]
    return _typical(times_ms)


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
