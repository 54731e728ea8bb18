"""How long an optimizer's step takes on a model's own gradients, the decompositions it does now and then included.

Every method's steps are interleaved with those of the same baseline, so that a machine that gets busier or idler
meanwhile does not show up as a difference between them.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from subopt.optimizers import create, get_method

from . import clock
from .interleaved import (
    LONG_S,
    SHORT_PERIOD,
    TELLING_STEPS,
    interleaved_ms,
    ordinary_and_refresh_ms,
    refreshing_every_other_step,
)
from .step_by_shape import ShapeClassSteps

# Seconds that two whole ordinary steps may take however little time is left: what is added up of cached layers is low.
_SHORT_S = 0.5
# A window in which the baseline takes so many times as long as in calm ones was disturbed.
_DISTURBED = 1.25
# Moves weights as good as not at all, and far enough that rounding does not undo it.
_LEAST_LR = 1e-5
# Moves no weight but those that are all but zero, and zeros by less than what is made zero again. At a rate of 0 itself
# BLAS leaves out the product that lifts a step; at 1e-24 it meets denormal numbers, as training does not, and is slow.
_NO_LR = 1e-16
_NO_WEIGHT = 1e-14


@dataclass(frozen=True)
class StepTime:
    """Time of a method's step, and that of the baseline's.

    Attributes:
        ordinary_ms: Median of a step without a refresh.
        refresh_ms: Median of a step in which every layer is refreshed; None for a method that has none.
        period: The method's own number of steps between refreshes, or None.
        baseline_ms: Median of the baseline's steps interleaved with these.
        staggered_ms: The longest step if refreshes were staggered, see `staggered_step_ms`; None without any.
        counted: What would have taken too long with all layers at once, "refreshes" or "steps": it was timed on one
            parameter of each shape class, which counts as often as the model has it.
    """

    ordinary_ms: float
    refresh_ms: float | None
    period: int | None
    baseline_ms: float
    staggered_ms: float | None = None
    counted: Literal["refreshes", "steps"] | None = None

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
    between: Callable[[], object] | None = None,
) -> StepTime:
    """Time a method's real optimizer on a model whose gradients are in place; the weights stay as they are.

    They are stepped along with a rate of 1e-16, which rounding undoes, and what that leaves of zeros is removed. A
    weight below 1e-14 that is not zero becomes zero, and one below 1e-9, or in float64 any, may move by some 1e-16.

    A step of the baseline follows each step of the method. What else the machine does then slows both alike, and their
    difference keeps its meaning even where the times themselves do not.

    First one parameter of each shape class is updated alone. That tells what whole steps would take; where they fit in
    the budget, they are timed. Otherwise a refresh is an ordinary step plus what the classes' refreshes take beyond
    theirs, each as often as the model has it; and where not even two ordinary steps fit, those are added up too.

    Args:
        model: The model, with its gradients.
        method: Method id.
        options: Its options.
        baseline: Id of the method to compare with, at its default options; a method is not compared with itself.
        groups: The user's own parameter groups, if any.
        rounds: Refreshes to time after the first, each after an ordinary step.
        budget_s: Most seconds, except that every class is updated twice, and thrice where that takes no more than 3 s:
            a first refresh may take another time than later ones (SOAP's does).
        between: Called before every whole step, and not timed: passes, which leave the gradients as they were and in
            the processor's caches what training leaves there. Steps one after another find their own state there.

    Returns:
        Medians. The first step allocates the state; it stands for a refresh only where time allowed no other.
    """
    begin_s = time.perf_counter()
    record = get_method(method)
    timed = refreshing_every_other_step(method, options)
    optimizers = [create(method, model, lr=_NO_LR, groups=_with_lr(groups), **timed)]
    if method != baseline:
        optimizers.append(create(baseline, model, lr=_NO_LR, groups=_with_lr(groups)))

    devices, is_refresh = clock.devices_of(model), partial(record.refreshes_in, options=timed)
    steps = ShapeClassSteps(optimizers, is_refresh, devices)
    steps.take(TELLING_STEPS, begin_s + max(budget_s, LONG_S))
    most, end_s = 1 + rounds * SHORT_PERIOD, begin_s + budget_s
    counted: Literal["refreshes", "steps"] | None = None
    left_s = end_s - time.perf_counter()
    if steps.whole_s(range(1, TELLING_STEPS + 1)) <= left_s:
        excesses_ms = steps.excesses_ms()
        steps.forget()
        runs = [optimizer.step for optimizer in optimizers]
        times_ms = interleaved_ms(runs, most, left_s, devices, between=between)
        ordinary_ms, refresh_ms = ordinary_and_refresh_ms(times_ms[0], is_refresh)
        baseline_ms = _typical(times_ms[1]) if len(times_ms) == 2 else ordinary_ms
    else:
        steps.take(2 * most, end_s - left_s / 2)
        excesses_ms = steps.excesses_ms()
        ordinary_ms, baseline_ms, are_whole = _added_up(steps, most, end_s)
        refresh_ms = ordinary_ms + sum(excesses_ms)
        if any(alike.count > 1 for alike in steps.classes):
            counted = "steps" if not are_whole else "refreshes" if excesses_ms else None
    _clear_traces(model)
    if not excesses_ms:
        return StepTime(ordinary_ms, None, None, baseline_ms, counted=counted)
    period = record.resolve(options)["period"]
    staggered_ms = staggered_step_ms(ordinary_ms, refresh_ms, period, excesses_ms)
    return StepTime(ordinary_ms, refresh_ms, period, baseline_ms, staggered_ms, counted)


@torch.no_grad()
def _clear_traces(model: nn.Module) -> None:
    """Make zero again what was zero before steps at `_NO_LR`."""
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.grad is not None:
            parameter.copy_(torch.nn.functional.hardshrink(parameter, _NO_WEIGHT))


def _added_up(steps: ShapeClassSteps, most: int, end_s: float) -> tuple[float, float, bool]:
    """Return an ordinary step of all parameters, one of the baseline's, and whether they were timed as such.

    They are if two fit before the end, and else added up from parameters of each shape class.
    """
    if steps.whole_s([2, 2]) > max(end_s - time.perf_counter(), _SHORT_S):
        return *steps.added_up_ms(), False
    times_ms = steps.ordinary_steps(most, end_s)
    return statistics.median(times_ms[0]), statistics.median(times_ms[-1]), True


def disturbed(taken: Mapping[str, StepTime]) -> list[str]:
    """Return the methods that were timed while the machine was busy with something else.

    They are known by the baseline, interleaved with each: there it took a quarter longer than it did in the lower
    quartile of them all.

    Args:
        taken: By method, what `time_step` found; in it, steps that were counted up tell nothing of the kind.
    """
    baselines_ms = {name: time.baseline_ms for name, time in taken.items() if not time.counted}
    if not baselines_ms:
        return []
    calm_ms = sorted(baselines_ms.values())[len(baselines_ms) // 4]
    return [name for name, ms in baselines_ms.items() if ms > _DISTURBED * calm_ms]


def staggered_step_ms(
    ordinary_ms: float, refresh_ms: float, period: int, excesses_ms: Sequence[float]
) -> float:
    """Estimate the longest step if refreshes were staggered, and not all of them in one step of the period.

        staggered = ordinary + (refresh - ordinary) * share of the ceil(L / T) layers with the longest refreshes

    L layers within T steps: one layer per step, or several where T is less than L.

    Args:
        ordinary_ms: A step without a refresh.
        refresh_ms: A step that refreshes all layers.
        period: T.
        excesses_ms: By how much each of the L layers' refreshes outlasts an ordinary step, as measured by itself; only
            their ratios count. Equal shares where none outlasts one.
    """
    each_ms = sorted(excesses_ms, reverse=True)
    at_once, whole_ms = math.ceil(len(each_ms) / period), sum(each_ms)
    share = sum(each_ms[:at_once]) / whole_ms if whole_ms > 0 else at_once / len(each_ms)
    return ordinary_ms + share * max(0.0, refresh_ms - ordinary_ms)


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

        step = whole step with the method - one forward and backward pass,   all three interleaved

    so that step + forward and backward pass is a training step, as it is for every other method. The step is negative
    where layers that the method replaced make its passes cheaper than the model's own. The rank stays fixed and the
    basis keeps moving. The method's weights move, by very little: with a rate of 0 its bases would be completed by
    nothing new, and what decomposes them would be done sooner than in training.

    Of the two models, which are alike, the first is the method's, which may change its layers and weights.
    `forward_backward` leaves the gradients of one batch in a model and returns the loss; the rest is as in `time_step`.
    """
    own, plain = models
    unsettled = {"tau": 0.0, "settle_steps": 0}
    timed = {**options, **get_method(method).among(unsettled)}
    optimizer = create(
        method, own, lr=_LEAST_LR, groups=_with_lr(groups_of(own), _LEAST_LR), **timed
    )
    other = create(baseline, plain, lr=_NO_LR, groups=_with_lr(groups_of(plain)))
    runs: list[Callable[[], object]] = [
        partial(optimizer.step, partial(forward_backward, own)),
        partial(forward_backward, plain),
        other.step,
    ]
    most = 1 + rounds * SHORT_PERIOD
    whole_ms, passes_ms, others_ms = interleaved_ms(
        runs, most, budget_s, clock.devices_of(own), fewest=1
    )
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


def time_forward_backward(
    forward_backward: Callable[[nn.Module, Any], object],
    model: nn.Module,
    batches: Sequence[Any],
    on_batch: Callable[[int], None] = lambda done: None,
) -> float:
    """Return the median time of a forward and backward pass in ms; the last batch's gradients stay in place.

    The first batch warms up and is not counted, unless it is the only one. `on_batch` is called before each.
    """
    devices = clock.devices_of(model)
    times_ms: list[float] = []
    for done, batch in enumerate(batches):
        on_batch(done)
        times_ms.append(clock.timed_ms(partial(forward_backward, model, batch), devices))
    return _typical(times_ms)


def _with_lr(
    groups: Sequence[Mapping[str, Any]] | None, lr: float = _NO_LR
) -> list[dict[str, Any]] | None:
    """Return the user's groups with this rate for all, by default with what moves no weight."""
    if groups is None:
        return None
    return [{**group, "lr": lr} for group in groups]
