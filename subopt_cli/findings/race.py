"""The few numbers a person takes from a race: mean losses, their spread, the curves to compare. Pure functions."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Contestant, CurvePoint, Race, Trial


def mean_loss(contestant: Contestant) -> float | None:
    """Return the mean over seeds of a method's final loss."""
    return statistics.fmean(contestant.losses) if contestant.losses else None


def loss_spread(contestant: Contestant) -> float | None:
    """Return the largest minus the smallest loss over seeds; None for one seed."""
    losses = contestant.losses
    return max(losses) - min(losses) if len(losses) > 1 else None


def tokens_per_s(contestant: Contestant) -> float | None:
    """Return the tokens of a run over its training time, evaluations not counted."""
    seconds = contestant.steps * contestant.step_ms / 1000
    return contestant.tokens / seconds if seconds else None


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


def lr_at_the_end(race: Race, contestant: Contestant) -> str | None:
    """Return `lowest` or `highest` where a method's best rate is that of all it tried; None where it is neither."""
    tried = {
        trial.lr
        for trial in race.trials
        if trial.method == contestant.method and trial.role == "search"
    }
    if not contestant.losses or len(tried) < 2:
        return None
    if contestant.lr == max(tried):
        return "highest"
    return "lowest" if contestant.lr == min(tried) else None
