"""How long a step of each contestant takes, measured in turn before the race, and how many fit into its horizon."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

from pydantic import Field

from subopt.errors import DoesNotFitError, OptionError, PreflightError
from subopt.optimizers import get_method, is_refresh_due
from subopt.profilers.record.base import Bytes, Milliseconds, Record
from subopt.profilers.record.race import LeftOut, OptionValue
from subopt.profilers.timing import clock

from ..training.stepper import Stepper
from ..training.trainable import make_trainable
from .candidates import Candidate
from .trial import RaceSetup, held_out, release

# While paces are measured bases are refreshed every other step, so that both kinds of step are seen equally often.
_SHORT_PERIOD = 2
_SCHEDULE = {"period": _SHORT_PERIOD, "early_refresh": False, "start_step": 1, "skip_first": False}

# Everyone is timed this often, a few steps at a time: what else the machine does then is spread over all.
ROUNDS = 3
_LEAST_STEPS = 4  # of a round after the first step, which allocates
_MOST_STEPS = 40
_ROUND_S = 0.5  # and no more steps than this takes

# The weights stay what they were.
_NO_LR = 1e-12


class Pace(Record):
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
    horizon_s: float, pace: Pace, method: str, options: Mapping[str, OptionValue]
) -> tuple[int, float]:
    """Return how many steps fit into a time, and their mean time in ms, refreshes where they really come.

        sum over the steps of (refresh_ms where one is due, else ordinary_ms) <= horizon

    A first refresh belongs to building and is not counted. A pace is measured once for a method: of its options the
    period changes the steps that fit, and a later `start_step` does not. Until then a preconditioned method takes the
    shorter steps of its graft, so such a trial gets too few steps rather than too many.

    Args:
        horizon_s: The time.
        pace: The contestant's pace.
        method: Method id.
        options: The options of the trial, which decide how often it refreshes.
    """
    horizon_ms = 1000 * horizon_s
    low, high = 0, int(horizon_ms / pace.ordinary_ms)
    while low < high:  # the time grows with the steps
        middle = (low + high + 1) // 2
        fits = time_of_steps_ms(middle, pace, method, options) <= horizon_ms
        low, high = (middle, high) if fits else (low, middle - 1)
    if low == 0:
        return 0, pace.ordinary_ms
    return low, time_of_steps_ms(low, pace, method, options) / low


def time_of_steps_ms(
    steps: int, pace: Pace, method: str, options: Mapping[str, OptionValue]
) -> float:
    """Return the time of so many steps in ms, refreshes where they really come, the first one apart."""
    extra_ms = 0.0 if pace.refresh_ms is None else max(0.0, pace.refresh_ms - pace.ordinary_ms)
    refreshes = _refreshes(steps, get_method(method).resolve(options)) if extra_ms else 0
    return steps * pace.ordinary_ms + extra_ms * refreshes


def _refreshes(steps: int, options: Mapping[str, Any]) -> int:
    """Return in how many of the steps 2, 3, ..., `steps` `is_refresh_due` holds."""
    if steps < 2:
        return 0
    period: int = options["period"]
    is_early = options.get("early_refresh", False) and period > 1
    early = min(steps, period - 1).bit_length() - 1 if is_early else 0
    return (steps - 1) // period + early


def measure_paces(
    setup: RaceSetup,
    candidates: Sequence[Candidate],
    *,
    budget_s: float,
    is_over: Callable[[], bool],
    on_progress: Callable[[str, int, int], None],
) -> tuple[dict[str, Pace], list[LeftOut]]:
    """Time everyone's steps in turn, and find out who cannot train this model at all.

    Args:
        setup: What all trials share.
        candidates: The contestants, the baseline first.
        budget_s: Seconds after which no further round begins.
        is_over: Whether the user wants to stop.
        on_progress: Called with a method, how many timings are done, and how many there are.

    Returns:
        The paces by method, and those that have none with the reason.

    Raises:
        KeyboardInterrupt: The user wanted to stop.
        SuboptError: The baseline cannot train the model.
    """
    begin_s = time.perf_counter()
    found: dict[str, list[_Timing]] = {candidate.method: [] for candidate in candidates}
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
                found[candidate.method].append(_timing(setup, candidate, evaluate=turn == 0))
            except (DoesNotFitError, OptionError, PreflightError) as error:
                if index == 0:
                    raise
                left_out[candidate.method] = LeftOut(method=candidate.method, reason=error.message)
            release(setup.device)
    paces = {name: _pace(timings) for name, timings in found.items() if name not in left_out}
    return paces, list(left_out.values())


class _Timing:
    """What one round found out about one contestant."""

    def __init__(self) -> None:
        self.build_ms = self.eval_ms = 0.0
        self.state_bytes = 0
        self.ordinary_ms: list[float] = []
        self.refresh_ms: list[float] = []


def _timing(setup: RaceSetup, candidate: Candidate, *, evaluate: bool) -> _Timing:
    method = get_method(candidate.method)
    schedule = method.among(_SCHEDULE) if "refreshes" in method.capabilities else {}
    recipe = setup.recipe_of(
        method.name,
        {**candidate.options, **schedule},
        _NO_LR,
        steps=1 + _MOST_STEPS,
        seed=setup.recipe.seed,
        fallback_lr=_NO_LR,
    )
    timing = _Timing()
    begin_s = time.perf_counter()
    trainable = make_trainable(recipe, setup.target, setup.device)
    stepper = Stepper(trainable, trainable.begin())
    gpus = clock.gpus_of(trainable.model)
    stepper.take(1)
    timing.build_ms = 1000 * (time.perf_counter() - begin_s)
    timing.state_bytes = trainable.optimizer.planned_state_bytes()
    for step in _steps_in_time():
        took_ms = clock.timed_ms(partial(stepper.take, step), gpus)
        is_refresh = bool(schedule) and is_refresh_due(step, _SHORT_PERIOD, False)
        (timing.refresh_ms if is_refresh else timing.ordinary_ms).append(took_ms)
    if evaluate and setup.target.has_eval:
        timing.eval_ms = clock.timed_ms(lambda: held_out(trainable, recipe.seed), gpus)
    return timing


def _steps_in_time() -> Iterator[int]:
    begin_s = time.perf_counter()
    for number in range(_MOST_STEPS):
        if number >= _LEAST_STEPS and time.perf_counter() - begin_s > _ROUND_S:
            return
        yield 2 + number


def _pace(timings: Sequence[_Timing]) -> Pace:
    def all_of(name: str) -> list[Any]:
        return [ms for timing in timings for ms in getattr(timing, name)]

    refreshes = all_of("refresh_ms")
    return Pace(
        ordinary_ms=statistics.median(all_of("ordinary_ms")),
        refresh_ms=statistics.median(refreshes) if refreshes else None,
        build_ms=statistics.median(timing.build_ms for timing in timings),
        eval_ms=timings[0].eval_ms,
        state_bytes=timings[0].state_bytes,
    )
