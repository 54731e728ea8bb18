"""From the trials of a race to what may be said of its methods: means over seeds, paired differences, no luck sold."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from subopt.profilers.record.race import Contestant, Trial

from .entrants import Entrant
from .search import best_of
from .step_time import Pace, steps_within

Verdict: TypeAlias = Literal["better", "worse", "inside the spread", "one seed only", "diverged"]


@dataclass(frozen=True, slots=True)
class Standing:
    """How a method stands after the search: its best setting among the trials that everyone had.

    Attributes:
        entrant: The method.
        trials: Those trials.
        best: The best of them; None where none was run to its end.
    """

    entrant: Entrant
    trials: tuple[Trial, ...]
    best: Trial | None


def standings(entrants: Sequence[Entrant], trials: Iterable[Trial]) -> list[Standing]:
    """Return how everyone stands who had a trial, the best loss first; those without one to the end come last.

    Where the search was cut short, only as many trials of each method count as the method with the fewest had.
    """
    by_method: dict[str, list[Trial]] = {entrant.method: [] for entrant in entrants}
    for trial in trials:
        if trial.role == "search":
            by_method[trial.method].append(trial)
    common = min((len(own) for own in by_method.values() if own), default=0)
    found = []
    for entrant in entrants:
        own = by_method[entrant.method][:common]
        if own:
            found.append(Standing(entrant, tuple(own), best_of(own)))
    return sorted(found, key=_loss)


def _loss(standing: Standing) -> float:
    best = standing.best
    return math.inf if best is None or best.loss is None else best.loss


def finalists_of(found: Sequence[Standing], baseline: str, most: int) -> list[Standing]:
    """Return the best methods beside the baseline, at most so many, and the baseline before them."""
    able = [standing for standing in found if standing.best is not None]
    base = [standing for standing in able if standing.entrant.method == baseline]
    others = [standing for standing in able if standing.entrant.method != baseline]
    return [*base, *others[:most]]


def contestants_of(
    found: Sequence[Standing],
    trials: Iterable[Trial],
    *,
    baseline: str,
    seeds: Sequence[int],
    paces: Mapping[str, Pace],
    horizon_s: float,
) -> list[Contestant]:
    """Return what the race says about each method, the best mean loss first.

    Args:
        found: How the methods stand after the search.
        trials: All trials.
        baseline: The method that the others are compared with.
        seeds: The race's seeds, the search's first.
        paces: The methods' paces.
        horizon_s: Training time of a run.
    """
    finals = [trial for trial in trials if trial.role == "final"]
    losses = {standing.entrant.method: _losses(standing, finals, seeds) for standing in found}
    base = losses.get(baseline, ([], False))[0]
    contestants = [
        _contestant(standing, *losses[standing.entrant.method], base, baseline, paces, horizon_s)
        for standing in found
    ]
    return sorted(contestants, key=_order)


def _order(contestant: Contestant) -> tuple[bool, float]:
    diverged = contestant.verdict == "diverged" or not contestant.losses
    return diverged, statistics.fmean(contestant.losses) if contestant.losses else math.inf


def _losses(
    standing: Standing, finals: Sequence[Trial], seeds: Sequence[int]
) -> tuple[list[float], bool]:
    """Return a method's losses in the order of the seeds, and whether the runs ended in one that diverged."""
    best = standing.best
    if best is None or best.loss is None:
        return [], True
    losses = [best.loss]
    for seed in seeds[1:]:
        again = next((trial for trial in finals if _repeats(trial, best, seed)), None)
        if again is None:
            break
        if again.loss is None:
            return losses, True
        losses.append(again.loss)
    return losses, False


def _repeats(trial: Trial, best: Trial, seed: int) -> bool:
    setting = (trial.method, trial.lr, trial.options, trial.seed)
    return setting == (best.method, best.lr, best.options, seed)


def _contestant(
    standing: Standing,
    losses: list[float],
    diverged: bool,
    base: Sequence[float],
    baseline: str,
    paces: Mapping[str, Pace],
    horizon_s: float,
) -> Contestant:
    entrant, best = standing.entrant, standing.best
    options = entrant.options if best is None else best.options
    pace = paces[entrant.method]
    _, step_ms = steps_within(horizon_s, pace, entrant.method, options)
    is_baseline = entrant.method == baseline
    differences = (
        [] if is_baseline else [own - other for own, other in zip(losses, base, strict=False)]
    )
    return Contestant(
        method=entrant.method,
        options=options,
        lr=entrant.start_lr if best is None else best.lr,
        step_ms=step_ms,
        state_bytes=pace.state_bytes,
        trials=len(standing.trials),
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
