"""What a race may cost, and the design that this buys."""

from __future__ import annotations

import math
from dataclasses import dataclass

from subopt.errors import UsageError

from .design import Design, design_for, least_cost_runs

# Of the minutes, for what a plan cannot know: building models, saving, evaluating.
_USABLE_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class RaceBudget:
    """What a race may cost: a share of one run, taken by the candidates that do not win; or minutes in all.

    `least_methods`: of a share that nobody asked for; so many methods take part, and it grows to what they take.
    """

    share: float | None = None
    minutes: float | None = None
    least_methods: int | None = None

    def __post_init__(self) -> None:
        given = self.minutes if self.share is None else self.share
        if given is None or not (math.isfinite(given) and 0 < given <= 1e6):
            raise UsageError(
                "a race needs a budget above 0", "give --share 10% of the run, or --minutes 20"
            )


def design_within(
    budget: RaceBudget,
    steps: int,
    run_s: float,
    spent_s: float,
    most_methods: int,
    fixed_methods: int | None,
) -> Design:
    """Return what the budget buys.

    Raises:
        UsageError: It buys nothing.
    """
    share, with_winner = budget.share, budget.share is None  # minutes are for all of it
    if share is None:
        share = (60 * (budget.minutes or 0.0) * _USABLE_SHARE - spent_s) / run_s
    if budget.least_methods is not None:
        fixed_methods = fixed_methods or min(budget.least_methods, most_methods)
        share = max(share, least_cost_runs(fixed_methods, steps=steps))
    design = design_for(
        share,
        steps=steps,
        most_methods=most_methods,
        fixed_methods=fixed_methods,
        with_winner=with_winner,
    )
    if design is not None:
        return design
    least = least_cost_runs(fixed_methods or 1, steps=steps, with_winner=with_winner)
    what = "one method's rates" if fixed_methods in {None, 1} else f"{fixed_methods} methods"
    takes = f"a race of {what} takes {least:.0%} of a run"
    if with_winner:
        needed = (least * run_s + spent_s) / 60 / _USABLE_SHARE
        raise UsageError(
            f"{budget.minutes:g} minutes are too few: {takes}, and a run {run_s / 60:.3g} minutes",
            f"give --minutes {math.ceil(10 * needed) / 10:g}; or train the recipe at the rate it has",
        )
    raise UsageError(
        f"{budget.share:.2%} of a run is too little: {takes}",
        f"give --share {math.ceil(100 * least)}%; or train the recipe at the rate it has",
    )
