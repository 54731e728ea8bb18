"""How long, how often and with whom: what fits into the minutes of a race."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
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
    timed = [_Timed(candidate, step_times[candidate.method]) for candidate in candidates]
    left_s = 60 * minutes * USABLE_SHARE - spent_s
    for level in _LEVELS:
        few = len(timed) if is_fixed else min(len(timed), level.contestants)
        repeats = seeds if level.repeats else 1
        for count in range(len(timed), few - 1, -1):
            chosen, finals = timed[:count], repetitions(count, finalists, repeats)
            for trials in level.trials:
                horizon_s = _horizon_s(chosen, left_s, trials, finals)
                if chosen[0].steps_in(horizon_s) < _capped(level.steps, most_steps):
                    continue
                if most_steps is not None:
                    horizon_s = min(horizon_s, chosen[0].time_s(max(most_steps, PARTS)))
                able = [one for one in chosen if one.steps_in(horizon_s) >= PARTS]
                if len(able) >= (count if is_fixed else 2):
                    finals = repetitions(len(able), finalists, repeats)
                    return Layout(
                        contestants=tuple(one.candidate for one in able),
                        left_out=tuple(_left_out(timed, count, horizon_s)),
                        trials=trials,
                        seeds=repeats,
                        horizon_s=horizon_s,
                        finals_s=finals * (horizon_s + max(one.overhead_s for one in able)),
                    )
    fewest = timed if is_fixed else [timed[0], min(timed[1:], key=lambda one: one.time_s(PARTS))]
    raise _too_short(fewest, minutes, spent_s, most_steps)


def repetitions(contestants: int, finalists: int, seeds: int) -> int:
    """Return the runs of the finals: the baseline and the finalists beside it, with every seed but the first."""
    return (min(finalists, contestants - 1) + 1) * (seeds - 1)


@dataclass(frozen=True, slots=True)
class _Timed:
    """A candidate and its step times."""

    candidate: Candidate
    step_time: CandidateStepTime

    @property
    def overhead_s(self) -> float:
        """What building and evaluating take in a run."""
        return (self.step_time.build_ms + PARTS * self.step_time.eval_ms) / 1000

    def steps_in(self, horizon_s: float) -> int:
        """Return how many steps fit into a time."""
        method, options = self.candidate.method, self.candidate.options
        return steps_within(horizon_s, self.step_time, method, options)[0]

    def time_s(self, steps: int) -> float:
        """Return the time of so many steps, and a little more against rounding."""
        method, options = self.candidate.method, self.candidate.options
        return time_of_steps_ms(steps, self.step_time, method, options) * (1 + 1e-6) / 1000


def _capped(steps: int, most_steps: int | None) -> int:
    return steps if most_steps is None else max(min(steps, most_steps), PARTS)


def _horizon_s(chosen: Sequence[_Timed], left_s: float, trials: int, finals: int) -> float:
    """Return the length of a run for which everything takes the time left."""
    searching = 1 + (trials - 1) * LATER_TRIALS_SHARE
    own_s = [one.overhead_s for one in chosen]
    overhead_s = searching * sum(own_s) + finals * max(own_s)
    return (left_s - overhead_s) / (len(chosen) * searching + finals)


def _left_out(timed: Sequence[_Timed], count: int, horizon_s: float) -> Iterator[LeftOut]:
    """Yield who is too slow among the first `count`, and all the others."""
    for one in timed[:count]:
        steps = one.steps_in(horizon_s)
        if steps < PARTS:
            step, run = format_ms(one.step_time.ordinary_ms), format_ms(1000 * horizon_s)
            reason = f"too slow: {steps} steps of {step} in a run of {run}"
            yield LeftOut(method=one.candidate.method, reason=reason)
    for one in timed[count:]:
        reason = "too few minutes for all: ranked below the others"
        yield LeftOut(method=one.candidate.method, reason=reason)


def _too_short(
    chosen: Sequence[_Timed], minutes: float, spent_s: float, most_steps: int | None
) -> UsageError:
    """Say how many minutes the shortest race would take: one trial each of the baseline and of the others."""
    run_s = chosen[0].time_s(_capped(_LEVELS[-1].steps, most_steps))
    run_s = max(run_s, *(one.time_s(PARTS) for one in chosen))
    needed_s = sum(run_s + one.overhead_s for one in chosen)
    needed = math.ceil(10 * (needed_s + spent_s) / (60 * USABLE_SHARE)) / 10
    *first, last = (one.candidate.method for one in chosen)
    return UsageError(
        f"{minutes:g} minutes are too few for this model",
        f"one trial each of {', '.join(first)} and {last} takes at least --minutes {needed:g}; "
        "a useful race takes many times that",
    )
