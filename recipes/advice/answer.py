"""What the advisor answers, as plain data: rows, the chosen one, sentences, and what would help if nothing fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from subopt.errors import DoesNotFitError
from subopt.units import format_bytes

from ..mixed.record import Mixed
from ..plan.budget import Budget
from ..plan.solving import Solved
from ..ranking.row import Objective, Row

ChangeType = Literal["batch", "recompute", "fused backward", "method", "budget"]


@dataclass(frozen=True, slots=True)
class FittingChange:
    """Something that would make training fit.

    Attributes:
        kind: What is changed.
        method: The method it is worked out for.
        options: Options that differ from the profile's row.
        batch_size: Examples of one micro-batch after the change.
        accumulate: Micro-batches of one optimizer step after the change.
        peak_bytes: Predicted peak after the change.
        budget_bytes: The budget it needs.
        text: What to do, in one line.
    """

    kind: ChangeType
    method: str
    options: Mapping[str, Any]
    batch_size: int
    accumulate: int
    peak_bytes: int
    budget_bytes: int
    text: str


@dataclass(frozen=True, slots=True)
class Advice:
    """The advisor's answer.

    Attributes:
        objective: What was asked for.
        budget: The budget and its usable part.
        batch_size: Examples of one micro-batch as asked for, or of the chosen one's.
        rows: Every method, best first.
        chosen: The best of the rows that fit as asked. Where none does, the best of those that were made to fit with
            their own options changed the least, so a row above it may fit too, with leaner ones. None where none fits.
        sentences: The answer for a person: what, why, how sure.
        changes: Where nothing fits, what would make it fit, the smallest change first.
        unavailable: Methods that cannot be used here, and what to install for them.
        plan: What the chosen row is for; None where nothing fits.
        plan_sentences: What of the plan was solved for; among `sentences` too.
        mixed: The mix of methods that takes the chosen one's place, where one was asked for and fits.
    """

    objective: Objective
    budget: Budget
    batch_size: int
    rows: tuple[Row, ...]
    chosen: Row | None
    sentences: tuple[str, ...]
    changes: tuple[FittingChange, ...] = ()
    unavailable: tuple[tuple[str, str], ...] = ()
    plan: Solved | None = None
    plan_sentences: tuple[str, ...] = ()
    mixed: Mixed | None = None

    @property
    def exit_status(self) -> int:
        """0 where a method was chosen, 3 where nothing fits."""
        return 0 if self.chosen is not None else DoesNotFitError.exit_status

    def require_chosen(self) -> Row:
        """Return the chosen row.

        Raises:
            DoesNotFitError: Nothing fits; the hint is the smallest change that would.
        """
        if self.chosen is not None:
            return self.chosen
        raise self._nothing_fits()

    def require_plan(self) -> Solved:
        """Return the plan of the chosen row.

        Raises:
            DoesNotFitError: Nothing fits; the hint is the smallest change that would.
        """
        if self.plan is not None:
            return self.plan
        raise self._nothing_fits()

    def _nothing_fits(self) -> DoesNotFitError:
        smallest = min(self.rows, key=lambda row: row.peak.bytes)
        return DoesNotFitError(
            f"nothing fits {format_bytes(self.budget.total_bytes)} "
            f"({format_bytes(self.budget.usable_bytes)} usable): {smallest.method} needs the least, "
            f"{format_bytes(smallest.peak.bytes)} in the {smallest.peak.phase} phase",
            self.changes[0].text if self.changes else None,
        )
