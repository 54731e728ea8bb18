"""What may be said of a race of earlier versions: short runs trained to their end, the best again with other seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..text import plural
from ..units import format_ms

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Contestant, CurvePoint, Race, Trial


def mean_loss(contestant: Contestant) -> float | None:
    """Return the mean over seeds of a method's final loss."""
    return statistics.fmean(contestant.losses) if contestant.losses else None


def loss_spread(contestant: Contestant) -> float | None:
    """Return the largest minus the smallest loss over seeds; None for one seed."""
    losses = contestant.losses
    return max(losses) - min(losses) if len(losses) > 1 else None


def counted_runs(race: Race, contestant: Contestant) -> list[Trial]:
    """Return a method's whole runs at its best setting, one for each seed."""
    setting = (contestant.method, contestant.lr, contestant.options)
    found = {
        trial.seed: trial
        for trial in race.trials
        if (trial.method, trial.lr, trial.options) == setting and trial.status == "done"
    }
    return [found[seed] for seed in race.seeds if seed in found]


def mean_curve(runs: Sequence[Trial]) -> list[tuple[CurvePoint, float]]:
    """Return the points of a method's curve with the mean loss over its seeds; their steps are the same."""
    points = zip(*(run.curve for run in runs), strict=False)
    return [(at[0], statistics.fmean(point.loss for point in at)) for at in points]


def seeded_summary(race: Race) -> list[str]:
    """Return who won, by how much, and what to doubt."""
    found = [*_result(race), _conditions(race)]
    if sum(len(item.losses) > 1 for item in race.contestants) > 1:
        found.append(
            f"{plural(len(race.seeds), 'seed')} are few, each setting is the best of a search at the first of them, "
            "and runs this short favour what is quick at the start: a full run may order them differently."
        )
    if race.interrupted:
        found.append("The race ended before its plan was done: this is what was complete.")
    return found


def _result(race: Race) -> list[str]:
    better = [item for item in race.contestants if item.verdict == "better"]
    if better:
        best = better[0]
        difference, spread = best.difference or 0.0, best.difference_spread or 0.0
        side = "below" if difference < 0 else "above"
        found = [
            f"{best.method} had the lowest loss of those that beat AdamW: {abs(difference):.2g} {side} AdamW's "
            f"(spread {spread:.2g}), over {plural(len(best.losses), 'seed')}."
        ]
        others = [item.method for item in better[1:]]
        return found + ([f"Better than AdamW too: {', '.join(others)}."] if others else [])
    unsure = [item.method for item in race.contestants if item.verdict == "inside the spread"]
    once = any(item.verdict == "one seed only" for item in race.contestants)
    if unsure:
        return [
            "No method was better than AdamW by more than the spread of its seeds; "
            f"no difference can be shown for {', '.join(unsure)}. Then plain AdamW is the simple choice."
        ]
    if (once and len(race.seeds) < 2) or not any(len(c.losses) > 1 for c in race.contestants):
        return [
            "Everybody ran with one seed only, and seeds differ: this tells a rate for each method, but no winner."
        ]
    return ["AdamW was not beaten."]


def _conditions(race: Race) -> str:
    trials = max((item.trials for item in race.contestants), default=0)
    return (
        f"Everybody had {plural(trials, 'trial')} to find a rate, the same weights and batches at a seed, and "
        f"{format_ms(1000 * race.horizon_seconds)} of steps at its measured step time; what a method leaves alone "
        f"was trained by AdamW at {race.fallback_lr:.2g}, AdamW's own best rate."
    )
