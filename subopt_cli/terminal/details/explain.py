"""What one method's row rests on: each number with how it is known, what counts of it, and what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from subopt.optimizers import get_method

from ...findings.advice import words
from ...findings.answer import gain_cell, how_known, share_with_error, signed_share
from ...findings.evidence import evidence_type
from ...findings.rate import method_rate, rate_text
from ...text import facts, signed
from ...units import format_bytes

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Profile
    from subopt.recipes.prior.traits import Traits
    from subopt.recipes.ranking.row import Estimate, Row


def explanation(row: Row, profile: Profile, traits: Traits) -> RenderableType:
    """Return a method's numbers, each with its source, and what the ranking makes of them."""
    method = get_method(row.method)
    title = Text.assemble((row.method, "bold"), f": {method.summary}")
    pairs = [("from", f"{method.paper}, {method.section}"), ("gain", _gain(row))]
    if row.expected is not None:
        pairs += [("counted", _counted(estimate)) for estimate in row.expected.estimates]
    pairs += [(evidence_type(item), words(item)) for item in row.evidence]
    pairs.append(("exact", f"{format_bytes(row.cost.state_bytes)} of optimizer state"))
    pairs.append(("rate", rate_text(method_rate(profile, row.method, traits))))
    pairs += [("note", words(reason)) for reason in row.reasons]
    return Group(title, facts(pairs))


def _gain(row: Row) -> str:
    if row.is_baseline or row.expected is None:
        return gain_cell(row)
    return f"{gain_cell(row)} to expect in equal time ({how_known(row)})"


def _counted(estimate: Estimate) -> str:
    """What one type of evidence found and what the rule makes of it."""
    left = signed(estimate.expected, share_with_error(abs(estimate.expected), estimate.error))
    return (
        f"{estimate.evidence_type}: {signed_share(estimate.gain)} found, {left} left after doubts and time; "
        f"weight {estimate.weight:.3g}"
    )
