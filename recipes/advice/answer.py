"""What the advisor answers, as plain data: rows, the chosen one, the reasons, and what would help if nothing fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from subopt.errors import DoesNotFitError
from subopt.units import format_bytes

from ..plan.budget import Budget
from ..plan.solving import Solved
from ..prior.traits import Traits
from ..ranking.row import Objective, Row
from ..reason import Reason
from .reasons import ChosenRate

ChangeType = Literal["batch", "recompute", "fused backward", "method", "budget"]
Confidence = Literal["high", "medium", "low"]
Question = Literal["accumulate", "recompute", "fused_backward", "methods", "batch_size", "budget"]


class FittingChange(Reason):
    """Something that would make training fit: what is changed, what has to be asked differently, and the plan then.

    `options` differ from the profile's row, `batch_size` is the examples of one micro-batch, and `counts_activations`
    says whether the profile knows the activations, which are part of the peak.
    """

    kind: ChangeType
    question: Question
    method: str
    options: Mapping[str, Any]
    batch_size: int
    accumulate: int
    recompute: bool
    fused_backward: bool
    peak_bytes: int
    budget_bytes: int
    counts_activations: bool


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
        traits: The model and its run, as the priors know them.
        reasons: What a person should know of the answer, in reading order: what, why, how sure.
        changes: Where nothing fits, what would make it fit, the smallest change first.
        unavailable: Methods that cannot be used here, and what to install for them.
        plan: What the chosen row is for; None where nothing fits.
        plan_reasons: What of the plan was solved for; among `reasons` too.
        confidence: How sure the choice of the method is: `high` after a race that settles it with a clear lead, `low`
            where the promise is within its error or the start of training says little.
        rate: The chosen method's learning rate and where it comes from; None where nothing fits.
    """

    objective: Objective
    budget: Budget
    batch_size: int
    rows: tuple[Row, ...]
    chosen: Row | None
    traits: Traits
    reasons: tuple[Reason, ...]
    changes: tuple[FittingChange, ...] = ()
    unavailable: tuple[tuple[str, str], ...] = ()
    plan: Solved | None = None
    plan_reasons: tuple[Reason, ...] = ()
    confidence: Confidence = "low"
    rate: ChosenRate | None = None

    @property
    def exit_status(self) -> int:
        """0 where a method was chosen, 3 where nothing fits."""
        return 0 if self.chosen is not None else DoesNotFitError.exit_status

    def require_chosen(self, hint: str | None = None) -> tuple[Row, Solved]:
        """Return the chosen row and its plan.

        Args:
            hint: What the error says would help.

        Raises:
            DoesNotFitError: Nothing fits.
        """
        if self.chosen is not None and self.plan is not None:
            return self.chosen, self.plan
        smallest = min(self.rows, key=lambda row: row.peak.bytes)
        raise DoesNotFitError(
            f"nothing fits {format_bytes(self.budget.total_bytes)} "
            f"({format_bytes(self.budget.usable_bytes)} usable): {smallest.method} needs the least, "
            f"{format_bytes(smallest.peak.bytes)} in the {smallest.peak.phase} phase",
            hint,
        )
