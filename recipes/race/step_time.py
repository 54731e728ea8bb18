"""How long a step of each contestant takes, measured interleaved before the race, and how many fit into its horizon."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated

from pydantic import Field

from subopt.errors import DoesNotFitError, OptionError, PreflightError, UsageError
from subopt.optimizers import get_method
from subopt.profilers.device import release_memory
from subopt.profilers.record.base import Bytes, Milliseconds, Record
from subopt.profilers.record.race import LeftOut, OptionValue
from subopt.profilers.timing import clock
from subopt.profilers.timing.interleaved import (
    interleaved_ms,
    ordinary_and_refresh_ms,
    refreshing_every_other_step,
)

from ..training.stepper import Stepper
from ..training.trainable import make_trainable
from .candidates import Candidate, Setting
from .setup import RaceSetup

# Everyone is timed this often, a few steps at a time: what else the machine does then is spread over all.
ROUNDS = 3
_MOST_STEPS = 40  # of a round
_ROUND_S = 0.5

# What keeps one method out of a race, and not everyone.
CANNOT_RUN = (DoesNotFitError, OptionError, PreflightError, UsageError)

# The weights stay what they were.
_NO_LR = 1e-12


class CandidateStepTime(Record):
    """How long a contestant's steps take.

    Attributes:
        ordinary_ms: Median of whole steps without a refresh: data, forward, backward, clipping and update.
        refresh_ms: Median of those with one; None for a method that has none.
        build_ms: Median time until the first step is done.
        eval_ms: Time of one held-out evaluation; 0 without held-out data.
        state_bytes: Optimizer state.
    """

    ordinary_ms: Annotated[float, Field(ge=1e-6, le=1e18)]
    refresh_ms: Milliseconds | None = None
    build_ms: Milliseconds = 0.0
    eval_ms: Milliseconds = 0.0
    state_bytes: Bytes = 0


def steps_within(
    horizon_s: float, step_time: CandidateStepTime, method: str, options: Mapping[str, OptionValue]
) -> tuple[int, float]:
    """Return how many steps fit into a time, and their mean time in ms, refreshes where they really come.

        sum over the steps of (refresh_ms where one is due, else ordinary_ms) <= horizon

    A first refresh belongs to building and is not counted. The time is measured once for a method: of its options the
    period changes the steps that fit, and a later `start_step` does not. Until then a preconditioned method takes the
    shorter steps of its graft, so such a trial gets too few steps rather than too many.
    """
    horizon_ms = 1000 * horizon_s
    low, high = 0, int(horizon_ms / step_time.ordinary_ms)
    while low < high:  # the time grows with the steps
        middle = (low + high + 1) // 2
        fits = time_of_steps_ms(middle, step_time, method, options) <= horizon_ms
        low, high = (middle, high) if fits else (low, middle - 1)
    if low == 0:
        return 0, step_time.ordinary_ms
    return low, time_of_steps_ms(low, step_time, method, options) / low


def time_of_steps_ms(
    steps: int, step_time: CandidateStepTime, method: str, options: Mapping[str, OptionValue]
) -> float:
    """Return the time of so many steps in ms, refreshes where they really come, the first one apart."""
    extra_ms = max(0.0, (step_time.refresh_ms or 0.0) - step_time.ordinary_ms)
    record = get_method(method)
    refreshes = max(0, record.refreshes_by(steps, options) - record.refreshes_by(1, options))
    return steps * step_time.ordinary_ms + extra_ms * refreshes


def measure_step_times(
    setup: RaceSetup,
    candidates: Sequence[Candidate],
    *,
    budget_s: float,
    is_over: Callable[[], bool],
    on_progress: Callable[[str, int, int], None],
) -> tuple[dict[str, CandidateStepTime], list[LeftOut]]:
    """Time everyone's steps, interleaved, and find out who cannot train this model at all.

    Args:
        setup: What all trials share.
        candidates: The contestants, the baseline first.
        budget_s: Seconds after which no further round begins.
        is_over: Whether the user wants to stop.
        on_progress: Called with a method, how many timings are done, and how many there are.

    Returns:
        The step times by method, and those that have none with the reason.

    Raises:
        KeyboardInterrupt: The user wanted to stop.
        SuboptError: The baseline cannot train the model.
    """
    begin_s = time.perf_counter()
    found: dict[str, list[CandidateStepTime]] = {candidate.method: [] for candidate in candidates}
    left_out: dict[str, LeftOut] = {}
    for turn in range(ROUNDS):
        if turn and time.perf_counter() - begin_s >= budget_s:
            break
        for index, candidate in enumerate(candidates):
            if is_over():
                raise KeyboardInterrupt
            on_progress(candidate.method, turn * len(candidates) + index, ROUNDS * len(candidates))
            if candidate.method in left_out:
                continue
            try:
                found[candidate.method].append(_round(setup, candidate, evaluate=turn == 0))
            except CANNOT_RUN as error:
                if index == 0:
                    raise
                left_out[candidate.method] = LeftOut(method=candidate.method, reason=error.message)
            release_memory()
    step_times = {name: _typical(rounds) for name, rounds in found.items() if name not in left_out}
    return step_times, list(left_out.values())


def _round(setup: RaceSetup, candidate: Candidate, *, evaluate: bool) -> CandidateStepTime:
    method = get_method(candidate.method)
    options = refreshing_every_other_step(method.name, candidate.options)
    timed = candidate.model_copy(update={"options": options, "steps": _MOST_STEPS})
    fallback_lr = None if candidate.fallback_lr is None else _NO_LR
    setting = Setting(method=method.name, lr=_NO_LR, fallback_lr=fallback_lr)
    recipe = setup.recipe_of(timed, setting)
    begin_s = time.perf_counter()
    trainable = make_trainable(recipe, setup.target, setup.device)
    stepper, numbers = Stepper(trainable, trainable.begin()), itertools.count(1)
    made_ms = 1000 * (time.perf_counter() - begin_s)
    runs, devices = [lambda: stepper.take(next(numbers))], clock.devices_of(trainable.model)
    (times_ms,) = interleaved_ms(runs, _MOST_STEPS, _ROUND_S, devices)
    is_refresh = partial(method.refreshes_in, options=options)
    ordinary_ms, refresh_ms = ordinary_and_refresh_ms(times_ms, is_refresh)
    eval_ms = 0.0
    if evaluate and setup.target.data.has_eval:
        eval_ms = clock.timed_ms(lambda: trainable.evaluate(recipe.seed), devices)
    return CandidateStepTime(
        ordinary_ms=ordinary_ms,
        refresh_ms=refresh_ms if is_refresh(1) else None,
        build_ms=made_ms + times_ms[0],
        eval_ms=eval_ms,
        state_bytes=trainable.optimizer.planned_state_bytes(),
    )


def _typical(rounds: Sequence[CandidateStepTime]) -> CandidateStepTime:
    """Return the medians of the times that every round has."""
    times = [name for name in ("ordinary_ms", "refresh_ms", "build_ms") if getattr(rounds[0], name)]
    medians = {name: statistics.median(getattr(one, name) for one in rounds) for name in times}
    return rounds[0].model_copy(update=medians)
