"""Successive halving on the curves of runs: what a race of some design would have chosen, and for how much."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .methods import neighbour
from .outcomes import Choice, Outcomes, Run

Rung = tuple[float, int]  # share of the run, how many go on


@dataclass(frozen=True)
class Design:
    """How a race is run.

    Attributes:
        methods: How many take part, from the front of the portfolio.
        rate_rungs: Where the rates of one method are compared with each other.
        method_rungs: Where what is left of all methods is compared.
        moves: How many more rates each method may try further out, while its best is the lowest or the highest at the
            first rung.
        offsets: The rates that each begins with, in half decades from its prior.
        lowered: Half decades below what the rate rungs chose that goes on: what leads early, within the warm-up, is too
            high for the whole run.
    """

    methods: int
    rate_rungs: tuple[Rung, ...]
    method_rungs: tuple[Rung, ...] = ()
    moves: int = 2
    offsets: tuple[int, ...] = (-1, 0, 1)
    lowered: int = 0


def race(task: Outcomes, portfolio: Sequence[Run], design: Design) -> Choice:
    """Return what a race chooses.

    Args:
        task: The curves.
        portfolio: Methods, each at the rate to start from; best first.
        design: How it is run.
    """
    reached: dict[Run, float] = {}
    going: list[Run] = []
    for start in portfolio[: design.methods]:
        kept = _halved(task, _started(task, start, design, reached), design.rate_rungs, reached)
        going += [(method, neighbour(lr, -design.lowered)) for method, lr in kept]
    going = _halved(task, going, design.method_rungs, reached) or list(portfolio[:1])
    winner = going[0]
    return task.choice(winner, sum(reached.values()) - reached.get(winner, 0.0))


def _started(task: Outcomes, start: Run, design: Design, reached: dict[Run, float]) -> list[Run]:
    method, lr = start
    share = design.rate_rungs[0][0]
    runs = [(method, neighbour(lr, offset)) for offset in design.offsets]
    for _ in range(design.moves):
        losses = {run: _look(task, run, share, reached) for run in runs}
        best = min(runs, key=lambda run: (losses[run], run[1]))
        rates = [rate for _, rate in runs]
        outwards = (best[1] == max(rates)) - (best[1] == min(rates))
        if not outwards:
            break
        runs.append((method, neighbour(best[1], outwards)))
    return runs


def _halved(
    task: Outcomes, runs: list[Run], rungs: Sequence[Rung], reached: dict[Run, float]
) -> list[Run]:
    for share, keep in rungs:
        losses = {run: _look(task, run, share, reached) for run in runs}
        finite = [run for run in runs if math.isfinite(losses[run])]
        runs = sorted(finite, key=lambda run: losses[run])[:keep]
    return runs


def _look(task: Outcomes, run: Run, share: float, reached: dict[Run, float]) -> float:
    """Return a run's loss at a share, and note how far it had to be trained for that."""
    loss, trained = task.at(run, share)
    reached[run] = max(reached.get(run, 0.0), trained)
    return loss
