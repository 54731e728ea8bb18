"""How long, how often and with whom: what fits into the minutes of a race."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from subopt.errors import UsageError
from subopt.profilers.record.race import LeftOut
from subopt.units import format_ms

from .candidates import Candidate
from .step_time import CandidateStepTime, steps_within, time_of_steps_ms
from .trial import PARTS

# Of the minutes; the rest is for what a plan cannot know.
USABLE_SHARE = 0.95

# What a trial of the search costs on average, the first one apart: halving stops most of them at a fifth.
LATER_TRIALS_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class _Level:
    """What a plan offers: steps of the baseline, numbers of trials, the fewest contestants, and repetitions or none."""

    steps: int
    trials: tuple[int, ...]
    contestants: int
    repeats: bool = True


_ALL = 1000

# Wishes first, needs last. Rather fewer contestants than trials too short or too few to tell them apart.
_LEVELS = (
    _Level(300, (9, 6), contestants=_ALL),
    _Level(300, (4,), contestants=6),
    _Level(100, (4,), contestants=4),
    _Level(30, (3,), contestants=2),
    _Level(30, (1,), contestants=2, repeats=False),
)


@dataclass(frozen=True, slots=True)
class Layout:
    """A race that fits its minutes.

    Attributes:
        contestants: Who takes part.
        left_out: Who does not, and why.
        trials: Trials of each one's search.
        seeds: Runs of a finalist, the search's among them.
        horizon_s: Training time of a run.
        finals_s: Real time kept for the repetitions.
    """

    contestants: tuple[Candidate, ...]
    left_out: tuple[LeftOut, ...]
    trials: int
    seeds: int
    horizon_s: float
    finals_s: float


def lay_out(
    candidates: Sequence[Candidate],
    step_times: Mapping[str, CandidateStepTime],
    *,
    minutes: float,
    spent_s: float,
    finalists: int,
    seeds: int,
    is_fixed: bool,
    most_steps: int | None,
) -> Layout:
    """Return the best race that fits: long enough runs first, then contestants, then trials.

    Every trial of the search is counted as one whole run for the first of a method and half a run for each later one,
    every repetition of a finalist as a whole one; to each run come its building and its evaluations.

    Args:
        candidates: Who could take part, the baseline first, then the most promising.
        step_times: Their step times.
        minutes: Real time in all.
        spent_s: Real time that is gone.
        finalists: Methods beside the baseline that repeat their best setting.
        seeds: Runs of a finalist.
        is_fixed: Whether all of them have to take part.
        most_steps: The longest run that makes sense, in steps of the baseline; None: any.

    Raises:
        UsageError: The minutes are too few.
    """
    left_s = 60 * minutes * USABLE_SHARE - spent_s
    for level in _LEVELS:
        few = len(candidates) if is_fixed else min(len(candidates), level.contestants)
        for count in range(len(candidates), few - 1, -1):
            for trials in level.trials:
                chosen = candidates[:count]
                repeats = seeds if level.repeats else 1
                horizon_s = _horizon_s(chosen, step_times, left_s, trials, finalists, repeats)
                if _steps(chosen[0], step_times, horizon_s) < _capped(level.steps, most_steps):
                    continue
                if most_steps is not None:
                    horizon_s = min(
                        horizon_s, _time_of(chosen[0], step_times, max(most_steps, PARTS))
                    )
                able = [e for e in chosen if _steps(e, step_times, horizon_s) >= PARTS]
                if len(able) >= (count if is_fixed else 2):
                    return _layout(
                        candidates, count, step_times, trials, repeats, finalists, horizon_s
                    )
    raise _too_short(
        candidates, step_times, minutes, spent_s, is_fixed=is_fixed, most_steps=most_steps
    )


def _capped(steps: int, most_steps: int | None) -> int:
    return steps if most_steps is None else max(min(steps, most_steps), PARTS)


def _steps(
    candidate: Candidate, step_times: Mapping[str, CandidateStepTime], horizon_s: float
) -> int:
    if horizon_s <= 0:
        return 0
    return steps_within(
        horizon_s, step_times[candidate.method], candidate.method, candidate.options
    )[0]


def _time_of(
    candidate: Candidate, step_times: Mapping[str, CandidateStepTime], steps: int
) -> float:
    """Return the time of so many steps in seconds, and a little more against rounding."""
    time_ms = time_of_steps_ms(
        steps, step_times[candidate.method], candidate.method, candidate.options
    )
    return time_ms * (1 + 1e-6) / 1000


def _horizon_s(
    chosen: Sequence[Candidate],
    step_times: Mapping[str, CandidateStepTime],
    left_s: float,
    trials: int,
    finalists: int,
    seeds: int,
) -> float:
    """Return the length of a run for which everything takes the time left."""
    searching = 1 + (trials - 1) * LATER_TRIALS_SHARE
    own_s = [_overhead_s(step_times[candidate.method]) for candidate in chosen]
    repeats = (min(finalists, len(chosen) - 1) + 1) * (seeds - 1)
    runs = len(chosen) * searching + repeats
    overhead_s = searching * sum(own_s) + repeats * max(own_s)
    return (left_s - overhead_s) / runs


def _overhead_s(step_time: CandidateStepTime) -> float:
    return (step_time.build_ms + PARTS * step_time.eval_ms) / 1000


def _layout(
    candidates: Sequence[Candidate],
    count: int,
    step_times: Mapping[str, CandidateStepTime],
    trials: int,
    seeds: int,
    finalists: int,
    horizon_s: float,
) -> Layout:
    chosen, left_out = [], []
    for candidate in candidates[:count]:
        steps = _steps(candidate, step_times, horizon_s)
        if steps >= PARTS:
            chosen.append(candidate)
            continue
        step_ms = step_times[candidate.method].ordinary_ms
        reason = f"too slow: {steps} steps of {format_ms(step_ms)} in a run of {format_ms(1000 * horizon_s)}"
        left_out.append(LeftOut(method=candidate.method, reason=reason))
    left_out += [
        LeftOut(method=candidate.method, reason="too few minutes for all: ranked below the others")
        for candidate in candidates[count:]
    ]
    slowest_s = max(_overhead_s(step_times[candidate.method]) for candidate in chosen)
    repeats = (min(finalists, len(chosen) - 1) + 1) * (seeds - 1)
    return Layout(
        contestants=tuple(chosen),
        left_out=tuple(left_out),
        trials=trials,
        seeds=seeds,
        horizon_s=horizon_s,
        finals_s=repeats * (horizon_s + slowest_s),
    )


def _too_short(
    candidates: Sequence[Candidate],
    step_times: Mapping[str, CandidateStepTime],
    minutes: float,
    spent_s: float,
    *,
    is_fixed: bool,
    most_steps: int | None,
) -> UsageError:
    """Say how many minutes the shortest race would take: one trial each of the baseline and of the others."""
    level = _LEVELS[-1]
    if is_fixed:
        chosen = list(candidates)
    else:
        quickest = min(candidates[1:], key=lambda candidate: _time_of(candidate, step_times, PARTS))
        chosen = [candidates[0], quickest]
    run_s = _time_of(candidates[0], step_times, _capped(level.steps, most_steps))
    run_s = max(run_s, *(_time_of(candidate, step_times, PARTS) for candidate in chosen))
    needed_s = sum(run_s + _overhead_s(step_times[candidate.method]) for candidate in chosen)
    needed = math.ceil(10 * (needed_s + spent_s) / (60 * USABLE_SHARE)) / 10
    names = " and ".join([", ".join(e.method for e in chosen[:-1]), chosen[-1].method])
    return UsageError(
        f"{minutes:g} minutes are too few for this model",
        f"one trial each of {names} takes at least --minutes {needed:g}; a useful race takes many times that",
    )
