"""What a race does for its budget: how many methods, how many rates of each, and where the worse ones stop."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from pydantic import Field, model_validator
from typing_extensions import Self

from subopt.profilers.record.base import Record

# A run's first steps tell nothing of a rate, however short the run is.
LEAST_STEPS = 10
# Of a run, as recipes have it.
WARM_UP_SHARE = 0.1
# Rungs nearer to each other than this tell the same.
_APART = 1.5
# So many halvings end with one, whatever they begin with.
MOST_RUNGS = 16


class Rung(Record):
    """A point of the run, as a share of it, where only the best `keep` go on."""

    share: Annotated[float, Field(gt=0, le=1)]
    keep: Annotated[int, Field(ge=1)]


class Design(Record):
    """How a race is run.

    Attributes:
        methods: How many take part.
        rates: Learning rates that each begins with, half a decade apart around the one to start from; where what is
            best will be lowered, that one and the next higher ones.
        moves: How many more each may try further out, while its best is the lowest or the highest.
        rate_rungs: Where the rates of one method are compared with each other.
        lowers: Whether half a decade below what was best goes on: within the warm-up a rate looks best that is too high
            for the whole run.
        method_rungs: Where what is left of all methods is compared.
    """

    methods: Annotated[int, Field(ge=1, le=1000)]
    rates: Annotated[int, Field(ge=1, le=20)]
    moves: Annotated[int, Field(ge=0, le=20)]
    rate_rungs: Annotated[tuple[Rung, ...], Field(min_length=1, max_length=MOST_RUNGS)]
    lowers: bool = False
    method_rungs: Annotated[tuple[Rung, ...], Field(max_length=MOST_RUNGS)] = ()

    @model_validator(mode="after")
    def _rungs_climb(self) -> Self:
        for rungs in (self.rate_rungs, self.method_rungs):
            if any(low.share >= high.share for low, high in pairwise(rungs)):
                raise ValueError("each rung must lie behind the one before")
        if self.method_rungs and self.method_rungs[0].share < self.rate_rungs[-1].share:
            raise ValueError("methods are compared after their rates")
        return self

    @property
    def cost_runs(self) -> float:
        """The most that candidates which do not win can take, in whole runs: the winner's own part is the run."""
        cost, going = 0.0, self.rates + self.moves
        for rung in self.rate_rungs:
            kept = min(rung.keep, going)
            cost += self.methods * (going - kept) * rung.share
            going = kept
        if self.lowers:  # what goes on may be runs that nobody has begun
            cost += self.methods * going * self.rate_rungs[-1].share
        going *= self.methods
        for rung in self.method_rungs:
            kept = min(rung.keep, going)
            cost += (going - kept) * rung.share
            going = kept
        return cost

    def over(self, steps: int) -> Design:
        """Return the same for runs of so many steps: no rung before `LEAST_STEPS`, and no two close together.

        What is raised behind the warm-up is lowered no more.
        """
        least = min(LEAST_STEPS / steps, 1.0)
        rate_rungs = _raised(self.rate_rungs, least)
        changes = {
            "rate_rungs": rate_rungs,
            "lowers": self.lowers and rate_rungs[-1].share < WARM_UP_SHARE,
            "method_rungs": _raised(self.method_rungs, least),
        }
        return self.model_copy(update=changes)

    @property
    def decided_at(self) -> float:
        """The share of the run after which one candidate is left."""
        return (self.rate_rungs + self.method_rungs)[-1].share


def _raised(rungs: Sequence[Rung], least: float) -> tuple[Rung, ...]:
    raised: list[Rung] = []
    for rung in rungs:
        share = max(rung.share, least)
        if raised and share < _APART * raised[-1].share:
            raised.pop()  # of two at one place the later one stays, which keeps fewer
        raised.append(rung.model_copy(update={"share": share}))
    return tuple(raised)


# Rates of one method can be told apart in the first per cents of a run, where the best looks half a decade too high,
# and well at 30 %; methods not before that: earlier, those that learn quickly at first look best. Chosen on the dev
# half of the advice benchmark, for a tenth of a run, half a run, and one and a half runs. See docs/race.md.
_EARLY = (Rung(share=0.02, keep=1),)
_BEHIND_THE_WARM_UP = (Rung(share=0.10, keep=2),)
_LATE = (Rung(share=0.30, keep=1),)


def designs(methods: int) -> tuple[Design, ...]:
    """Return the designs for so many methods, the cheapest first."""
    early = _LATE if methods > 1 else ()
    return (
        Design(
            methods=methods, rates=3, moves=0, rate_rungs=_EARLY, lowers=True, method_rungs=early
        ),
        Design(
            methods=methods, rates=3, moves=1, rate_rungs=_BEHIND_THE_WARM_UP, method_rungs=_LATE
        ),
    )


def usual_designs(most_methods: int) -> tuple[Design, ...]:
    """Return the designs that budgets buy where nobody names methods, the cheapest first: rates come first."""
    careful = (designs(count)[-1] for count in range(1, min(most_methods, USUAL_METHODS) + 1))
    return (designs(1)[0], *careful)


# So many methods race where nobody names others: more of them, each with less of the budget, chose no better.
USUAL_METHODS = 2


def design_for(
    share: float,
    *,
    steps: int,
    most_methods: int,
    fixed_methods: int | None = None,
    with_winner: bool = False,
) -> Design | None:
    """Return the best design within a share of a run; None where that is too small for any.

    Args:
        share: The budget, in whole runs.
        steps: The steps of a whole run.
        most_methods: How many methods could take part.
        fixed_methods: How many have to; None leaves it to the budget.
        with_winner: Whether the winner's part, up to the decision, counts too.
    """
    known = designs(fixed_methods) if fixed_methods else usual_designs(most_methods)
    every = [design.over(steps) for design in known]
    within = [one for one in every if _cost(one, with_winner=with_winner) <= share * (1 + 1e-9)]
    return within[-1] if within else None


def least_cost_runs(methods: int, *, steps: int, with_winner: bool = False) -> float:
    """Return what the cheapest race of so many methods takes, in whole runs of so many steps."""
    every = (design.over(steps) for design in designs(methods))
    return min(_cost(design, with_winner=with_winner) for design in every)


def _cost(design: Design, *, with_winner: bool) -> float:
    return design.cost_runs + (design.decided_at if with_winner else 0.0)


def rung_step(share: float, steps: int) -> int:
    """Return the step at which a run of so many steps comes to a rung."""
    return min(steps, max(round(share * steps), LEAST_STEPS))
