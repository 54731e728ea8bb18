"""What the first part of a run tells: of a method's rates, and of methods each at its best rate."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .methods import SEARCHES
from .outcomes import Outcomes, Run
from .races import Design, race

Start = Callable[[str, str], float]


@dataclass(frozen=True)
class Told:
    """How well the order at a share of the run tells the order at its end.

    Attributes:
        right: In how many of the cases the best one then was the best at the end.
        regret: Mean of log(loss at the end of the best one then / lowest loss at the end).
        cases: How many cases there are.
    """

    right: float
    regret: float
    cases: int


def rates_told(tasks: Iterable[Outcomes], share: float) -> Told:
    """Return what a share tells of the rates of one method: a case is a task and a method."""
    groups = [
        (task, [run for run in task.rows if run[0] == method])
        for task in tasks
        for method in SEARCHES
    ]
    return _told(groups, share)


def methods_told(tasks: Iterable[Outcomes], share: float) -> Told:
    """Return what a share tells of methods, each at its best rate: a case is a task."""
    groups = []
    for task in tasks:
        best = (task.tuned(method) for method in SEARCHES)
        groups.append((task, [run for run in best if run is not None]))
    return _told(groups, share)


def rates_raced(tasks: Iterable[Outcomes], start: Start, design: Design) -> Told:
    """Return what a race tells of the rates of one method: a case is a task and a method that races alone.

    Choices that nobody has run are left out.

    Args:
        tasks: The runs.
        start: The rate to start from, of a method on a task.
        design: Of one method.
    """
    lost = []
    for task in tasks:
        for method in SEARCHES:
            best, asked = task.tuned(method), set(task.missing)
            run = race(task, [(method, start(method, task.task))], design).run
            task.missing &= asked  # what is wanted for a table is not asked for
            if best is not None and run in task.rows:
                lost.append(math.log(task.loss(run) / task.loss(best)))
    return _of(lost)


def _told(groups: Sequence[tuple[Outcomes, list[Run]]], share: float) -> Told:
    lost = []
    for task, runs in groups:
        if len(runs) > 1:
            then = min(runs, key=lambda run: task.at(run, share)[0])
            lowest = min(task.loss(run) for run in runs)
            lost.append(math.log(task.loss(then) / lowest))
    return _of(lost)


def _of(lost: Sequence[float]) -> Told:
    right = statistics.fmean(loss == 0 for loss in lost)
    return Told(right, statistics.fmean(lost), len(lost))
