"""How steps are timed: interleaved with those they are compared with, and refreshing as often as not.

What else the machine does while times are taken slows all of them alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from subopt.optimizers import get_method

from . import clock

SHORT_PERIOD = 2
# Steps that show all there is: the first, which allocates, an ordinary one, and a later refresh.
TELLING_STEPS = 1 + SHORT_PERIOD
# Where even fewer rounds have taken so many seconds, they have to do.
LONG_S = 3.0
_LEAST_ROUNDS = 4


def refreshing_every_other_step(method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with which steps 1, 3, 5, ... refresh every basis there is, and the others none."""
    record = get_method(method)
    moves_before = {**record.defaults, **options}.get("use_current_gradient", True)
    schedule = {
        "period": SHORT_PERIOD,
        "early_refresh": False,
        "stagger": False,
        "start_step": 1,
        "skip_first": not moves_before,  # see `Method.refreshes_by`
    }
    return {**options, **record.among(schedule)}


def interleaved_ms(
    runs: Sequence[Callable[[], object]],
    most: int,
    budget_s: float,
    devices: Iterable[torch.device],
    *,
    fewest: int = TELLING_STEPS,
    between: Callable[[], object] | None = None,
) -> list[list[float]]:
    """Call each of these once a round, and return their times in ms.

    Args:
        runs: What to time.
        most: Rounds.
        budget_s: Seconds after which no further round begins; there are four in any case, unless they are long.
        devices: Devices to wait for.
        fewest: Rounds in any case where they are long.
        between: Called before every run, and not timed.
    """
    times_ms: list[list[float]] = [[] for _ in runs]
    begin_s = time.perf_counter()
    for done in range(most):
        spent_s = time.perf_counter() - begin_s
        enough = done >= _LEAST_ROUNDS or (done >= fewest and spent_s > LONG_S)
        if enough and spent_s > budget_s:
            break
        for times, run in zip(times_ms, runs, strict=True):
            if between is not None:
                between()
            times.append(clock.timed_ms(run, devices))
    return times_ms


def ordinary_and_refresh_ms(
    times_ms: Sequence[float], is_refresh: Callable[[int], bool]
) -> tuple[float, float]:
    """Return the medians of steps without and with a refresh, the first step left out where there are others.

    It allocates. Without a refresh later on it stands for one.
    """
    ordinary = [ms for t, ms in enumerate(times_ms, 1) if t > 1 and not is_refresh(t)]
    refresh = [ms for t, ms in enumerate(times_ms, 1) if t > 1 and is_refresh(t)]
    return statistics.median(ordinary or times_ms), statistics.median(refresh or times_ms[:1])
