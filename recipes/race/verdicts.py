"""From the trials of a race to what may be said of its methods: means over seeds, paired differences, no luck sold."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from subopt.profilers.record.race import Contestant, Trial

from .candidates import Candidate
from .search import best_of
from .step_time import CandidateStepTime, steps_within

Verdict: TypeAlias = Literal["better", "worse", "inside the spread", "one seed only", "diverged"]


@dataclass(frozen=True, slots=True)
class MethodResult:
    """How a method stands after the search: the `best` of its trials, as many as everyone had; None if none ended."""

    candidate: Candidate
    trials: tuple[Trial, ...]
    best: Trial | None


def method_results(candidates: Sequence[Candidate], trials: Iterable[Trial]) -> list[MethodResult]:
    """Return how everyone stands who had a trial, the best loss first; those without one to the end come last.

    Where the search was cut short, only as many trials of each method count as the method with the fewest had.
    """
    by_method: dict[str, list[Trial]] = {candidate.method: [] for candidate in candidates}
    for trial in trials:
        if trial.role == "search":
            by_method[trial.method].append(trial)
    common = min((len(own) for own in by_method.values() if own), default=0)
    found = []
    for candidate in candidates:
        own = by_method[candidate.method][:common]
        if own:
            found.append(MethodResult(candidate, tuple(own), best_of(own)))
    return sorted(found, key=_loss)


def _loss(result: MethodResult) -> float:
    best = result.best
    return math.inf if best is None or best.loss is None else best.loss


def finalists_of(found: Sequence[MethodResult], baseline: str, most: int) -> list[MethodResult]:
    """Return the best methods beside the baseline, at most so many, and the baseline before them."""
    able = [result for result in found if result.best is not None]
    base = [result for result in able if result.candidate.method == baseline]
    others = [result for result in able if result.candidate.method != baseline]
    return [*base, *others[:most]]


def contestants_of(
    found: Sequence[MethodResult],
    trials: Sequence[Trial],
    *,
    baseline: str,
    seeds: Sequence[int],
    step_times: Mapping[str, CandidateStepTime],
    horizon_s: float,
) -> list[Contestant]:
    """Return what the race says about each method, the best mean loss first.

    `trials` are all there were, `seeds` begin with the search's, and `horizon_s` is the training time of a run.
    """
    losses = {result.candidate.method: _losses(result, trials, seeds) for result in found}
    base = losses.get(baseline, ([], False))[0]
    contestants = [
        _contestant(result, *losses[result.candidate.method], base, baseline, step_times, horizon_s)
        for result in found
    ]
    return sorted(contestants, key=_order)


def _order(contestant: Contestant) -> tuple[bool, float]:
    diverged = contestant.verdict == "diverged" or not contestant.losses
    return diverged, statistics.fmean(contestant.losses) if contestant.losses else math.inf


def _losses(
    result: MethodResult, trials: Sequence[Trial], seeds: Sequence[int]
) -> tuple[list[float], bool]:
    """Return a method's losses in the order of the seeds, and whether the runs ended in one that diverged."""
    best = result.best
    if best is None or best.loss is None:
        return [], True
    losses = [best.loss]
    for seed in seeds[1:]:
        again = next((trial for trial in trials if repeats(trial, best, seed)), None)
        if again is None:
            break
        if again.loss is None:
            return losses, True
        losses.append(again.loss)
    return losses, False


def repeats(trial: Trial, best: Trial, seed: int) -> bool:
    """Return whether a trial is the run of the best setting with another seed, in the finals."""
    setting = (trial.method, trial.lr, trial.options, trial.seed)
    return trial.role == "final" and setting == (best.method, best.lr, best.options, seed)


def _contestant(
    result: MethodResult,
    losses: list[float],
    diverged: bool,
    base: Sequence[float],
    baseline: str,
    step_times: Mapping[str, CandidateStepTime],
    horizon_s: float,
) -> Contestant:
    candidate, best = result.candidate, result.best
    options = candidate.options if best is None else best.options
    step_time = step_times[candidate.method]
    _, step_ms = steps_within(horizon_s, step_time, candidate.method, options)
    is_baseline = candidate.method == baseline
    differences = (
        [] if is_baseline else [own - other for own, other in zip(losses, base, strict=False)]
    )
    return Contestant(
        method=candidate.method,
        options=options,
        lr=candidate.start_lr if best is None else best.lr,
        step_ms=step_ms,
        state_bytes=step_time.state_bytes,
        trials=len(result.trials),
        steps=0 if best is None else best.steps,
        tokens=0 if best is None else best.tokens,
        losses=losses,
        difference=statistics.fmean(differences) if differences else None,
        difference_spread=max(differences) - min(differences) if differences else None,
        verdict="baseline" if is_baseline else verdict_of(differences, diverged=diverged),
    )


def verdict_of(differences: Sequence[float], *, diverged: bool) -> Verdict:
    """Return what paired differences of loss to the baseline allow to say.

    With d the differences over common seeds: better where mean(d) < -(max(d) - min(d)), worse where
    mean(d) > max(d) - min(d), and else inside the spread. One seed says neither.

    Args:
        differences: Loss minus the baseline's, seed by seed.
        diverged: Whether a run of the chosen setting diverged, or all of the search did.
    """
    if diverged:
        return "diverged"
    if len(differences) < 2:
        return "one seed only"
    mean, spread = statistics.fmean(differences), max(differences) - min(differences)
    if abs(mean) <= spread:
        return "inside the spread"
    return "better" if mean < 0 else "worse"
