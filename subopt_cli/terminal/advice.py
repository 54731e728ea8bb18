"""The advisor's answer: budget, ranked table, summary, and on request what every row rests on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from ..findings.advice import words
from ..findings.evidence import evidence_type
from ..text import DASH, facts, numbered, percent, plural, section, signed
from ..units import format_bytes
from .table import Columns, TerminalColumn, full_table, noted

if TYPE_CHECKING:
    from subopt.recipes.advice.answer import Advice
    from subopt.recipes.evidence.predicted import PredictedGain
    from subopt.recipes.evidence.published import Published
    from subopt.recipes.evidence.raced import RacedGain
    from subopt.recipes.prior.gains import PriorGain
    from subopt.recipes.ranking.row import Estimate, Row

_LEGEND = {
    "peak": "highest memory of a training step, with the phase that reaches it",
    "time": "of a training step, against one with AdamW",
    "gain expected": "share of AdamW's loss measure (perplexity of a language model, else loss or wrong answers) that "
    "the method should take away in equal time, and the type of evidence that weighs most in it",
    "raced, prior, predicted, published": "what each type says by itself: a race on this model after equal time; "
    "comparisons of such runs, the prediction from its gradients, and the papers' nearest comparison, after equally "
    "many steps. -: it says nothing",
    "peak is": "measured, simulated, or from a formula",
}


# Rows of the table where not all are asked for.
SHOWN = 12


def advice_report(
    advice: Advice, budget_line: str, *, explain: bool = False, everything: bool = False
) -> list[RenderableType]:
    """Return the sections of the answer, in reading order.

    Args:
        advice: The answer.
        budget_line: How the budget was read.
        explain: Whether to say for every row why it stands where it stands.
        everything: Whether to show every method, not the best ones alone.
    """
    shown = advice.rows if everything else shown_rows(advice)
    sizes = {row.peak.batch_size for row in advice.rows}
    what = (
        "each at a micro-batch of its own"
        if len(sizes) > 1
        else f"for batch size {advice.batch_size}"
    )
    title = f"Methods {what}, best first by {advice.objective}"
    parts: list[RenderableType] = [
        section("Memory", Text(budget_line)),
        section(title, advice_table(shown, advice)),
    ]
    if explain:
        parts += [explanation(row) for row in shown]
    parts.append(section("How to read this", facts(_LEGEND.items())))
    if advice.changes:
        changes = [words(change) for change in advice.changes]
        parts.append(
            section("What would make it fit, the smallest change first", numbered(changes))
        )
    parts.append(section("In short", numbered([words(reason) for reason in advice.reasons])))
    return parts


def shown_rows(advice: Advice) -> tuple[Row, ...]:
    """Return the best rows, and of the others those that no answer can do without: the choice and plain AdamW."""
    return tuple(
        row
        for number, row in enumerate(advice.rows)
        if number < SHOWN or row is advice.chosen or row.is_baseline
    )


def advice_table(shown: Sequence[Row], advice: Advice) -> RenderableType:
    """Return rows of the ranked table, the chosen one marked, and how many are not among them."""
    columns: Columns[Row] = (
        TerminalColumn(
            "method",
            is_text=True,
            cell=lambda row: f"{'>' if row is advice.chosen else ' '} {row.method}",
        ),
        TerminalColumn("fits", priority=1, is_text=True, cell=lambda row: row.fit.name.lower()),
        TerminalColumn("peak", cell=lambda row: format_bytes(row.peak.bytes)),
        TerminalColumn("set by", priority=8, is_text=True, cell=lambda row: row.peak.phase),
        TerminalColumn("headroom", 7, cell=lambda row: _signed_bytes(row.headroom_bytes)),
        TerminalColumn("time", priority=2, cell=_time),
        TerminalColumn("gain\nexpected", priority=1, cell=_gain),
        TerminalColumn("decided\nby", priority=3, is_text=True, cell=_decided_by),
        TerminalColumn("peak is", priority=6, is_text=True, cell=lambda row: row.peak.source),
    )
    # A type of evidence that says nothing about any of them takes no room.
    said = [
        column for column in _EVIDENCE_COLUMNS if any(column.cell(row) != DASH for row in shown)
    ]
    styles = ["bold green" if row is advice.chosen else "" for row in shown]
    table = full_table([*columns, *said], shown, styles)
    hidden = len(advice.rows) - len(shown)
    return noted(
        table, f"... and {plural(hidden, 'method')} below these: --all" if hidden else None
    )


def _time(row: Row) -> str:
    return _signed_share(row.overhead.share if row.overhead else None)


def _gain(row: Row) -> str:
    if row.is_baseline:
        return "0%"
    return _signed_share(row.expected.gain if row.expected else None)


def _decided_by(row: Row) -> str:
    return row.expected.decided_by if row.expected else DASH


def _evidence_gain(evidence: RacedGain | PriorGain | PredictedGain | Published | None) -> str:
    return _signed_share(evidence.gain if evidence else None)


_EVIDENCE_COLUMNS: Columns[Row] = (
    TerminalColumn("raced", priority=4, cell=lambda row: _evidence_gain(row.raced)),
    TerminalColumn("prior", priority=4, cell=lambda row: _evidence_gain(row.prior)),
    TerminalColumn("predicted", priority=5, cell=lambda row: _evidence_gain(row.predicted)),
    TerminalColumn("published", priority=5, cell=lambda row: _evidence_gain(row.published)),
)


def _signed_bytes(count: int) -> str:
    return f"-{format_bytes(-count)}" if count < 0 else format_bytes(count)


def _signed_share(share: float | None) -> str:
    if share is None:
        return DASH
    if abs(share) < 0.0005:
        return "0%"
    return signed(share, percent(abs(share)))


def explanation(row: Row) -> RenderableType:
    """Return why a method stands where it stands: what was found, what of it counts, and the evidence itself."""
    pairs = [("why", words(reason)) for reason in row.reasons]
    if row.expected is not None:
        pairs += [("counted", _counted(estimate)) for estimate in row.expected.estimates]
    pairs += [(evidence_type(item), words(item)) for item in row.evidence]
    return Group(Text(row.method, style="bold"), facts(pairs))


def _counted(estimate: Estimate) -> str:
    """What one type of evidence found and what the rule makes of it."""
    found, left = _signed_share(estimate.gain), _signed_share(estimate.expected)
    error = percent(estimate.error)
    return (
        f"{estimate.evidence_type}: {found} found, {left} left after doubts and time; "
        f"weight {estimate.weight:.3g}, error {error}"
    )
