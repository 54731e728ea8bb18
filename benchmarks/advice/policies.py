"""What one could do without knowing how the runs end."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from .designs import CHOSEN
from .methods import BASELINE, SEARCHES, next_rate
from .outcomes import Choice, Outcomes, Run
from .prior import entrants_of, portfolio_of
from .races import Design, race
from .rows import loss_of
from .task_list import start_of

# A task, and all the others, to the choices that are equally likely.
Decide = Callable[[Outcomes, Sequence[Outcomes]], list[Choice]]


@dataclass(frozen=True)
class Policy:
    """A way to choose a method and a rate."""

    name: str
    decide: Decide


def tuned(method: str, task: Outcomes, others: Sequence[Outcomes]) -> list[Choice]:
    """Take one method at its best rate, found by whole runs."""
    run = task.tuned(method) or (method, start_of(method, task.task))
    losses: dict[float, float] = {}
    while (lr := next_rate(losses, start_of(method, task.task))) is not None:
        if (method, lr) not in task.rows:
            break
        losses[lr] = loss_of(task.rows[method, lr])
    return [task.choice(run, max(len(losses) - 1.0, 0.0))]


def constant(run: Run, task: Outcomes, others: Sequence[Outcomes]) -> list[Choice]:
    """Take one method at one rate, whatever the task."""
    return [task.choice(run)]


def best_constant_method(task: Outcomes, others: Sequence[Outcomes]) -> list[Choice]:
    """Take, tuned, the method that is best on all the other tasks when tuned."""

    def elsewhere(method: str) -> float:
        return statistics.fmean(_tuned_regret(method, other) for other in others)

    return tuned(min(SEARCHES, key=elsewhere), task, others)


def best_constant_rate(task: Outcomes, others: Sequence[Outcomes]) -> list[Choice]:
    """Take the method and rate that are best on all the other tasks."""
    common = sorted(set.intersection(*(set(other.rows) for other in (*others, task))))
    if not common:
        return constant((BASELINE, SEARCHES[BASELINE].start), task, others)
    best = min(common, key=lambda run: statistics.fmean(regret(other, run) for other in others))
    return constant(best, task, others)


def random_method(task: Outcomes, others: Sequence[Outcomes]) -> list[Choice]:
    """Take any method at its prior rate."""
    return [task.choice(run) for run in portfolio_of(task.task)]


def as_written(task: Outcomes, others: Sequence[Outcomes]) -> list[Choice]:
    """Take the recipe that `subopt recommend` writes from a quick profile."""
    return [task.recipe()]


def as_searched(task: Outcomes, others: Sequence[Outcomes]) -> list[Choice]:
    """Take the recommended method and rate, with what the method leaves alone as in the runs of the search."""
    return [task.choice(task.recipe().run)]


def prior_alone(task: Outcomes, others: Sequence[Outcomes]) -> list[Choice]:
    """Take the first method of the prior at its prior rate."""
    return [task.choice(portfolio_of(task.task)[0])]


def raced(design: Design, task: Outcomes, others: Sequence[Outcomes]) -> list[Choice]:
    """Take what a race chooses that starts with the recommended method, then AdamW, then the prior's others."""
    return [race(task, entrants_of(task.task, task.recipe().run[0]), design)]


def policies() -> list[Policy]:
    """Return all policies, in the order of the report."""
    return [
        *(Policy(f"always {method}, tuned", partial(tuned, method)) for method in SEARCHES),
        Policy("best method of the other tasks, tuned", best_constant_method),
        Policy("soap at 0.01", partial(constant, ("soap", 0.01))),
        Policy("best method and rate of the other tasks", best_constant_rate),
        Policy("any method at its prior rate", random_method),
        Policy("prior alone", prior_alone),
        Policy("recommend, as written", as_written),
        Policy("recommend, embeddings and the rest at the method's own rate", as_searched),
        *(raced_policy(f"race: {name}", design) for name, design in CHOSEN.items()),
    ]


def raced_policy(name: str, design: Design) -> Policy:
    """Return a design of a race as a policy."""
    return Policy(name, partial(raced, design))


def regret(task: Outcomes, run: Run) -> float:
    """Return log(loss / lowest loss of any run of the task)."""
    return math.log(task.loss(run) / task.best)


def _tuned_regret(method: str, task: Outcomes) -> float:
    return regret(task, task.tuned(method) or (method, SEARCHES[method].start))
