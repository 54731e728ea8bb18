"""The time of a step of each method beside AdamW's, so that every run of a task takes the same time."""

import itertools
import statistics
from collections.abc import Iterable
from functools import partial

from subopt.optimizers import get_method
from subopt.profilers.target.loaded import LoadedTarget
from subopt.profilers.timing.interleaved import (
    interleaved_ms,
    ordinary_and_refresh_ms,
    refreshing_every_other_step,
)
from subopt.recipes.training.stepper import Stepper
from subopt.recipes.training.trainable import make_trainable

from .methods import BASELINE
from .recipes import CPU, recipe_of
from .task_list import Task

MOST_ROUNDS, ROUNDS_S = 30, 8.0
NO_LR = 1e-12  # the weights stay what they were


def step_time_ratios(task: Task, target: LoadedTarget, methods: Iterable[str]) -> dict[str, float]:
    """Return the mean time of a step by method, AdamW's being 1: all in turn, in one process, refreshes by their share.

    A step is all of it: batch, forward, backward, clipping, update.
    """
    steppers = {name: _stepper(task, target, name) for name in methods}
    runs = [partial(_next_step, stepper, itertools.count(1)) for stepper in steppers.values()]
    times = interleaved_ms(runs, MOST_ROUNDS, ROUNDS_S, [CPU])
    mean_ms = {
        name: _mean_ms(name, found, task.steps) for name, found in zip(steppers, times, strict=True)
    }
    return {name: round(ms / mean_ms[BASELINE], 3) for name, ms in mean_ms.items()}


def _stepper(task: Task, target: LoadedTarget, method: str) -> Stepper:
    options = refreshing_every_other_step(method, {})
    recipe = recipe_of(task, method, NO_LR, steps=task.steps, options=options)
    trainable = make_trainable(recipe, target, CPU)
    return Stepper(trainable, trainable.begin())


def _next_step(stepper: Stepper, numbers: "itertools.count[int]") -> None:
    stepper.take(next(numbers))


def _mean_ms(method: str, times_ms: list[float], steps: int) -> float:
    record = get_method(method)
    options = refreshing_every_other_step(method, {})
    is_refresh = partial(record.refreshes_in, options=options)
    ordinary, refresh = ordinary_and_refresh_ms(times_ms, is_refresh)
    share = record.refreshes_by(steps) / steps
    return (
        ordinary + share * max(refresh - ordinary, 0.0)
        if share
        else statistics.median(times_ms[1:])
    )


def steps_of(task: Task, ratio: float) -> int:
    """Return how many steps fit into the time of the task's AdamW run."""
    return max(round(task.steps / ratio), 2)
