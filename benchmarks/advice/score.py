"""How far a policy stays behind the best run of each task."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .methods import BASELINE
from .outcomes import Outcomes
from .policies import Policy
from .task_list import Half


@dataclass(frozen=True)
class Score:
    """A policy on one task.

    Attributes:
        regret: log(loss / lowest loss of any run of the task).
        behind_adamw: log(loss / loss of tuned AdamW): negative where it is better.
        cost: Training spent on runs that are not the result, in whole runs.
    """

    regret: float
    behind_adamw: float
    cost: float


@dataclass(frozen=True)
class Summary:
    """A policy on some tasks: means, median and worst of log regret, the worst against tuned AdamW, mean cost."""

    mean: float
    median: float
    worst: float
    worst_behind_adamw: float
    cost: float


def scores(policy: Policy, tasks: Sequence[Outcomes]) -> dict[str, Score]:
    """Return a policy's score on each task; of equally likely choices the mean."""
    found = {}
    for task in tasks:
        choices = policy.decide(task, [other for other in tasks if other is not task])
        baseline = task.tuned(BASELINE)
        usual = task.untrained if baseline is None else task.loss(baseline)
        found[task.task] = Score(
            regret=statistics.fmean(math.log(choice.loss / task.best) for choice in choices),
            behind_adamw=statistics.fmean(math.log(choice.loss / usual) for choice in choices),
            cost=statistics.fmean(choice.cost for choice in choices),
        )
    return found


def summary(found: Mapping[str, Score], tasks: Sequence[Outcomes], half: Half | None) -> Summary:
    """Return a policy's summary over the tasks of one half, or over all."""
    own = [found[task.task] for task in tasks if half in (None, task.half)]
    regrets = [score.regret for score in own]
    return Summary(
        mean=statistics.fmean(regrets),
        median=statistics.median(regrets),
        worst=max(regrets),
        worst_behind_adamw=max(score.behind_adamw for score in own),
        cost=statistics.fmean(score.cost for score in own),
    )
