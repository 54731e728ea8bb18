"""What the runs of a task came to, as a policy may ask for it."""

import bisect
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from .rows import Row, loss_of
from .task_list import TASKS, Half

# A run's first steps tell nothing of a rate, as in a race.
LEAST_STEPS = 10

Run = tuple[str, float]  # method, rate


@dataclass(frozen=True)
class Choice:
    """What a policy ends with: a run, its loss, and the training that was spent on others, in whole runs."""

    run: Run
    loss: float
    cost: float = 0.0


@dataclass
class Outcomes:
    """The runs of one task with the first seed.

    Attributes:
        task: Its name.
        rows: The row of each run.
        as_written: The row of the recipe that `subopt recommend` wrote, or None where it was not trained.
        missing: What was asked for and nobody has run; such a run counts as one that learned nothing.
    """

    task: str
    rows: dict[Run, Row]
    as_written: Row | None = None
    missing: set[Run] = field(default_factory=set)

    @property
    def half(self) -> Half:
        """The half that the task is in."""
        return TASKS[self.task].half

    @cached_property
    def best(self) -> float:
        """The lowest loss of all runs."""
        recipe = [] if self.as_written is None else [self.as_written]
        return min(map(loss_of, [*self.rows.values(), *recipe]))

    @property
    def untrained(self) -> float:
        """The loss before the first step."""
        return float(next(iter(self.rows.values()))["first_loss"])

    def loss(self, run: Run) -> float:
        """Return the loss at the end; the untrained one where the run diverged."""
        return self._end(self._row(run))

    def choice(self, run: Run, cost: float = 0.0) -> Choice:
        """Return a run as what a policy ends with."""
        return Choice(run, self.loss(run), cost)

    def recipe(self) -> Choice:
        """Return the recipe that `subopt recommend` wrote as what a policy ends with."""
        row = self.as_written
        run = ("", 0.0) if row is None else (row["method"], row["lr"])
        return Choice(run, self._end(row))

    def at(self, run: Run, share: float) -> tuple[float, float]:
        """Return the held-out loss at a share of the run, infinite after it diverged, and the share it is of.

        The share is the next one that was evaluated, and no fewer than 10 steps.
        """
        row = self._row(run)
        if row is None:
            return math.inf, share
        wanted = max(share, LEAST_STEPS / row["steps"])
        shares = [point[0] for point in row["curve"]]
        place = bisect.bisect_left(shares, wanted - 1e-9)
        return (row["curve"][place][1], shares[place]) if place < len(shares) else (math.inf, share)

    def tuned(self, method: str) -> Run | None:
        """Return a method's best run; None where it has none that did not diverge."""
        own = [run for run in self.rows if run[0] == method]
        best = min(own, key=lambda run: loss_of(self.rows[run]), default=None)
        return best if best is not None and math.isfinite(loss_of(self.rows[best])) else None

    def _end(self, row: Row | None) -> float:
        loss = math.inf if row is None else loss_of(row)
        return loss if math.isfinite(loss) else self.untrained

    def _row(self, run: Run) -> Row | None:
        if run not in self.rows:
            self.missing.add(run)
        return self.rows.get(run)


def outcomes(rows: Iterable[Row], as_written: Iterable[Row] = ()) -> list[Outcomes]:
    """Return the outcomes of the tasks that have runs, in the order of the task list.

    Args:
        rows: The runs of the search.
        as_written: Runs of recommended recipes; a task's last one counts.
    """
    recipes = {row["task"]: row for row in as_written}
    found: dict[str, dict[Run, Row]] = {name: {} for name in TASKS}
    for row in rows:
        if row["seed"] == 0:
            found[row["task"]][row["method"], row["lr"]] = row
    return [Outcomes(name, own, recipes.get(name)) for name, own in found.items() if own]
